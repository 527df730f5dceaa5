import pytest
import torch

from train.model.temporal import TemporalShift


def clip_of(rows=2, num_frames=5, channels=8):
    torch.manual_seed(0)
    return torch.randn(rows, num_frames, channels, 3, 2)


def by_hand(clip, fold, *, lookahead):
    """Channels moved one by one, zeros where the clip ends."""
    shifted = clip.clone()
    T = clip.shape[1]
    for t in range(T):
        shifted[:, t, :fold] = clip[:, t - 1, :fold] if t else 0
        if lookahead:
            ahead = slice(fold, 2 * fold)
            shifted[:, t, ahead] = clip[:, t + 1, ahead] if t + 1 < T else 0
    return shifted


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize(("shift_div", "fold"), [(8, 1), (4, 2), (3, 2)])
@pytest.mark.parametrize("form", ["causal", "lookahead"])
def test_shift_is_the_papers(form, shift_div, fold, num_frames):
    clip = clip_of(num_frames=num_frames)
    shift = TemporalShift(8, shift_div=shift_div, form=form)
    shifted, state = shift(clip.flatten(0, 1), num_frames, None)
    expected = by_hand(clip, fold, lookahead=form == "lookahead")
    assert torch.equal(shifted.unflatten(0, (2, num_frames)), expected)
    assert torch.equal(state, clip[:, -1, :fold])


def test_steps_equal_the_clip():
    clip, shift = clip_of(), TemporalShift(8, shift_div=4)
    expected, last = shift(clip.flatten(0, 1), 5, None)
    state = shift.zero_state(clip[:, 0], 2)
    for t in range(5):
        shifted, state = shift.step(clip[:, t], state)
        assert torch.equal(shifted, expected.unflatten(0, (2, 5))[:, t])
    assert torch.equal(state, last)
    assert state.shape == (2, 2, 3, 2)


def test_a_state_continues_the_clip():
    clip, shift = clip_of(), TemporalShift(8, shift_div=4)
    whole = shift(clip.flatten(0, 1), 5, None)[0].unflatten(0, (2, 5))
    _, state = shift(clip[:, :2].flatten(0, 1), 2, None)
    rest, _ = shift(clip[:, 2:].flatten(0, 1), 3, state)
    assert torch.equal(rest.unflatten(0, (2, 3)), whole[:, 2:])


def test_state_takes_the_features_dtype():
    clip, shift = clip_of().bfloat16(), TemporalShift(8)
    shifted, state = shift(clip.flatten(0, 1), 5, torch.ones(2, 1, 3, 2))
    assert shifted.dtype == state.dtype == shift.zero_state(clip[:, 0], 2).dtype == torch.bfloat16


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="shift_div must be <= channels 4, got 8"):
        TemporalShift(4, shift_div=8)
