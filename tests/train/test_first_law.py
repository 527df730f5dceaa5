"""Unrolled steps equal the clip, the past reaches the present and the future does not."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.train.models import (
    LARGE,
    NUM_CLASSES,
    UNITS,
    assert_equal,
    facts_of_model,
    lively_model,
    pictures,
    precise_model,
    unrolled,
    write_checkpoint,
)
from train.checkpoint import load_weights, read_checkpoint
from train.model.backbones.table import BACKBONES, build_backbone
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

EXACT = 1e-10
# share of the range; rounding alone: a plain ResNet-50 differs as much between batch sizes
ROUNDING = {
    "tiny": 5e-6,
    "resnet18": 2e-5,
    "resnet34": 5e-5,
    "resnet50": 1e-4,
    "resnet101": 1e-4,
    "efficientnet_lite0": 5e-5,
}
# every temporal module in every backbone
WITH_PEM = ("pem", "pem-tsm", "pem-tim", "pem-mem", "tei-pem")
DEEP = ("tsm", "tim", "mem", "tei", *WITH_PEM)
MAKES = {
    "tiny": tuple(UNITS),
    "resnet18": DEEP,
    "resnet34": WITH_PEM,
    "resnet50": WITH_PEM,
    "resnet101": WITH_PEM,
    "efficientnet_lite0": DEEP,
}
ALL_CASES = [(backbone, unit) for backbone in BACKBONES for unit in MAKES[backbone]]
# the larger ResNets are made of the same two blocks
CASES = [
    *(case for case in ALL_CASES if case[0] not in LARGE),
    ("resnet50", "pem-tsm"),
    ("resnet50", "tei-pem"),
]
WITH_MEMORY = [name for name in UNITS if name != "plain"]
STREAMING = ("tsm", "tim", "mem", "tei")

LOOKAHEAD = {
    "pem": UnitConfig(form="lookahead", temporal="none"),
    "pem-last": UnitConfig(form="lookahead", temporal="none", start_motion="last_difference"),
    **{
        f"pem-{name}": UnitConfig(form="lookahead", temporal=name, shift_div=4)
        for name in ("tsm", "tim", "mem", "tei", "vsn")
    },
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


@pytest.mark.parametrize(("backbone", "unit"), ALL_CASES)
@torch.no_grad()
def test_steps_and_clips_differ_by_rounding_alone_in_float32(backbone, unit):
    model = lively_model(backbone, UNITS[unit])
    clip = pictures(2, 3)
    logits, state = unrolled(model, clip)
    expected, run = model.run_clip(clip)
    left = model.pack_state(run.states_out)
    for after, wanted in zip((logits, *state), (expected, *left), strict=True):
        assert after.shape == wanted.shape
        span = (wanted.max() - wanted.min()).item()
        assert (after - wanted).abs().max().item() <= ROUNDING[backbone] * span


@pytest.mark.parametrize(("backbone", "unit"), ALL_CASES)
@torch.no_grad()
def test_states_are_declared_once(backbone, unit):
    """What the units declare is what a stream starts with, what steps give and what clips leave."""
    with torch.device("meta"):
        model = Tdrl(ModelConfig(backbone=backbone, num_classes=3, unit=UNITS[unit])).eval()
        clip = torch.empty(2, 3, 3, 64, 32)
        zeros = model.zero_state(2, 64, 32)
        _, stepped = model.step(clip[:, 0], zeros)
        _, run = model.run_clip(clip, zeros)
    units = [block.unit for block in model.backbone.blocks()]
    vectors = sum(size for unit in units for size in unit.vector_sizes)
    maps = [unit.map_channels for unit in units if unit.map_channels]
    assert [t.shape[1] for t in zeros] == [vectors] * (vectors > 0) + maps
    for state in (stepped, model.pack_state(run.states_out)):
        assert [(t.shape, t.dtype) for t in state] == [(t.shape, t.dtype) for t in zeros]


@settings(max_examples=40)
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


@pytest.mark.parametrize("unit", [name for name in LOOKAHEAD if "vsn" not in name])
@torch.no_grad()
def test_a_lookahead_checkpoint_streams_in_the_causal_form(unit, tmp_path):
    lookahead = lively_model("tiny", LOOKAHEAD[unit])
    path = write_checkpoint(tmp_path / "a.ckpt", lookahead, facts_of_model(lookahead.config))
    config = replace(LOOKAHEAD[unit], form="causal", start_motion="zeros")
    causal = Tdrl(ModelConfig(backbone="tiny", num_classes=NUM_CLASSES, unit=config)).eval()
    load_weights(causal, read_checkpoint(path), path)
    theirs = lookahead.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in causal.state_dict().items())
    lookahead, causal = precise_model("tiny", LOOKAHEAD[unit]), causal.double()
    clip = pictures(2, 5)
    logits, _ = unrolled(causal, clip)
    assert_equal(logits, causal(clip), relative=EXACT)
    assert not torch.allclose(causal(clip), lookahead(clip))


@pytest.mark.parametrize("unit", [name for name in LOOKAHEAD if "vsn" not in name])
def test_a_lookahead_checkpoint_is_fine_tuned_in_the_causal_form(unit):
    """Every loaded weight learns there, from a state carried over as well."""
    config = replace(LOOKAHEAD[unit], form="causal", start_motion="zeros")
    model = Tdrl(ModelConfig(backbone="tiny", num_classes=NUM_CLASSES, unit=config))
    model.load_state_dict(lively_model("tiny", LOOKAHEAD[unit]).state_dict())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with torch.no_grad():
        _, earlier = model.train().run_clip(pictures(4, 2, seed=1))
    clip, classes = pictures(4, 4), torch.arange(4)
    losses = []
    for _ in range(4):
        logits, _ = model.run_clip(clip, model.pack_state(earlier.states_out))
        loss = nn.functional.cross_entropy(logits.mean(1), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("unit", [name for name in LOOKAHEAD if "vsn" not in name])
@torch.no_grad()
def test_lookahead_keeps_no_state_and_takes_none(unit):
    model = lively_model("tiny", LOOKAHEAD[unit])
    _, run = model.run_clip(pictures(1, 3))
    assert model.pack_state(run.states_out) == []
    with pytest.raises(ValueError, match="state must hold 0 tensors, got 1"):
        model.run_clip(pictures(1, 3), [torch.zeros(1, 8)])


def test_lookahead_cannot_step():
    with pytest.raises(ValueError, match="'lookahead' .* cannot stream; fine-tune the causal form"):
        lively_model("tiny", LOOKAHEAD["tsm"]).step(pictures(1, 1)[:, 0])


def test_vsn_has_no_causal_form_and_no_step():
    with pytest.raises(ValueError, match="vsn shuffles whole clips.*use form lookahead, or tsm"):
        UnitConfig(temporal="vsn", pem=False)
    with pytest.raises(ValueError, match="vsn shuffles whole clips.*another temporal module"):
        lively_model("tiny", LOOKAHEAD["vsn"]).step(pictures(1, 1)[:, 0])
    assert UNITS["pem-tsm"].offline_reason is None
