"""Unrolled steps equal the clip, the past reaches the present and the future does not."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.models import (
    NUM_CLASSES,
    UNITS,
    assert_equal,
    lively_model,
    pictures,
    precise_model,
    unrolled,
)
from train.model.backbones.table import BACKBONES, build_backbone
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

# rounding alone: a plain ResNet-50 of random weights differs as much between batch sizes
ROUNDING = {"tiny": 5e-6, "resnet18": 5e-5, "resnet50": 5e-4, "efficientnet_lite0": 5e-5}
EXACT = 1e-10
DEEP = ("tsm", "tim", "mem", "tei", "pem-tsm", "tei-pem")
CASES = [
    *(("tiny", unit) for unit in UNITS),
    *((backbone, unit) for backbone in ROUNDING if backbone != "tiny" for unit in DEEP),
]
WITH_MEMORY = [name for name in UNITS if name != "plain"]
STREAMING = ("tsm", "tim", "mem", "tei")

LOOKAHEAD = {
    "pem": UnitConfig(form="lookahead", temporal="none"),
    **{
        name: UnitConfig(form="lookahead", temporal=name, pem=False, shift_div=4)
        for name in ("tsm", "tim", "mem", "tei", "vsn")
    },
}


@pytest.mark.parametrize(("backbone", "unit"), CASES)
@torch.no_grad()
def test_unrolled_steps_equal_the_clip(backbone, unit):
    """In float64, where every other formula would show; from zero and from a carried state."""
    model = precise_model(backbone, UNITS[unit])
    clip, more = pictures(2, 3), pictures(2, 4, seed=1)
    expected, run = model.run_clip(clip)
    logits, state = unrolled(model, clip)
    assert_equal(logits, expected, relative=EXACT)
    left = model.pack_state(run.states_out)
    for after, other in zip(state, left, strict=True):
        assert_equal(after, other, relative=EXACT)
    expected, run = model.run_clip(more, left)
    logits, state = unrolled(model, more, left)
    assert_equal(logits, expected, relative=EXACT)
    assert_equal(expected, model(torch.cat((clip, more), dim=1))[:, 3:], relative=EXACT)
    for after, other in zip(state, model.pack_state(run.states_out), strict=True):
        assert_equal(after, other, relative=EXACT)


@pytest.mark.parametrize(("backbone", "unit"), CASES)
@torch.no_grad()
def test_steps_and_clips_differ_by_rounding_alone_in_float32(backbone, unit):
    model = lively_model(backbone, UNITS[unit])
    clip = pictures(2, 4)
    logits, state = unrolled(model, clip)
    expected, run = model.run_clip(clip)
    assert_equal(logits, expected, relative=ROUNDING[backbone])
    for after, left in zip(state, model.pack_state(run.states_out), strict=True):
        assert_equal(after, left, relative=ROUNDING[backbone])


@settings(deadline=None, max_examples=40)
@given(
    parts=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5),
    unit=st.sampled_from(WITH_MEMORY),
    rows=st.integers(1, 2),
    seed=st.integers(0, 9),
)
@torch.no_grad()
def test_a_stream_cut_anywhere_into_clips_and_steps_is_one_clip(parts, unit, rows, seed):
    model = precise_model("tiny", UNITS[unit])
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
    assert_equal(torch.cat(logits, dim=1), model(clip), relative=EXACT)


@pytest.mark.parametrize(
    ("backbone", "unit"),
    [("resnet50", "pem-tsm"), *(("tiny", name) for name in WITH_MEMORY)],
)
@torch.no_grad()
def test_the_past_reaches_the_logits(backbone, unit):
    """Without this, the law above would hold for a model that has no memory."""
    model = lively_model(backbone, UNITS[unit])
    clip = pictures(1, 5)
    with_past, alone = model(clip)[:, -1], model(clip[:, -1:])[:, 0]
    assert (with_past - alone).abs().max() > 0.02


@pytest.mark.parametrize("unit", UNITS)
@torch.no_grad()
def test_causal_logits_see_no_later_frame(unit):
    clip = pictures(1, 6)
    changed = clip.clone()
    changed[:, 4] = 255 - changed[:, 4]
    model = lively_model("tiny", UNITS[unit])
    assert torch.equal(model(clip)[:, :4], model(changed)[:, :4])
    assert not torch.allclose(model(clip)[:, 4], model(changed)[:, 4])


@pytest.mark.parametrize("unit", LOOKAHEAD)
@torch.no_grad()
def test_lookahead_logits_see_the_next_frame(unit):
    clip = pictures(1, 6)
    changed = clip.clone()
    changed[:, 4] = 255 - changed[:, 4]
    model = lively_model("tiny", LOOKAHEAD[unit])
    difference = (model(clip) - model(changed))[0].abs().amax(1)
    assert difference[3] > 1e-3
    # MEM's gate alone never looks back
    assert difference[5] > 1e-3 if unit != "mem" else difference[5] == 0


@pytest.mark.parametrize("unit", WITH_MEMORY)
def test_gradients_reach_every_parameter_and_the_first_frame(unit):
    torch.manual_seed(0)
    model = precise_model("tiny", UNITS[unit])
    clip = pictures(2, 4).double().requires_grad_()
    state = [torch.randn_like(part).requires_grad_() for part in model.zero_state(2, 32, 32)]
    logits, _ = model.run_clip(clip, state)
    wanted = [*model.parameters(), *state]
    gradients = torch.autograd.grad(logits.square().sum(), wanted, retain_graph=True)
    assert all(g.isfinite().all() and g.any() for g in gradients)
    (of_clip,) = torch.autograd.grad(logits[:, -1].square().sum(), clip)
    assert of_clip.flatten(2).any(2).all(), "every frame of the clip"


# ---- lookahead weights in the causal model


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("temporal", ["none", *STREAMING])
def test_both_forms_have_the_same_parameters(backbone, temporal):
    with torch.device("meta"):
        causal, lookahead = (
            build_backbone(backbone, UnitConfig(temporal=temporal, form=form)).state_dict()
            for form in ("causal", "lookahead")
        )
    assert list(causal) == list(lookahead)
    assert [causal[name].shape for name in causal] == [lookahead[n].shape for n in causal]


@pytest.mark.parametrize("unit", [name for name in LOOKAHEAD if name != "vsn"])
@torch.no_grad()
def test_lookahead_weights_stream_in_the_causal_form(unit):
    lookahead = precise_model("tiny", LOOKAHEAD[unit])
    config = replace(LOOKAHEAD[unit], form="causal")
    causal = Tdrl(ModelConfig(backbone="tiny", num_classes=NUM_CLASSES, unit=config))
    causal.load_state_dict(lookahead.state_dict())
    causal.double().eval()
    clip = pictures(2, 5)
    logits, _ = unrolled(causal, clip)
    assert_equal(logits, causal(clip), relative=EXACT)
    assert not torch.allclose(causal(clip), lookahead(clip))


@pytest.mark.parametrize("unit", [name for name in LOOKAHEAD if name != "vsn"])
@torch.no_grad()
def test_lookahead_keeps_no_state_and_takes_none(unit):
    model = lively_model("tiny", LOOKAHEAD[unit])
    _, run = model.run_clip(pictures(1, 3))
    assert model.pack_state(run.states_out) == []
    with pytest.raises(ValueError, match="state must hold 0 tensors, got 1"):
        model.run_clip(pictures(1, 3), [torch.zeros(1, 8)])


def test_lookahead_cannot_step():
    with pytest.raises(ValueError, match="'lookahead' cannot step; fine-tune the causal form"):
        lively_model("tiny", LOOKAHEAD["tsm"]).step(pictures(1, 1)[:, 0])


def test_vsn_has_no_causal_form_and_no_step():
    with pytest.raises(ValueError, match="vsn shuffles whole clips.*use form lookahead, or tsm"):
        UnitConfig(temporal="vsn", pem=False)
    with pytest.raises(ValueError, match="vsn shuffles whole clips.*another temporal module"):
        lively_model("tiny", LOOKAHEAD["vsn"]).step(pictures(1, 1)[:, 0])
    assert UNITS["pem-tsm"].offline_reason is None
