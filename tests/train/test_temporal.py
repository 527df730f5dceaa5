import pytest
import torch

from train.model.temporal import TemporalModule, TemporalShift, TemporalState, given


def clip_of(rows=2, num_frames=5, channels=8):
    torch.manual_seed(0)
    return torch.randn(rows, num_frames, channels, 3, 2)


def by_hand(clip, fold, *, lookahead, past=None):
    """Channels moved one by one, zeros where the clip ends."""
    shifted = clip.clone()
    rows, T, C = clip.shape[:3]
    for n in range(rows):
        for t in range(T):
            for c in range(C):
                if c < fold:
                    first = 0.0 if past is None else past[n, c]
                    shifted[n, t, c] = clip[n, t - 1, c] if t else first
                elif lookahead and c < 2 * fold:
                    shifted[n, t, c] = clip[n, t + 1, c] if t + 1 < T else 0.0
    return shifted


def run(module, clip, state=None):
    """Whole clips (N, T, C, H, W) through a module."""
    state = module.zero_state(clip[:, 0], clip.shape[0]) if state is None else state
    mixed, after = module(clip.flatten(0, 1), clip.shape[1], state)
    return mixed.unflatten(0, clip.shape[:2]), after


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize(("shift_div", "fold"), [(8, 1), (4, 2), (3, 2)])
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_shift_is_the_papers(form, shift_div, fold, num_frames):
    clip = clip_of(num_frames=num_frames)
    shift = TemporalShift(8, shift_div=shift_div, form=form)
    shifted, state = run(shift, clip)
    assert torch.equal(shifted, by_hand(clip, fold, lookahead=form == "lookahead"))
    if form == "causal":
        assert torch.equal(state.map, clip[:, -1, :fold])
    else:
        assert state == TemporalState()


def test_a_state_stands_before_the_clip():
    clip, shift = clip_of(), TemporalShift(8, shift_div=4)
    past = torch.randn(2, 2, 3, 2)
    shifted, _ = run(shift, clip, TemporalState(map=past))
    assert torch.equal(shifted, by_hand(clip, 2, lookahead=False, past=past))


def test_steps_equal_the_clip():
    clip, shift = clip_of(), TemporalShift(8, shift_div=4)
    expected, last = run(shift, clip)
    state = shift.zero_state(clip[:, 0], 2)
    for t in range(5):
        shifted, state = shift.step(clip[:, t], state)
        assert torch.equal(shifted, expected[:, t])
    assert torch.equal(given(state.map), given(last.map))
    assert given(state.map).shape == (2, shift.map_channels, 3, 2)


def test_a_state_continues_the_clip():
    clip, shift = clip_of(), TemporalShift(8, shift_div=4)
    whole, _ = run(shift, clip)
    _, state = run(shift, clip[:, :2])
    rest, _ = run(shift, clip[:, 2:], state)
    assert torch.equal(rest, whole[:, 2:])


def test_state_takes_the_features_dtype():
    clip, shift = clip_of().bfloat16(), TemporalShift(8)
    shifted, state = run(shift, clip, TemporalState(map=torch.ones(2, 1, 3, 2)))
    zeros = shift.zero_state(clip[:, 0], 2)
    assert shifted.dtype == given(state.map).dtype == given(zeros.map).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("channels", "shift_div", "form", "message"),
    [
        (4, 8, "causal", r"shift_div must be 1\.\.4 for 4 channels \(causal\), got 8"),
        (8, 1, "lookahead", r"shift_div must be 2\.\.8 .*\(lookahead\), got 1"),
        (8, 0, "causal", "got 0"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(channels, shift_div, form, message):
    with pytest.raises(ValueError, match=message):
        TemporalShift(channels, shift_div=shift_div, form=form)


def test_a_causal_shift_does_not_start_from_nothing():
    with pytest.raises(ValueError, match="the state is missing; a stream starts from `zero_state`"):
        TemporalShift(8)(clip_of().flatten(0, 1), 5, TemporalState())


def test_zero_states_follow_the_declaration():
    module = TemporalModule()
    module.vector_size, module.map_channels = 7, 3
    state = module.zero_state(torch.ones(6, 8, 4, 5, dtype=torch.bfloat16), rows=2)
    vector, maps = given(state.vector), given(state.map)
    assert (vector.shape, vector.dtype) == ((2, 7), torch.float32)
    assert (maps.shape, maps.dtype) == ((2, 3, 4, 5), torch.bfloat16)
    assert not vector.any()
    assert not maps.any()
    exact = module.zero_state(torch.ones(1, 8, 4, 5).double(), 1)
    assert given(exact.vector).dtype == torch.float64
    assert TemporalModule().zero_state(torch.ones(1, 8, 4, 5), 1) == TemporalState()


def test_shift_then_gate_is_gate_then_shift_to_the_bit():
    torch.manual_seed(0)
    x, gate = torch.randn(2, 8, 3, 2), torch.rand(2, 8, 1, 1)
    shift, past = TemporalShift(8, shift_div=4), TemporalState(map=torch.randn(2, 2, 3, 2))
    expected, state = shift.step(x * gate, past)
    got, after = shift.step_gated(x, gate, past)
    assert torch.equal(got, expected)
    assert after.map is not None
    assert state.map is not None
    assert torch.equal(after.map, state.map)
