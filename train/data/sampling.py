"""Which moments of a clip the model sees.

`ClipRule` picks one of three ways: `segments` (TSN: one frame from each of T equal parts), `dense`
(T frames at the contract's spacing) and `live` (as `dense`, but as the camera runtime meets an
action: in its course, with what came before). In training each draws at random; otherwise it is
the test protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Sampling: TypeAlias = Literal["live", "segments", "dense"]
Key: TypeAlias = tuple[int, int]  # epoch, item

SAMPLINGS: tuple[Sampling, ...] = ("live", "segments", "dense")
SPACING_JITTER = (0.75, 1.33)
# A live decision may come before the action's end: a training window ends in its last part.
EARLIEST_END = 0.75
# An action longer than the window is met anywhere; this share of its windows ends with it.
WITH_THE_END = 0.25


@dataclass(frozen=True)
class ClipRule:
    """How a clip is cut from its source.

    Attributes:
        num_segments: Frames T of a clip, >= 1.
        spacing_s: The contract's spacing, for `live` and `dense`.
        sampling: `live`, `segments` or `dense`.
        seed: Seed of random sampling; a clip depends on (seed, epoch, item) and nothing else.
        random: Draw anew in every epoch (training); False is the test protocol. Several clips of
            one source, TSM's `twice_sample` among them, are views: see train/data/views.py.
    """

    num_segments: int
    spacing_s: float
    sampling: Sampling
    seed: int = 0
    random: bool = False

    def __post_init__(self) -> None:
        if self.num_segments < 1:
            raise ValueError(f"num_segments must be >= 1, got {self.num_segments}")
        if self.sampling not in SAMPLINGS:
            raise ValueError(
                f"sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}"
            )
        if not self.spacing_s > 0:
            raise ValueError(f"spacing_s must be > 0, got {self.spacing_s}")

    def indices(
        self,
        start_s: float,
        end_s: float,
        frame_times_s: NDArray[np.float64],
        key: Key,
        *,
        frame_s: float = 0.0,
    ) -> NDArray[np.int64]:
        """The frames a clip takes.

        Args:
            start_s: Start of the clip, seconds.
            end_s: End of the clip, > start_s.
            frame_times_s: Times of the frames there are, shape (F,), ascending, F >= 1; `live`
                windows take the recording's frames before `start_s` as well.
            key: Epoch and item.
            frame_s: Seconds a frame is shown after its time; 0 where its time is its middle.

        Returns:
            Indices into the frames, shape (T,), int64, ascending; a clip of fewer than T frames
            repeats some.

        Raises:
            ValueError: An empty clip.
        """
        if not end_s > start_s:
            raise ValueError(f"end_s must be > start_s, got {start_s}..{end_s}")
        rng = np.random.default_rng((self.seed, *key)) if self.random else None
        if self.sampling == "live":
            times_s = live_times(start_s, end_s, self.num_segments, self.spacing_s, rng)
            return indices_at(times_s, frame_times_s)
        if self.sampling == "dense":
            times_s = dense_times(start_s, end_s, self.num_segments, self.spacing_s, rng)
        else:
            times_s = segment_times(start_s, end_s, self.num_segments, rng)
        return indices_nearest(times_s, frame_times_s + frame_s / 2)


def segment_times(
    start_s: float, end_s: float, num_segments: int, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """One moment in each of T equal parts of a clip (TSN, arXiv:1608.00859).

    The centres are the test protocol. They are symmetric: a clip and its reversal are cut alike,
    so that no order leaks.

    Args:
        start_s: Start of the clip, seconds.
        end_s: End of the clip, > start_s.
        num_segments: T, >= 1.
        rng: Draws a moment uniformly in each part (training); None takes the centres.

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
    place = 0.5 if rng is None else rng.random(num_segments)
    shares: NDArray[np.float64] = (np.arange(num_segments) + place) / num_segments
    return start_s + shares * (end_s - start_s)


def dense_times(
    start_s: float,
    end_s: float,
    num_segments: int,
    spacing_s: float,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Moments of a dense clip: T evenly spaced ones that span `T · spacing_s` seconds.

    The papers count frames (64 of them, every 8th); here the contract's seconds rule, so that
    training and the camera agree whatever a file's rate is: 64 frames of 25 fps are a window of
    2.56 s. A source shorter than the window is taken as a whole.

    Args:
        start_s: Start of the source, seconds.
        end_s: End of the source, > start_s.
        num_segments: T, >= 1.
        spacing_s: The contract's spacing, > 0.
        rng: Draws the window's place, uniform over all that fit; None takes the middle.

    Returns:
        Times, shape (T,), float64, seconds, ascending.

    Example:
        >>> dense_times(0.0, 4.0, 4, 0.5).tolist()
        [1.25, 1.75, 2.25, 2.75]
    """
    spacing = min(spacing_s, (end_s - start_s) / num_segments)
    room = end_s - start_s - (num_segments - 1) * spacing
    place = 0.5 if rng is None else rng.random()
    steps: NDArray[np.float64] = np.arange(num_segments, dtype=np.float64)
    return start_s + place * room + steps * spacing


def live_times(
    start_s: float,
    end_s: float,
    num_segments: int,
    spacing_s: float,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """A window as the live runtime would see it: ends inside the action, spaced by time.

    In training the spacing is the contract's × U(0.75, 1.33). The window of an action no longer
    than itself ends in the action's last quarter. A longer action (or a background gap) is met
    anywhere: the window lies inside it, and a quarter of the windows end in its last spacing.

    In a test the window ends half a spacing before the action does, where ticks find the end on
    average: an action as long as the window is cut as `segment_times` cuts it.

    Times before the clip's start are kept: the caller holds the first frame there, or reads the
    recording's real past.

    Args:
        start_s: Start of the action, seconds.
        end_s: End of the action, > start_s.
        num_segments: T, >= 1.
        spacing_s: The contract's spacing, > 0.
        rng: Source of randomness (training); None is the test's window.

    Returns:
        Times, shape (T,), float64, seconds, ascending; the last one lies inside the action.

    Example:
        >>> live_times(1.0, 3.0, 4, 0.5).tolist()
        [1.25, 1.75, 2.25, 2.75]
    """
    back: NDArray[np.float64] = np.arange(num_segments - 1, -1, -1, dtype=np.float64)
    if rng is None:
        return max(start_s, end_s - spacing_s / 2) - back * spacing_s
    spacing = spacing_s * rng.uniform(*SPACING_JITTER)
    length = end_s - start_s
    earliest = EARLIEST_END * length
    if earliest > num_segments * spacing:
        with_the_end = rng.random() < WITH_THE_END
        earliest = length - spacing if with_the_end else (num_segments - 1) * spacing
    return start_s + rng.uniform(earliest, length) - back * spacing


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
