import numpy as np
import pytest
import torch
from torch import nn

from tests.train.models import assert_equal
from train.model.pem import Pem

CHANNELS, SIDE = 24, 3
EXACT = 1e-10


def make_pem(**options):
    torch.manual_seed(3)
    pem = Pem(CHANNELS, **options)
    nn.init.normal_(pem.attend.weight)
    nn.init.normal_(pem.attend.bias)
    return pem.requires_grad_(False)


def block_input(rows, num_frames, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows * num_frames, CHANNELS, SIDE, SIDE)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(pem, clip, *, lookahead, start=None, past=None):
    """Equations 1 to 4 for one clip (T, C, H, W), frame by frame, in float64."""
    weights = {name: p.double().numpy() for name, p in pem.named_parameters()}
    h = pem.hidden
    w1, w2 = weights["f.weight"][:h], weights["f.weight"][h:]
    b1, b2 = weights["f.bias"][:h], weights["f.bias"][h:]
    frames = clip.double().numpy()
    x = frames.mean((2, 3))
    f1, f2 = x @ w1.T + b1, x @ w2.T + b2
    T = len(x)
    if lookahead:
        d = [f2[t + 1] - f1[t] for t in range(T - 1)] + [np.ones(h)]
    else:
        past = np.zeros(h) if past is None else past
        d = [f2[t] - (f1[t - 1] if t else past) for t in range(T)]
    m = np.zeros(h) if start is None else start
    if isinstance(start, str):
        m = d[T - 2]  # m_0 = d_{T-1}, counted from 1
    gated = []
    for t in range(T):
        g = sigmoid(weights["gate.weight"] @ np.concatenate([m, d[t]]) + weights["gate.bias"])
        m = (1 - g) * m + g * d[t]
        a = sigmoid(weights["attend.weight"] @ m + weights["attend.bias"])
        gated.append(frames[t] * a[:, None, None])
    return torch.from_numpy(np.stack(gated)), torch.from_numpy(np.concatenate([m, f1[-1]]))


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_causal_form_is_the_equations(num_frames):
    pem = make_pem().double()
    x = block_input(3, num_frames).double()
    gated, state = pem(x, num_frames, None)
    again, _ = pem(x, num_frames, state)
    for row, clip in enumerate(x.unflatten(0, (3, num_frames))):
        expected, left = by_hand(pem, clip, lookahead=False)
        assert_equal(gated.unflatten(0, (3, num_frames))[row], expected, relative=EXACT)
        assert_equal(state[row], left, relative=EXACT)
        motion, past = left.numpy()[: pem.hidden], left.numpy()[pem.hidden :]
        expected, _ = by_hand(pem, clip, lookahead=False, start=motion, past=past)
        assert_equal(again.unflatten(0, (3, num_frames))[row], expected, relative=EXACT)


@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_float32_is_the_equations_up_to_rounding(form):
    pem = make_pem(form=form)
    x = block_input(2, 5)
    gated, _ = pem(x, 5, None)
    for row, clip in enumerate(x.unflatten(0, (2, 5))):
        expected, _ = by_hand(pem, clip, lookahead=form == "lookahead")
        assert_equal(gated.unflatten(0, (2, 5))[row].double(), expected)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("start_motion", ["zeros", "last_difference"])
def test_lookahead_form_is_the_papers_equations(num_frames, start_motion):
    """One frame ahead, d_T = 1, and m_0 either zeros or d_{T-1}."""
    pem = make_pem(form="lookahead", start_motion=start_motion).double()
    x = block_input(2, num_frames).double()
    gated, _ = pem(x, num_frames, None)
    # a clip of one frame has no d_{T-1}: zeros
    start = start_motion if start_motion == "last_difference" and num_frames > 1 else None
    for row, clip in enumerate(x.unflatten(0, (2, num_frames))):
        expected, _ = by_hand(pem, clip, lookahead=True, start=start)
        assert_equal(gated.unflatten(0, (2, num_frames))[row], expected, relative=EXACT)


def test_the_two_starts_differ():
    x = block_input(1, 4)
    zeros = make_pem(form="lookahead")(x, 4, None)[0]
    last = make_pem(form="lookahead", start_motion="last_difference")(x, 4, None)[0]
    assert not torch.allclose(zeros[0], last[0])


def test_causal_form_refuses_to_start_from_the_end_of_the_clip():
    with pytest.raises(ValueError, match="'last_difference' needs the end of the clip"):
        Pem(16, start_motion="last_difference")


def test_causal_gates_see_no_later_frame_and_lookahead_gates_exactly_one():
    x = block_input(1, 6)
    changed = x.clone()
    changed[4] += 1.0
    for form, first_changed in (("causal", 4), ("lookahead", 3)):
        pem = make_pem(form=form)
        before, after = pem(x, 6, None)[0], pem(changed, 6, None)[0]
        assert torch.equal(before[:first_changed], after[:first_changed])
        assert not torch.allclose(before[first_changed], after[first_changed])
        assert not torch.allclose(before[5], after[5]), "the motion vector remembers"


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_equal_the_clip_and_carry_its_state(rows):
    pem = make_pem()
    x = block_input(rows, 7)
    expected, last = pem(x, 7, None)
    frames = x.unflatten(0, (rows, 7))
    state = pem.zero_state(rows, x)
    steps = []
    for t in range(7):
        gated, state = pem.step(frames[:, t], state)
        steps.append(gated)
    assert_equal(torch.stack(steps, 1).flatten(0, 1), expected)
    assert_equal(state, last)
    assert state.shape == (rows, pem.state_size) == (rows, 2 * pem.hidden)


def test_a_state_continues_the_clip():
    pem = make_pem()
    x = block_input(2, 7).unflatten(0, (2, 7))
    whole, _ = pem(x.flatten(0, 1), 7, None)
    first, state = pem(x[:, :3].flatten(0, 1), 3, None)
    rest, _ = pem(x[:, 3:].flatten(0, 1), 4, state)
    parts = torch.cat((first.unflatten(0, (2, 3)), rest.unflatten(0, (2, 4))), dim=1)
    assert_equal(parts.flatten(0, 1), whole)
    reset, _ = pem(x[:, 3:].flatten(0, 1), 4, None)
    assert not torch.allclose(reset, rest), "the state matters"


def test_a_fresh_gate_is_one_half_and_learns():
    pem = Pem(CHANNELS)
    x = block_input(2, 4)
    gated, _ = pem(x, 4, None)
    assert torch.equal(gated, x / 2)
    gated.square().sum().backward()
    grad = pem.attend.weight.grad
    assert grad is not None
    assert grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(2048, 16, 128), (256, 16, 16), (64, 16, 8), (16, 16, 8), (64, 4, 16)],
)
def test_hidden_width_is_c_over_r_and_never_under_eight(channels, reduction, hidden):
    assert Pem(channels, reduction=reduction).hidden == hidden


def test_parameter_count():
    # f1 and f2: 2·(256·16 + 16); W_g: 32·16 + 16; W_a: 16·256 + 256
    assert sum(p.numel() for p in Pem(256).parameters()) == 8224 + 528 + 4352
    kinds = {type(module) for module in Pem(256).children()}
    assert kinds == {nn.Linear}, "vectors pass linear layers, never convolutions"


@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_autocast_keeps_the_recurrence_in_float32(form):
    pem = make_pem(form=form)
    x = block_input(2, 5).bfloat16()
    logits: list[torch.Tensor] = []  # of the gate: behind the whole recurrence
    pem.attend.register_forward_hook(lambda _, __, out: logits.append(out))
    expected, state = pem(x.float(), 5, None)
    with torch.autocast("cpu", torch.bfloat16):
        gated, cast_state = pem(x, 5, None)
    assert gated.dtype == torch.bfloat16
    assert [out.dtype for out in logits] == [torch.float32] * 2
    assert torch.equal(*logits)
    if form == "causal":
        assert cast_state.dtype == torch.float32
        assert torch.equal(cast_state, state)
    else:
        assert cast_state is None
    # one rounding of the product and one of the gate, not of the recurrence
    assert_equal(gated.float(), expected, relative=2**-7)


def test_autocast_keeps_the_step_in_float32():
    pem = make_pem()
    x = block_input(2, 1).bfloat16()
    state = torch.randn(2, pem.state_size)
    _, expected = pem.step(x.float(), state)
    with torch.autocast("cpu", torch.bfloat16):
        gated, after = pem.step(x, state)
    assert (gated.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(after, expected)
