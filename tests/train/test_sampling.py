import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from train.data.sampling import (
    EARLIEST_END,
    SPACING_JITTER,
    ClipRule,
    dense_times,
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


# ---- training: one random moment a segment


@given(seed=st.integers(0, 10_000), start_s=starts, length_s=lengths, T=st.integers(1, 32))
def test_random_moments_lie_one_in_each_segment(seed, start_s, length_s, T):
    end_s = start_s + length_s
    times = segment_times(start_s, end_s, T, np.random.default_rng(seed))
    bounds = np.linspace(start_s, end_s, T + 1)
    assert np.all((times >= bounds[:-1] - 1e-9) & (times <= bounds[1:] + 1e-9))


def test_random_moments_are_uniform_in_their_segment_and_independent():
    rng = np.random.default_rng(0)
    draws = np.stack([segment_times(0.0, 4.0, 4, rng) for _ in range(2000)])
    places = draws - np.arange(4)
    assert np.all((places >= 0) & (places < 1))
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in places.T])
    assert counts.min() > 140, "200 of 2000 in each tenth"
    assert counts.max() < 260
    assert np.abs(np.corrcoef(places.T) - np.eye(4)).max() < 0.1


def frames_of(rule, num_frames, keys=400, start_s=0.0, end_s=None, fps=10):
    """Drawn frames (keys, T) of a clip of 10 fps."""
    times = np.arange(num_frames) / fps
    end_s = num_frames / fps if end_s is None else end_s
    draws = [rule.indices(start_s, end_s, times, (0, i), frame_s=1 / fps) for i in range(keys)]
    return np.stack(draws)


@pytest.mark.parametrize("sampling", ["segments", "dense", "live"])
def test_training_reaches_every_frame_of_a_clip_and_no_other(sampling):
    rule = ClipRule(4, 0.4, sampling, random=True)
    drawn = frames_of(rule, 120, start_s=3.0, end_s=9.0)
    # live takes the first frame at or after its moment, the others the one that is shown then
    first = 31 if sampling == "live" else 30
    assert set(drawn.ravel()) == set(range(first, first + 60))
    assert np.all(np.diff(drawn) >= 0)


def test_random_segments_take_every_frame_of_a_segment_equally_often():
    drawn = frames_of(ClipRule(4, 1.0, "segments", random=True), 40, keys=4000)
    for segment, column in enumerate(drawn.T):
        counts = np.bincount(column, minlength=40)
        assert counts[10 * segment : 10 * segment + 10].sum() == 4000
        assert counts[10 * segment : 10 * segment + 10].min() > 320, "400 each"


@pytest.mark.parametrize("sampling", ["segments", "dense", "live"])
@pytest.mark.parametrize("random", [False, True])
def test_a_clip_of_fewer_frames_repeats_some(sampling, random):
    drawn = frames_of(ClipRule(8, 0.5, sampling, random=random), 3, keys=50)
    assert drawn.shape == (50, 8)
    assert drawn.min() >= 0
    assert drawn.max() <= 2
    assert np.all(np.diff(drawn) >= 0)
    assert sampling == "live" or set(drawn.ravel()) == {0, 1, 2}


@pytest.mark.parametrize("sampling", ["segments", "dense", "live"])
def test_draws_depend_on_seed_epoch_and_item_alone_and_tests_on_none(sampling):
    times = np.arange(100) / 10

    def draw(key, seed=0, random=True):
        rule = ClipRule(4, 0.5, sampling, seed, random)
        return rule.indices(1.0, 9.0, times, key, frame_s=0.1).tolist()

    keys = [(epoch, item) for epoch in range(4) for item in range(4)]
    first = [draw(key) for key in keys]
    assert [draw(key) for key in reversed(keys)] == first[::-1]
    assert len({tuple(d) for d in first}) > 8
    assert [draw(key, seed=1) for key in keys] != first
    assert len({tuple(draw(key, seed, random=False)) for key in keys for seed in (0, 1)}) == 1


@pytest.mark.parametrize("sampling", ["segments", "dense"])
@given(num_frames=st.integers(1, 200), T=st.sampled_from([2, 4, 8, 16]))
def test_the_test_protocol_is_symmetric_under_reversal(sampling, num_frames, T):
    rule = ClipRule(T, 0.25, sampling)
    times = (np.arange(num_frames) + 0.5) / 10
    chosen = rule.indices(0.0, num_frames / 10, times, (0, 0))
    assert chosen.tolist() == (num_frames - 1 - chosen[::-1]).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_segments": 0}, "num_segments must be >= 1, got 0"),
        ({"sampling": "sparse"}, "sampling must be one of live, segments, dense, got 'sparse'"),
        ({"spacing_s": 0.0}, "spacing_s must be > 0, got 0.0"),
    ],
)
def test_wrong_rules_are_refused(changes, message):
    values = {"num_segments": 4, "spacing_s": 0.5, "sampling": "segments"} | changes
    with pytest.raises(ValueError, match=message):
        ClipRule(**values)


@pytest.mark.parametrize("sampling", ["segments", "dense", "live"])
def test_a_clip_without_length_is_refused(sampling):
    with pytest.raises(ValueError, match=r"end_s must be > start_s, got 2\.0\.\.2\.0"):
        ClipRule(4, 0.5, sampling).indices(2.0, 2.0, np.arange(9.0), (0, 0))


# ---- dense


@given(
    seed=st.none() | st.integers(0, 10_000),
    start_s=starts,
    length_s=lengths,
    T=st.integers(1, 32),
    spacing_s=st.floats(0.02, 2),
)
def test_dense_clips_have_the_contracts_spacing_or_fill_a_shorter_source(
    seed, start_s, length_s, T, spacing_s
):
    end_s = start_s + length_s
    rng = None if seed is None else np.random.default_rng(seed)
    times = dense_times(start_s, end_s, T, spacing_s, rng)
    assert times.shape == (T,)
    assert start_s - 1e-6 <= times[0]
    assert times[-1] <= end_s + 1e-6
    assert np.allclose(np.diff(times), min(spacing_s, length_s / T), atol=1e-6)


def test_dense_clips_lie_anywhere():
    rng = np.random.default_rng(0)
    firsts = np.array([dense_times(0.0, 12.0, 8, 0.5, rng)[0] for _ in range(1000)])
    assert np.histogram(firsts, 10, (0, 8.5))[0].min() > 60, "100 in each tenth"
    assert firsts.max() < 8.5


# ---- live


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
    times = live_times(start_s, end_s, num_segments, spacing_s, rng)
    assert times.shape == (num_segments,)
    shortest = (num_segments - 1) * spacing_s * SPACING_JITTER[0]
    earliest = min(EARLIEST_END * length_s, shortest)
    assert start_s + earliest - 1e-9 <= times[-1] <= end_s + 1e-9
    steps = np.diff(times)
    assert np.allclose(steps, steps.mean() if len(steps) else 0)
    slowest, fastest = (spacing_s * factor for factor in SPACING_JITTER)
    assert np.all((steps >= slowest - 1e-9) & (steps <= fastest + 1e-9))
    if length_s > num_segments * fastest / EARLIEST_END:
        assert times[0] >= start_s - 1e-9, "a long action is not left"


def test_live_windows_vary_in_spacing_and_end():
    rng = np.random.default_rng(0)
    windows = np.stack([live_times(0, 2, 4, 0.5, rng) for _ in range(400)])
    spacing, end = windows[:, 1] - windows[:, 0], windows[:, -1]
    assert spacing.min() < 0.39
    assert spacing.max() > 0.65
    assert end.min() < 1.52
    assert end.max() > 1.98


def test_live_windows_of_a_long_action_lie_anywhere_and_often_at_its_end():
    rng = np.random.default_rng(0)
    ends = np.array([live_times(100, 130, 4, 0.5, rng)[-1] for _ in range(2000)])
    shares = np.histogram(ends, 10, (101.5, 130))[0] / len(ends)
    assert shares[:9].min() > 0.04, "three quarters lie anywhere"
    assert shares[:9].max() < 0.12
    assert 0.23 < np.mean(ends > 129.3) < 0.33, "a quarter ends with the action"


def test_the_live_tests_window_ends_with_the_action_and_reaches_into_the_past():
    assert np.allclose(live_times(5.0, 7.0, 4, 0.5), segment_times(5.0, 7.0, 4))
    assert np.allclose(live_times(5.0, 6.0, 4, 0.5), [4.25, 4.75, 5.25, 5.75])
    assert live_times(5.0, 5.1, 1, 0.5).tolist() == [5.0], "not before the action"


def test_the_first_frame_at_or_after_a_time_is_taken():
    frames = np.array([0.0, 0.1, 0.2, 0.3])
    times = np.array([-5.0, 0.0, 0.05, 0.1, 0.1 + 1e-9, 0.1001, 0.3, 7.0])
    chosen = indices_at(times, frames)
    # float dust is no reason to wait for the next frame
    assert chosen.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    assert chosen.dtype == np.int64
