import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from train.data.sampling import (
    EARLIEST_END,
    SPACING_JITTER,
    indices_at,
    indices_nearest,
    live_times,
    segment_times,
)

starts = st.floats(0, 1000)
lengths = st.floats(0.2, 60)


@given(start_s=starts, length_s=lengths, num_segments=st.integers(1, 32))
def test_segment_centres_are_symmetric(start_s, length_s, num_segments):
    """A clip and its reversal are cut at the same moments, so that no order leaks."""
    times = segment_times(start_s, start_s + length_s, num_segments)
    assert times.shape == (num_segments,)
    assert np.allclose(times - start_s, start_s + length_s - times[::-1])
    assert start_s < times[0]
    assert times[-1] < start_s + length_s
    assert np.allclose(np.diff(times), length_s / num_segments)


@pytest.mark.parametrize(
    ("end_s", "num_segments", "message"),
    [
        (1.0, 4, "end_s must be > start_s, got 1.0..1.0"),
        (0.5, 4, "end_s must be > start_s"),
        (2.0, 0, "num_segments must be >= 1, got 0"),
    ],
)
def test_clips_without_length_or_segments_are_refused(end_s, num_segments, message):
    with pytest.raises(ValueError, match=message):
        segment_times(1.0, end_s, num_segments)


@given(num_frames=st.integers(1, 120), num_segments=st.integers(1, 17))
def test_chosen_frames_are_symmetric(num_frames, num_segments):
    """Indices that lean to one side leak the direction: an order-blind net reached 60 %."""
    middles = (np.arange(num_frames) + 0.5) / num_frames
    chosen = indices_nearest(segment_times(0, 1, num_segments), middles)
    mirrored = num_frames - 1 - chosen[::-1]
    # an odd T's middle lies between two frames where their number is even: nothing is symmetric
    assume(num_segments % 2 == 0 or num_frames % 2 == 1)
    assert chosen.tolist() == mirrored.tolist()
    assert np.all(np.diff(chosen) >= 0)


@given(num_frames=st.integers(1, 60), num_segments=st.integers(1, 17))
def test_chosen_frames_are_the_nearest(num_frames, num_segments):
    middles = (np.arange(num_frames) + 0.5) / num_frames
    times = segment_times(0, 1, num_segments)
    distance = np.abs(middles[:, None] - times)
    chosen = indices_nearest(times, middles)
    assert np.allclose(distance[chosen, np.arange(num_segments)], distance.min(0))


def test_between_two_frames_the_inner_one_is_taken():
    middles = (np.arange(16) + 0.5) / 16
    chosen = indices_nearest(segment_times(0, 1, 8), middles)
    assert chosen.tolist() == [1, 3, 5, 7, 8, 10, 12, 14]


@given(
    seed=st.integers(0, 10_000),
    start_s=starts,
    length_s=lengths,
    num_segments=st.integers(1, 16),
    spacing_s=st.floats(0.02, 2),
)
def test_live_windows_end_inside_the_action_at_about_the_contracts_spacing(
    seed, start_s, length_s, num_segments, spacing_s
):
    end_s = start_s + length_s
    rng = np.random.default_rng(seed)
    times = live_times(rng, start_s, end_s, num_segments, spacing_s)
    assert times.shape == (num_segments,)
    assert start_s + EARLIEST_END * length_s - 1e-9 <= times[-1] <= end_s + 1e-9
    steps = np.diff(times)
    assert np.allclose(steps, steps.mean() if len(steps) else 0)
    slowest, fastest = (spacing_s * factor for factor in SPACING_JITTER)
    assert np.all((steps >= slowest - 1e-9) & (steps <= fastest + 1e-9))


def test_live_windows_vary_in_spacing_and_end():
    rng = np.random.default_rng(0)
    windows = np.stack([live_times(rng, 0, 2, 4, 0.5) for _ in range(400)])
    spacing, end = windows[:, 1] - windows[:, 0], windows[:, -1]
    assert spacing.min() < 0.39
    assert spacing.max() > 0.65
    assert end.min() < 1.52
    assert end.max() > 1.98


def test_the_first_frame_at_or_after_a_time_is_taken():
    frames = np.array([0.0, 0.1, 0.2, 0.3])
    times = np.array([-5.0, 0.0, 0.05, 0.1, 0.1 + 1e-9, 0.1001, 0.3, 7.0])
    chosen = indices_at(times, frames)
    # float dust is no reason to wait for the next frame
    assert chosen.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    assert chosen.dtype == np.int64
