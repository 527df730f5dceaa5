import operator
from functools import reduce
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import train.models
from train.model.backbones.table import BACKBONES
from train.model.cost import Cost, cost_of
from train.model.presets import PRESETS
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.models import config_of, main


def cost(preset, backbone, *, form="causal", num_segments=8, side_px=224, num_classes=174):
    config = config_of(preset, backbone, form=form, num_classes=num_classes)
    return cost_of(config, num_segments=num_segments, height_px=side_px, width_px=side_px)


# ---- published numbers


@pytest.mark.parametrize("preset", ["tsn", "tsm", "tdrl"])
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_a_resnet50_of_8_frames_costs_the_papers_33_gmacs(preset, form):
    found = cost(preset, "resnet50", form=form)
    assert found.clip_macs / 1e9 == pytest.approx(33, abs=0.5)
    assert (found.step_macs is None) == (form == "lookahead")


def test_16_frames_cost_the_papers_66_gmacs():
    assert cost("tdrl", "resnet50", num_segments=16).clip_macs / 1e9 == pytest.approx(66, abs=1)


@pytest.mark.parametrize(
    ("backbone", "gmacs"),
    # torchvision's table of models; the reference implementation's for the last
    [
        ("resnet18", 1.814),
        ("resnet34", 3.664),
        ("resnet50", 4.089),
        ("resnet101", 7.801),
        ("efficientnet_lite0", 0.386),
    ],
)
def test_a_plain_step_costs_what_was_published_for_a_picture(backbone, gmacs):
    found = cost("tsn", backbone, num_segments=1, num_classes=1000)
    assert found.step_macs is not None
    assert found.step_macs / 1e9 == pytest.approx(gmacs, rel=0.003)
    assert found.clip_macs == found.step_macs


# ---- counted by hand


def test_pems_share_is_its_three_products():
    def macs(unit):
        config = ModelConfig(backbone="tiny", num_classes=3, unit=unit)
        found = cost_of(config, num_segments=4, height_px=48, width_px=48)
        return found.clip_macs, found.step_macs or 0, found.state_size

    tsm, tdrl = macs(UnitConfig(pem=False)), macs(UnitConfig())
    # blocks see 16, 16, 32, 64 channels; 8 numbers of motion: f1 and f2, W_g, W_a
    share = sum(16 * channels + 16 * 8 + 8 * channels for channels in (16, 16, 32, 64))
    assert (tdrl[0] - tsm[0], tdrl[1] - tsm[1]) == (4 * share, share)
    assert (tsm[2], tdrl[2]) == (2 * 24**2 * 2 + 4 * 12**2 + 8 * 6**2, tsm[2] + 4 * 2 * 8)


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_parameters_are_counted_with_the_classifiers(backbone):
    config = ModelConfig(backbone=backbone, num_classes=7, unit=UnitConfig())
    found = cost_of(config, num_segments=1, height_px=32, width_px=32)
    assert found.parameters == sum(p.numel() for p in Tdrl(config).parameters())


def test_what_looks_ahead_has_no_step_and_no_state():
    found = cost("tdrl", "tiny", form="lookahead", side_px=32)
    assert (found.step_macs, found.state_size) == (None, None)
    assert found.clip_macs == cost("tdrl", "tiny", side_px=32).clip_macs


# ---- what TDRL adds to TSM


# they look at tensors from another side, copy them or make them: no arithmetic
STILL = (
    "_to_copy", "_unsafe_view", "cat", "clone", "detach", "empty", "expand", "full", "new_zeros",
    "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose",
    "unsqueeze", "view", "zeros", "zeros_like", "ones_like",
)  # fmt: skip


class Operations(TorchDispatchMode):
    """Every operation: two a multiplication with addition, and one a number everywhere else.

    A reduction counts the numbers it reads, anything else those it writes; copies are free, and
    so are batch norms' four steps a number counted as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet.__name__ not in STILL:
            tensors = [a for a in (*args, out) if isinstance(a, torch.Tensor)]
            self.total += max((reduce(operator.mul, t.shape, 1) for t in tensors), default=0)
        return out


def operations_of_a_step(preset, backbone, side_px):
    with torch.device("meta"), torch.no_grad():
        model = Tdrl(config_of(preset, backbone, form="causal", num_classes=174)).eval()
        state = model.zero_state(1, side_px, side_px)
        frame = torch.empty(1, 3, side_px, side_px)
        with Operations() as counter:
            model.step(frame, state)
    return counter.total


@pytest.mark.parametrize(
    ("backbone", "side_px"), [*((backbone, 224) for backbone in BACKBONES), ("tiny", 48)]
)
def test_causal_tdrl_costs_at_most_5_percent_more_than_tsm(backbone, side_px):
    """In products, as papers count, and in all arithmetic: pooling, gates and sigmoids too."""
    tsm, tdrl = (cost(preset, backbone, side_px=side_px) for preset in ("tsm", "tdrl"))
    assert tsm.step_macs is not None
    assert tdrl.step_macs is not None
    assert tsm.step_macs < tdrl.step_macs <= 1.05 * tsm.step_macs
    assert tsm.clip_macs < tdrl.clip_macs <= 1.05 * tsm.clip_macs
    fewer, more = (operations_of_a_step(preset, backbone, side_px) for preset in ("tsm", "tdrl"))
    assert fewer > 2 * tsm.step_macs
    assert more - fewer > 2 * (tdrl.step_macs - tsm.step_macs), "gates are counted"
    assert more <= 1.05 * fewer


def test_the_count_of_all_arithmetic_is_right_for_one_gate():
    x, weight = torch.ones(1, 6, 4, 4), torch.ones(6, 6)
    with Operations() as counter:
        gate = torch.sigmoid(x.mean((2, 3)) @ weight)
        x * gate[:, :, None, None]
    assert counter.total == 96 + 2 * 36 + 6 + 96


# ---- the command


def test_every_preset_of_every_backbone_is_printed(capsys, monkeypatch):
    # the count itself is proven above
    monkeypatch.setattr(train.models, "cost_of", lambda *_, **__: Cost(1, 2, 3, 4))
    main([])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:-1]] == [
        [backbone, preset] for backbone in BACKBONES for preset in PRESETS
    ]
    assert "train" in lines[-1][-2]


def test_the_command_prints_33_gmacs_for_the_papers_model(capsys):
    main(["--backbone", "resnet50", "--preset", "tdrl"])
    header, row, last = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "backbone", "preset", "parameters", "GMACs/clip", "GMACs/step", "state", "numbers"
    ]  # fmt: skip
    assert row.split() == ["resnet50", "tdrl", "26.99", "M", "32.72", "4.09", "704,112"]
    assert last.startswith("causal, 8 frames of 224×224, 174 classes")


def test_the_command_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="--size must be >= 1, got 0"):
        main(["--size", "0"])
