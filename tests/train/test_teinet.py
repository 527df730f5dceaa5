"""TIM, MEM and TEI against loops over single numbers, in float64."""

import math

import pytest
import torch
from torch import nn

from tests.train.models import NUM_CLASSES, assert_equal, enliven, pictures
from train.model.tdrl import ModelConfig, Tdrl
from train.model.teinet import (
    MotionEnhancement,
    TemporalEnhancementInteraction,
    TemporalInteraction,
)
from train.model.temporal import TemporalModule, TemporalShift, TemporalState, given
from train.model.unit import UnitConfig

ROWS, CHANNELS, HEIGHT, WIDTH = 2, 12, 2, 3
EXACT = 1e-10
MODULES: dict[str, type[TemporalModule]] = {
    "tim": TemporalInteraction,
    "mem": MotionEnhancement,
    "tei": TemporalEnhancementInteraction,
}


def clip_of(num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, num_frames, CHANNELS, HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def lively(kind, form="causal"):
    torch.manual_seed(1)
    module = MODULES[kind](CHANNELS, form=form).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.requires_grad_(False)


def run(module, clip, state=None):
    """Whole clips (N, T, C, H, W) through a module."""
    state = module.zero_state(clip[:, 0], clip.shape[0]) if state is None else state
    mixed, after = module(clip.flatten(0, 1), clip.shape[1], state)
    return mixed.unflatten(0, clip.shape[:2]), after


def random_state(module, seed=5):
    torch.manual_seed(seed)
    zeros = module.zero_state(clip_of(1)[:, 0], ROWS)
    return TemporalState(*(None if part is None else torch.randn_like(part) for part in zeros))


def tim_by_hand(tim, clip, past=None):
    """Three taps a channel; `past` holds frame -1, then frame -2."""
    mixed = torch.zeros_like(clip)
    C, T = clip.shape[2], clip.shape[1]
    for n in range(clip.shape[0]):
        for t in range(T):
            for c in range(C):
                third = t + 1 if tim.form == "lookahead" else t - 2
                for tap, source in ((0, t - 1), (1, t), (2, third)):
                    if 0 <= source < T:
                        mixed[n, t, c] += tim.taps[tap, c] * clip[n, source, c]
                    elif source < 0 and past is not None:
                        mixed[n, t, c] += tim.taps[tap, c] * past[n, (-source - 1) * C + c]
    return mixed


def mem_by_hand(mem, clip, past=None):
    """The gate number by number, as the module's docstring writes it; and f1 of the last frame."""
    gated = clip.clone()
    N, T, C = clip.shape[:3]
    h = mem.hidden
    last = torch.zeros(N, h, dtype=clip.dtype)

    def projected(x, k):
        return float(mem.f.bias[k]) + sum(float(mem.f.weight[k, c]) * x[c] for c in range(C))

    for n in range(N):
        x = [[float(clip[n, t, c].mean()) for c in range(C)] for t in range(T)]
        f1 = [[projected(x[t], k) for k in range(h)] for t in range(T)]
        f2 = [[projected(x[t], h + k) for k in range(h)] for t in range(T)]
        for t in range(T):
            if mem.form == "lookahead":
                if t == T - 1:
                    continue  # no successor: it passes as it is
                s = [f2[t + 1][k] - f1[t][k] for k in range(h)]
            else:
                before = f1[t - 1] if t else [0.0] * h
                if t == 0 and past is not None:
                    before = [float(past[n, k]) for k in range(h)]
                s = [f2[t][k] - before[k] for k in range(h)]
            for c in range(C):
                logit = float(mem.attend.bias[c])
                logit += sum(float(mem.attend.weight[c, k]) * s[k] for k in range(h))
                gated[n, t, c] *= 2 / (1 + math.exp(-logit))
        last[n] = torch.tensor(f1[-1], dtype=clip.dtype)
    return gated, last


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_tim_is_its_sum(form, num_frames):
    tim, clip = lively("tim", form), clip_of(num_frames)
    mixed, state = run(tim, clip)
    assert_equal(mixed, tim_by_hand(tim, clip), relative=EXACT)
    if form == "lookahead":
        assert state == TemporalState()
        return
    before = clip[:, -2] if num_frames > 1 else torch.zeros_like(clip[:, 0])
    assert torch.equal(state.map, torch.cat((clip[:, -1], before), dim=1))
    past = random_state(tim)
    mixed, _ = run(tim, clip, past)
    assert_equal(mixed, tim_by_hand(tim, clip, past.map), relative=EXACT)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_mem_is_its_equations(form, num_frames):
    mem, clip = lively("mem", form), clip_of(num_frames)
    gated, state = run(mem, clip)
    expected, last = mem_by_hand(mem, clip)
    assert_equal(gated, expected, relative=EXACT)
    if form == "lookahead":
        assert state == TemporalState()
        assert torch.equal(gated[:, -1], clip[:, -1])
        return
    assert_equal(state.vector, last, relative=EXACT)
    past = random_state(mem)
    gated, _ = run(mem, clip, past)
    assert_equal(gated, mem_by_hand(mem, clip, past.vector)[0], relative=EXACT)


@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_tei_is_mem_then_tim(form):
    tei, clip = lively("tei", form), clip_of(5)
    expected = tim_by_hand(tei.tim, mem_by_hand(tei.mem, clip)[0])
    assert_equal(run(tei, clip)[0], expected, relative=EXACT)


@pytest.mark.parametrize("kind", MODULES)
def test_steps_equal_the_clip_and_carry_its_state(kind):
    module, clip = lively(kind), clip_of(6)
    for start in (module.zero_state(clip[:, 0], ROWS), random_state(module)):
        expected, last = run(module, clip, start)
        state, steps = start, []
        for t in range(6):
            mixed, state = module.step(clip[:, t], state)
            steps.append(mixed)
        assert_equal(torch.stack(steps, dim=1), expected, relative=EXACT)
        for after, left in zip(state, last, strict=True):
            assert (after is None) == (left is None)
            if after is not None:
                assert_equal(after, left, relative=EXACT)


@pytest.mark.parametrize("kind", MODULES)
def test_states_have_the_declared_shapes(kind):
    module, clip = lively(kind), clip_of(3)
    assert (module.vector_size > 0) == (kind != "tim")
    assert module.map_channels == (0 if kind == "mem" else 2 * CHANNELS)
    sizes = (
        (ROWS, module.vector_size) if module.vector_size else None,
        (ROWS, module.map_channels, HEIGHT, WIDTH) if module.map_channels else None,
    )
    zeros = module.zero_state(clip[:, 0], ROWS)
    for state in (zeros, run(module, clip)[1], module.step(clip[:, 0], zeros)[1]):
        assert tuple(None if part is None else tuple(part.shape) for part in state) == sizes


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_gradients_are_the_derivatives(kind, form):
    module = lively(kind, form).requires_grad_()
    clip, state = clip_of(3).requires_grad_(), random_state(module)
    tensors = [part.requires_grad_() for part in state if part is not None]

    def mixed(*_):
        return run(module, clip, state)[0]

    inputs = (clip, *tensors, *module.parameters())
    assert torch.autograd.gradcheck(mixed, inputs, fast_mode=True)


# ---- fresh modules


@pytest.mark.parametrize("form", ["causal", "lookahead"])
@pytest.mark.parametrize("shift_div", [3, 4, 12])
def test_a_fresh_tim_is_the_shift_of_its_form(form, shift_div):
    clip = clip_of(4).float()
    tim = TemporalInteraction(CHANNELS, shift_div=shift_div, form=form)
    shift = TemporalShift(CHANNELS, shift_div=shift_div, form=form)
    assert torch.equal(run(tim, clip)[0], run(shift, clip)[0])
    assert tim.taps.requires_grad


def test_taps_keep_their_meaning_in_the_other_form():
    """A lookahead checkpoint's channels that come from t-1 and t still do in the causal form."""
    clip = clip_of(5)
    lookahead, causal = lively("tim", "lookahead"), lively("tim")
    lookahead.taps[2] = 0
    causal.load_state_dict(lookahead.state_dict())
    assert_equal(run(causal, clip)[0], run(lookahead, clip)[0], relative=EXACT)


@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_a_fresh_mem_changes_nothing_and_learns(form):
    clip, mem = clip_of(4).float(), MotionEnhancement(CHANNELS, form=form)
    gated, _ = run(mem, clip)
    assert torch.equal(gated, clip)
    gated.square().sum().backward()
    assert given(mem.attend.weight.grad).any()


def fresh_model(plain, **unit):
    config = UnitConfig(**{"pem": False, **unit})
    model = Tdrl(ModelConfig(backbone="tiny", num_classes=NUM_CLASSES, unit=config)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    return model


@pytest.mark.parametrize("form", ["causal", "lookahead"])
@torch.no_grad()
def test_fresh_networks_are_what_their_modules_promise(form):
    torch.manual_seed(0)
    config = UnitConfig(temporal="none", pem=False)
    plain = Tdrl(ModelConfig(backbone="tiny", num_classes=NUM_CLASSES, unit=config))
    enliven(plain)
    clip = pictures(2, 5)
    tsm = fresh_model(plain, temporal="tsm", form=form)
    assert not torch.allclose(tsm(clip), plain(clip), atol=1e-2)
    assert torch.equal(fresh_model(plain, temporal="none", form=form)(clip), plain(clip))
    assert torch.equal(fresh_model(plain, temporal="mem", form=form)(clip), plain(clip))
    assert torch.equal(fresh_model(plain, temporal="tim", form=form)(clip), tsm(clip))
    tei = fresh_model(plain, temporal="tei", form=form)
    assert torch.equal(tei(clip), tsm(clip))
    for block in tei.backbone.blocks():
        block.unit.temporal.tim.taps.zero_()
        block.unit.temporal.tim.taps[1] = 1
    assert torch.equal(tei(clip), plain(clip))
    # PEM in front of MEM is made up for once, by the doubled convolution
    both = fresh_model(plain, temporal="mem", pem=True, form=form)
    both.double_gated_convolutions()
    assert_equal(both(clip), plain(clip), relative=1e-5)


# ---- sizes and precision


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"), [(2048, 8, 256), (256, 16, 16), (64, 16, 8), (16, 8, 8)]
)
def test_hidden_width_is_c_over_r_and_never_under_eight(channels, reduction, hidden):
    mem = MotionEnhancement(channels, reduction=reduction)
    assert (mem.hidden, mem.vector_size) == (hidden, hidden)
    # f1 and f2, then W
    expected = 2 * (channels + 1) * hidden + (hidden + 1) * channels
    assert sum(p.numel() for p in mem.parameters()) == expected
    assert sum(p.numel() for p in TemporalInteraction(channels).parameters()) == 3 * channels


@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_autocast_rounds_features_and_gates_no_more_than_once(form):
    tei, clip = lively("tei", form).float(), clip_of(4).bfloat16()
    expected, _ = run(tei, clip.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = run(tei, clip)
    assert mixed.dtype == torch.bfloat16
    assert_equal(mixed.float(), expected, relative=2**-6)


def test_autocast_keeps_vectors_in_float32_and_maps_in_the_features_dtype():
    tei, clip = lively("tei").float(), clip_of(4).bfloat16()
    _, exact = run(tei, clip.float())
    with torch.autocast("cpu", torch.bfloat16):
        _, left = run(tei, clip)
        state = tei.zero_state(clip[:, 0], ROWS)
        for t in range(4):
            mixed, state = tei.step(clip[:, t], state)
            assert mixed.dtype == torch.bfloat16
    for after in (left, state):
        assert (after.vector.dtype, after.map.dtype) == (torch.float32, torch.bfloat16)
        assert_equal(after.vector, exact.vector)
