"""A live tape read action by action: what the stream said about each, and how soon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.truth import Segment
from train.live_events import NO_LABEL, Event, Indices, Times


class LiveDecision(Protocol):
    """What scoring needs of a decision; `runtime.decision.Decision` has it."""

    @property
    def stream_time_s(self) -> float:
        """Stream time of the frame the tick used."""

    @property
    def index(self) -> int:
        """Class with the largest probability."""

    @property
    def prob(self) -> float:
        """Its probability, 0..1."""

    @property
    def probs(self) -> NDArray[np.float32]:
        """Probabilities of all classes, shape (K,); not read where events are given."""

    @property
    def warming(self) -> bool:
        """Whether fewer frames than a window's were seen since the reset."""


@dataclass(frozen=True, eq=False)
class LiveTape:
    """One stream and the truth about it.

    Attributes:
        truth: The actions of one video.
        decisions: The stream's decisions, times ascending.
        min_earlier: Earlier actions since the reset that a scored action needs, >= 0.
        resets_s: Stream times at which the state was reset, the start among them, ascending.
        events: What the stream reported; None where a policy shall find it in the decisions.
    """

    truth: Sequence[Segment]
    decisions: Sequence[LiveDecision]
    min_earlier: int = 16
    resets_s: Sequence[float] = (0.0,)
    events: Sequence[Event] | None = None


@dataclass(frozen=True)
class Action:
    """A true action and what the stream said about it.

    Attributes:
        segment: The action.
        true: Its class.
        answer: The top label at the last tick <= end_s; -1 before the first tick.
        since_reset_s: Seconds from the last reset to its start.
        num_earlier: Actions since that reset.
        delay_s: Seconds from its start to the right answer that holds until its end, or None.
    """

    segment: Segment
    true: int
    answer: int
    since_reset_s: float
    num_earlier: int
    delay_s: float | None

    @property
    def is_right(self) -> bool:
        """Whether the answer is its class."""
        return self.answer == self.true

    @property
    def length_s(self) -> float:
        """Seconds it lasts."""
        # times of a csv file carry float dust; without rounding 3.0 s ÷ 2.0 s may miss its bin
        return round(self.segment.end_s - self.segment.start_s, 6)


@dataclass(frozen=True, eq=False)
class Track:
    """Decisions as arrays of shape (D,), in order of time."""

    times_s: Times
    index: Indices
    prob: Times
    warming: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReadTape:
    """A tape's decisions and its actions with what was said about them; see `LiveTape`."""

    track: Track
    actions: tuple[Action, ...]
    min_earlier: int
    decisions: Sequence[LiveDecision]
    events: Sequence[Event] | None = None


def read_tape(tape: LiveTape, labels: Sequence[str]) -> ReadTape:
    """Find what the stream said about every action of a tape.

    Args:
        tape: The stream and its truth.
        labels: Class names in the order of the model's outputs.

    Raises:
        ValueError: Times run backwards, a label or index is unknown, the truth is of several
            videos, or a number is out of range.
    """
    _check(tape, labels)
    track = track_of(tape.decisions, len(labels))
    in_order = sorted(tape.truth, key=lambda segment: segment.start_s)
    starts = np.array([segment.start_s for segment in in_order])
    actions = []
    for number, segment in enumerate(in_order):
        true = labels.index(segment.label)
        reset_s = max((r for r in tape.resets_s if r <= segment.start_s), default=math.inf)
        earlier = number - int(np.searchsorted(starts, reset_s))
        answer, delay_s = answer_of(segment, true, track)
        since_s = segment.start_s - reset_s
        actions.append(Action(segment, true, answer, since_s, max(0, earlier), delay_s))
    return ReadTape(track, tuple(actions), tape.min_earlier, tape.decisions, tape.events)


def answers(
    truth: Sequence[Segment], decisions: Sequence[LiveDecision], labels: Sequence[str]
) -> list[int]:
    """What the stream said at each action's end, the earliest action first.

    Args:
        truth: The actions of one video.
        decisions: The stream's decisions, times ascending.
        labels: Class names in the order of the model's outputs.

    Returns:
        The class index at the last tick <= end_s of each action; -1 before the first tick.
    """
    track = track_of(decisions, len(labels))
    in_order = sorted(truth, key=lambda segment: segment.start_s)
    return [answer_of(segment, NO_LABEL, track)[0] for segment in in_order]


def track_of(decisions: Sequence[LiveDecision], num_labels: int) -> Track:
    """Decisions as arrays.

    Raises:
        ValueError: Times run backwards, or an index is unknown.
    """
    times_s = np.array([d.stream_time_s for d in decisions], np.float64)
    index = np.array([d.index for d in decisions], np.int64)
    if np.any(np.diff(times_s) < 0):
        at = int(np.argmax(np.diff(times_s) < 0)) + 1
        raise ValueError(
            f"decision {at} is at {times_s[at]} s, the one before at {times_s[at - 1]}"
        )
    if np.any((index < 0) | (index >= num_labels)):
        raise ValueError(f"a decision's index must be in 0..{num_labels - 1}, got {index.tolist()}")
    prob = np.array([d.prob for d in decisions], np.float64)
    return Track(times_s, index, prob, np.array([d.warming for d in decisions], np.bool_))


def answer_of(segment: Segment, true: int, track: Track) -> tuple[int, float | None]:
    """The top label at the last tick <= end_s, and the delay of a right answer that holds."""
    first = int(np.searchsorted(track.times_s, segment.start_s, side="left"))
    stop = int(np.searchsorted(track.times_s, segment.end_s, side="right"))
    if stop == 0:
        return NO_LABEL, None
    answer = int(track.index[stop - 1])
    inside = track.index[first:stop]
    if answer != true or len(inside) == 0:
        return answer, None
    wrong = np.flatnonzero(inside != true)
    holds_from = first + (int(wrong[-1]) + 1 if len(wrong) else 0)
    return answer, float(track.times_s[holds_from]) - segment.start_s


def _check(tape: LiveTape, labels: Sequence[str]) -> None:
    if tape.min_earlier < 0:
        raise ValueError(f"min_earlier must be >= 0, got {tape.min_earlier}")
    resets_s = tape.resets_s
    if not resets_s or any(b < a for a, b in pairwise(resets_s)):
        raise ValueError(f"resets_s must ascend and hold the stream's start, got {resets_s}")
    for label in {segment.label for segment in tape.truth}:
        require_label(label, labels)
    paths = sorted({segment.path for segment in tape.truth})
    if len(paths) > 1:
        raise ValueError(f"truth must be of one video, got {paths[0]!r} and {paths[1]!r}")


def require_label(label: str, labels: Sequence[str]) -> None:
    """Refuse a label the model does not know.

    Raises:
        ValueError: It is unknown.
    """
    if label not in labels:
        raise ValueError(f"label must be one of {', '.join(labels)}, got {label!r}")
