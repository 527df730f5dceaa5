from dataclasses import replace

import pytest
import torch

from tests.train.models import (
    NUM_CLASSES,
    UNITS,
    assert_equal,
    enliven,
    lively_model,
    pictures,
    unrolled,
)
from train.model.backbones.table import BACKBONES
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import Pass, UnitConfig

CAUSAL = UNITS["pem-tsm"]
LOOKAHEAD = UnitConfig(form="lookahead", start_motion="last_difference")


def small_model(**options):
    torch.manual_seed(0)
    return Tdrl(ModelConfig(**{"backbone": "tiny", "num_classes": NUM_CLASSES, **options})).eval()


# ---- precision and rows (the first law is in test_first_law.py)


def test_under_autocast_a_carried_state_still_trains():
    """As on a GPU: features in bfloat16, PEM's vectors in float32, taps with gradients."""
    model = small_model(unit=CAUSAL).train()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            _, earlier = model.run_clip(pictures(2, 3))
            state = model.pack_state(earlier.states_out)
        logits, run = model.run_clip(pictures(2, 4, seed=1), state)
        taps = [tap.unflatten(0, (2, 4)) for tap in run.taps]
        diversity = torch.stack([temporal_diversity_loss(tap) for tap in taps]).sum()
    assert [tensor.dtype for tensor in state] == [torch.float32] + 4 * [torch.bfloat16]
    assert diversity.dtype == torch.float32
    (logits.float().mean() + diversity).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_rows_of_a_batch_do_not_meet():
    model = lively_model("tiny", CAUSAL)
    clip = pictures(3, 4)
    together, _ = unrolled(model, clip)
    for row in range(3):
        assert_equal(together[row : row + 1], model(clip[row : row + 1]), relative=2e-5)


# ---- state


def test_state_shapes_are_declared_once():
    model = lively_model("tiny", CAUSAL)
    # blocks see 16, 16, 32, 64 channels at 16, 16, 8, 4 px; PEM's vectors have 2·8 numbers each
    declared = [(64,), (2, 16, 16), (2, 16, 16), (4, 8, 8), (8, 4, 4)]
    assert [tuple(t.shape) for t in model.zero_state(3, 32, 32)] == [(3, *s) for s in declared]
    _, state = model.step(pictures(2, 1)[:, 0])
    assert [tuple(t.shape) for t in state] == [(2, *shape) for shape in declared]
    _, run = model.run_clip(pictures(2, 3))
    packed = model.pack_state(run.states_out)
    assert [tuple(t.shape) for t in packed] == [(2, *shape) for shape in declared]


@pytest.mark.parametrize(("unit", "count"), [("plain", 0), ("tsm", 4), ("pem", 1), ("tsm-pem", 5)])
@torch.no_grad()
def test_zero_state_is_a_streams_start(unit, count):
    model = lively_model("tiny", UNITS[unit])
    zeros = model.zero_state(2, 32, 32)
    assert len(zeros) == count
    assert not any(tensor.any() for tensor in zeros)
    frame = pictures(2, 1)[:, 0]
    assert torch.equal(model.step(frame, zeros)[0], model.step(frame)[0])


def test_zero_state_leaves_the_model_as_it_was():
    model = small_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.zero_state(1, 32, 48)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_packing_is_undone_by_unpacking():
    model = lively_model("tiny", CAUSAL)
    state = [torch.randn_like(tensor) for tensor in model.zero_state(2, 32, 32)]
    again = model.pack_state(model.unpack_state(state))
    assert all(torch.equal(a, b) for a, b in zip(again, state, strict=True))


def test_a_state_of_another_model_is_refused():
    frame = pictures(1, 1)[:, 0]
    _, state = lively_model("tiny", CAUSAL).step(frame)
    with pytest.raises(ValueError, match="state must hold 5 tensors, got 4"):
        lively_model("tiny", CAUSAL).step(frame, state[1:])
    with pytest.raises(ValueError, match="state must hold 0 tensors, got 5"):
        lively_model("tiny", UNITS["plain"]).run_clip(frame[:, None], state)


# ---- doubling


@pytest.mark.parametrize("form", ["causal", "lookahead"])
@pytest.mark.parametrize("pem_first", [True, False])
@torch.no_grad()
def test_a_tdrl_without_temporal_module_is_the_plain_backbone(form, pem_first):
    plain = small_model(unit=UNITS["plain"])
    enliven(plain)
    unit = UnitConfig(temporal="none", form=form, pem_first=pem_first)
    fresh = small_model(unit=unit)
    fresh.load_state_dict(plain.state_dict(), strict=False)
    clip = pictures(2, 4)
    gated_only = fresh(clip)
    fresh.double_gated_convolutions()
    assert_equal(fresh(clip), plain(clip), relative=1e-5)
    assert not torch.allclose(gated_only, plain(clip), rtol=0.05), "gates of 0.5 alone do harm"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("form", ["causal", "lookahead"])
@torch.no_grad()
def test_a_fresh_tdrl_is_the_plain_backbone_from_scratch_too(backbone, form):
    """As built: halved again, its weights are those of a plain net with the same logits."""
    unit = UnitConfig(temporal="none", form=form)
    fresh = small_model(backbone=backbone, unit=unit)
    plain = small_model(backbone=backbone, unit=UNITS["plain"])
    plain.load_state_dict({n: t for n, t in fresh.state_dict().items() if ".unit." not in n})
    for block in plain.backbone.blocks():
        block.gated_convolution.weight.mul_(0.5)
    clip = pictures(1, 3)
    expected = plain(clip)
    assert (fresh(clip) - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


def test_construction_doubles_the_convolution_behind_pem_and_no_other():
    plain, gated = small_model(unit=UNITS["plain"]), small_model(unit=UNITS["pem"])

    def spread(model, name):
        return model.get_parameter(name).std().item()

    # Kaiming's fan-out initialisation: sqrt(2 / (64·9))
    assert spread(gated, "backbone.layer3.0.conv1.weight") == pytest.approx(2 * 0.0589, rel=0.05)
    for model, name in (
        (plain, "backbone.layer3.0.conv1.weight"),
        (gated, "backbone.layer3.0.conv2.weight"),
    ):
        assert spread(model, name) == pytest.approx(0.0589, rel=0.05)


# ---- where things stand


@pytest.mark.parametrize(
    ("backbone", "unit"),
    [("tiny", "pem-tsm"), ("tiny", "plain"), ("resnet18", "tsm-pem"), ("resnet50", "pem-tsm")],
)
@torch.no_grad()
def test_taps_read_what_the_last_blocks_of_res3_to_res5_convolve(backbone, unit):
    model = lively_model(backbone, UNITS[unit])
    seen = []
    last_blocks = [getattr(model.backbone, f"layer{stage}")[-1] for stage in (2, 3, 4)]
    hooks = [
        block.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for block in last_blocks
    ]
    _, run = model.run_clip(pictures(2, 3))
    for hook in hooks:
        hook.remove()
    assert len(run.taps) == len(seen) == 3
    assert all(tap is convolved for tap, convolved in zip(run.taps, seen, strict=True))


@pytest.mark.parametrize("pem_first", [True, False])
@torch.no_grad()
def test_a_tap_before_the_temporal_module_reads_what_that_reads(pem_first):
    """The ablation's rows "TD loss before / after TM"; elsewhere the model is the same."""
    before = UnitConfig(pem_first=pem_first, tap_after=False)
    after = replace(before, tap_after=True)
    taps, logits, seen = {}, {}, []
    for unit in (before, after):
        model = Tdrl(replace(small_model().config, unit=unit)).eval()
        model.load_state_dict(lively_model("tiny", CAUSAL).state_dict())
        if unit is before:
            for block in model.backbone.blocks()[1:]:
                block.unit.get_submodule("temporal").register_forward_hook(
                    lambda _, inputs, out: seen.append((inputs[0], out[0]))
                )
        logits[unit], run = model.run_clip(pictures(2, 3))
        taps[unit] = run.taps
    assert torch.equal(logits[before], logits[after])
    for tap, (entry, left), other in zip(taps[before], seen, taps[after], strict=True):
        assert tap is entry
        assert not torch.equal(tap, left)
        if pem_first:
            assert torch.equal(other, left)


@pytest.mark.parametrize("unit", ["pem-tsm", "tsm-pem"])
@torch.no_grad()
def test_the_identity_path_is_untouched(unit):
    """With a silent residual branch a block is the identity, whatever its gates and shifts do."""
    model = small_model(unit=UNITS[unit])
    enliven(model)
    block = model.backbone.blocks()[0]
    for parameter in block.bn2.parameters():
        parameter.zero_()
    seen = []
    hook = block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    model(pictures(2, 4))
    hook.remove()
    assert torch.equal(*seen[0])


@torch.no_grad()
def test_pem_stands_before_or_behind_the_temporal_module_as_configured():
    x = torch.randn(2 * 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, first, second in (("pem-tsm", "pem", "temporal"), ("tsm-pem", "temporal", "pem")):
        unit = lively_model("tiny", UNITS[name]).backbone.blocks()[0].unit
        expected = x
        for part in (getattr(unit, first), getattr(unit, second)):
            state = None if part is unit.pem else part.zero_state(x, 2)
            expected, _ = part(expected, 4, state)
        assert torch.equal(unit(x, Pass(4)), expected)


@torch.no_grad()
def test_the_order_of_pem_and_tm_matters():
    first, after = lively_model("tiny", UNITS["pem-tsm"]), small_model(unit=UNITS["tsm-pem"])
    after.load_state_dict(first.state_dict())
    clip = pictures(2, 4)
    assert not torch.allclose(first(clip), after(clip))


@torch.no_grad()
def test_normalisation_is_imagenets_and_part_of_the_model():
    model = lively_model("tiny", CAUSAL)
    seen = []
    hook = model.backbone.get_submodule("conv1").register_forward_pre_hook(
        lambda _, x: seen.append(x[0])
    )
    clip = pictures(1, 2)
    logits = model(clip)
    hook.remove()
    mean_rgb, std_rgb = model.backbone.mean_rgb, model.backbone.std_rgb
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (mean_rgb, std_rgb))
    assert torch.allclose(seen[0], (clip[0].float() - mean) / std)
    assert torch.allclose(torch.tensor(mean_rgb) / 255, torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(torch.tensor(std_rgb) / 255, torch.tensor([0.229, 0.224, 0.225]))
    assert torch.equal(model(clip.float()), logits)
    assert not {"mean", "std"} & set(model.state_dict()), "constants are no weights"


# ---- configuration


def test_config_survives_json():
    config = ModelConfig(backbone="resnet18", num_classes=7, unit=LOOKAHEAD, dropout=0.5)
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet19"}, "backbone must be one of tiny, resnet18.*got 'resnet19'"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_wrong_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"backbone": "tiny", "num_classes": 3, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"temporal": "lstm"},
            "temporal must be one of none, tsm, tim, mem, tei, vsn, got 'lstm'",
        ),
        ({"form": "live"}, "form must be one of causal, lookahead, got 'live'"),
        ({"start_motion": "ones"}, "start_motion must be one of zeros, last_difference"),
        ({"start_motion": "last_difference"}, "needs the end of the clip; use form lookahead"),
        ({"reduction": 0}, "reduction must be >= 1, got 0"),
        ({"shift_div": 0}, "shift_div must be >= 1, got 0"),
        ({"tap_stages": (2, 5)}, r"tap_stages must be in 1\.\.4 \(res2\.\.res5\), got 5"),
    ],
)
def test_a_wrong_unit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UnitConfig(**change)
