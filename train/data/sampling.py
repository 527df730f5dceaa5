"""Which moments of a clip the model sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPACING_JITTER = (0.75, 1.33)
# A live decision may come before the action's end: a training window ends in its last part.
EARLIEST_END = 0.75


def segment_times(start_s: float, end_s: float, num_segments: int) -> NDArray[np.float64]:
    """Centres of T equal parts of a clip (TSN, arXiv:1608.00859): the test protocol.

    The times are symmetric: a clip and its reversal are cut alike, so that no order leaks.

    Args:
        start_s: Start of the clip, seconds.
        end_s: End of the clip, > start_s.
        num_segments: T, >= 1.

    Returns:
        Times, shape (T,), float64, seconds, ascending.

    Raises:
        ValueError: An empty clip or no segment.

    Example:
        >>> segment_times(0.0, 2.0, 4).tolist()
        [0.25, 0.75, 1.25, 1.75]
    """
    if not end_s > start_s:
        raise ValueError(f"end_s must be > start_s, got {start_s}..{end_s}")
    if num_segments < 1:
        raise ValueError(f"num_segments must be >= 1, got {num_segments}")
    centres: NDArray[np.float64] = (np.arange(num_segments) + 0.5) / num_segments
    return start_s + centres * (end_s - start_s)


def live_times(
    rng: np.random.Generator, start_s: float, end_s: float, num_segments: int, spacing_s: float
) -> NDArray[np.float64]:
    """A window as the live runtime would see it: ends inside the action, spaced by time.

    The spacing is the contract's × U(0.75, 1.33). Times before the clip's start are kept: the
    caller holds the first frame there, or reads the recording's real past.

    Args:
        rng: Source of randomness.
        start_s: Start of the action, seconds.
        end_s: End of the action, > start_s.
        num_segments: T, >= 1.
        spacing_s: The contract's spacing, > 0.

    Returns:
        Times, shape (T,), float64, seconds, ascending; the last one lies inside the action.
    """
    spacing = spacing_s * rng.uniform(*SPACING_JITTER)
    length = end_s - start_s
    last = start_s + length * rng.uniform(EARLIEST_END, 1.0)
    back: NDArray[np.float64] = np.arange(num_segments - 1, -1, -1, dtype=np.float64)
    return last - back * spacing


def indices_nearest(
    times_s: NDArray[np.float64], middles_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The frame in whose time each moment falls: the rule of the test protocol.

    Of two frames equally near, the one nearer the clip's middle is taken: so a clip and its
    reversal give the same frames (an odd T's middle frame aside).

    Args:
        times_s: Wanted times, shape (T,), symmetric.
        middles_s: Middles of the frames' times, shape (F,), ascending, F >= 1.

    Returns:
        Indices into the frames, shape (T,), int64.

    Example:
        >>> indices_nearest(np.array([1.0, 3.0]), np.array([0.5, 1.5, 2.5, 3.5])).tolist()
        [1, 2]
    """
    after = np.searchsorted(middles_s, times_s - 1e-6, side="left")
    after = np.minimum(after, len(middles_s) - 1)
    before = np.maximum(after - 1, 0)
    lead = (middles_s[after] - times_s) - (times_s - middles_s[before])
    is_early = times_s < times_s.mean() - 1e-6
    takes_after = np.where(is_early, lead < 1e-6, lead < -1e-6)
    return np.where(takes_after, after, before).astype(np.int64)


def indices_at(
    times_s: NDArray[np.float64], frame_times_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The first frame at or after each time: the rule of the live schedule.

    Args:
        times_s: Wanted times, shape (T,).
        frame_times_s: Times of the frames there are, shape (F,), ascending, F >= 1.

    Returns:
        Indices into the frames, shape (T,), int64; times past the end give the last frame.

    Example:
        >>> indices_at(np.array([-1.0, 0.05, 9.0]), np.array([0.0, 0.1, 0.2])).tolist()
        [0, 1, 2]
    """
    found = np.searchsorted(frame_times_s, times_s - 1e-6, side="left")
    return np.minimum(found, len(frame_times_s) - 1).astype(np.int64)
