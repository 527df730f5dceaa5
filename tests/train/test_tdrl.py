from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.models import (
    NUM_CLASSES,
    UNITS,
    assert_equal,
    enliven,
    lively_model,
    pictures,
    unrolled,
)
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import Pass, UnitConfig

CAUSAL = UNITS["pem-tsm"]
LOOKAHEAD = UnitConfig(form="lookahead", start_motion="last_difference")


def small_model(**options):
    torch.manual_seed(0)
    return Tdrl(ModelConfig(**{"backbone": "tiny", "num_classes": NUM_CLASSES, **options})).eval()


# ---- the first law: steps == clip


# rounding alone: a plain ResNet-50 of random weights differs as much between batch sizes
ROUNDING = {"tiny": 5e-6, "resnet18": 5e-5, "resnet50": 5e-4}
SMALL = (("tiny", 1), ("tiny", 3), ("resnet18", 2))


@pytest.mark.parametrize(
    ("backbone", "unit", "rows"),
    [
        *((backbone, unit, rows) for backbone, rows in SMALL for unit in UNITS),
        *(("resnet50", unit, 2) for unit in ("tsm", "pem-tsm", "tsm-pem")),
    ],
)
@torch.no_grad()
def test_unrolled_steps_equal_the_clip(backbone, unit, rows):
    model = lively_model(backbone, UNITS[unit])
    clip = pictures(rows, 4)
    expected, run = model.run_clip(clip)
    logits, state = unrolled(model, clip)
    assert_equal(logits, expected, relative=ROUNDING[backbone])
    for after, left in zip(state, model.pack_state(run.states_out), strict=True):
        assert_equal(after, left, relative=ROUNDING[backbone])


@pytest.mark.parametrize(
    ("backbone", "unit"),
    [("resnet50", "pem-tsm"), *(("tiny", name) for name in UNITS if name != "plain")],
)
@torch.no_grad()
def test_the_past_reaches_the_logits(backbone, unit):
    """Without this, the law above would hold for a model that has no memory."""
    model = lively_model(backbone, UNITS[unit])
    clip = pictures(1, 5)
    with_past, alone = model(clip)[:, -1], model(clip[:, -1:])[:, 0]
    assert (with_past - alone).abs().max() > 0.1


@settings(deadline=None, max_examples=25)
@given(
    parts=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5),
    unit=st.sampled_from(["tsm", "pem-tsm", "tsm-pem"]),
    rows=st.integers(1, 2),
    seed=st.integers(0, 9),
)
@torch.no_grad()
def test_a_stream_cut_anywhere_into_clips_and_steps_is_one_clip(parts, unit, rows, seed):
    model = lively_model("tiny", UNITS[unit])
    clip = pictures(rows, sum(length for length, _ in parts), seed=seed)
    logits, state = [], None
    for part, (_, stepwise) in zip(
        clip.split([length for length, _ in parts], dim=1), parts, strict=True
    ):
        if stepwise:
            part_logits, state = unrolled(model, part, state)
        else:
            part_logits, run = model.run_clip(part, state)
            state = model.pack_state(run.states_out)
        logits.append(part_logits)
    assert_equal(torch.cat(logits, dim=1), model(clip), relative=2e-5)


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


@torch.no_grad()
def test_causal_logits_see_no_later_frame():
    clip = pictures(1, 6)
    changed = clip.clone()
    changed[:, 4] = 255 - changed[:, 4]
    causal = lively_model("tiny", CAUSAL)
    assert torch.equal(causal(clip)[:, :4], causal(changed)[:, :4])
    assert not torch.allclose(causal(clip)[:, 4:], causal(changed)[:, 4:])
    lookahead = lively_model("tiny", LOOKAHEAD)
    assert not torch.allclose(lookahead(clip)[:, 3], lookahead(changed)[:, 3])


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


# ---- the two forms


@torch.no_grad()
def test_lookahead_weights_run_in_the_causal_form():
    lookahead = lively_model("tiny", LOOKAHEAD)
    causal = small_model(unit=replace(LOOKAHEAD, form="causal", start_motion="zeros"))
    causal.load_state_dict(lookahead.state_dict())
    clip = pictures(2, 5)
    logits, _ = unrolled(causal, clip)
    assert_equal(logits, causal(clip), relative=2e-5)
    assert not torch.allclose(causal(clip), lookahead(clip))


def test_lookahead_cannot_step():
    with pytest.raises(ValueError, match="'lookahead' cannot step; fine-tune the causal form"):
        lively_model("tiny", LOOKAHEAD).step(pictures(1, 1)[:, 0])


# ---- doubling


@pytest.mark.parametrize("form", ["causal", "lookahead"])
@pytest.mark.parametrize("pem_first", [True, False])
@torch.no_grad()
def test_a_fresh_tdrl_without_temporal_module_is_the_plain_backbone(form, pem_first):
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
    for name, first, second in (("pem-tsm", "pem", "shift"), ("tsm-pem", "shift", "pem")):
        unit = lively_model("tiny", UNITS[name]).backbone.blocks()[0].unit
        expected = x
        for part in (getattr(unit, first), getattr(unit, second)):
            expected, _ = part(expected, 4, None)
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
        ({"temporal": "tim"}, "temporal must be one of none, tsm, got 'tim'"),
        ({"form": "live"}, "form must be causal or lookahead, got 'live'"),
    ],
)
def test_a_wrong_unit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UnitConfig(**change)
