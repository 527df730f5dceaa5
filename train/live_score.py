"""How good live decisions are: one continuous stream against the truth of what happened when.

The headline is `live_top1`: the answer at the last tick of each action. It never stands alone;
beside it are false events, event F1, delay, and accuracy by an action's length and by how long
the stream has been running (docs/design.md, Live).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.truth import Segment, read_truth
from train.live_events import (
    NO_LABEL,
    Indices,
    Times,
    num_matched,
    seconds_outside,
    simple_events,
)

__all__ = [
    "Bin",
    "LiveDecision",
    "LiveScore",
    "Segment",
    "answers",
    "read_truth",
    "score_live",
]

# Bin edges; a value on an edge belongs to the bin above it.
DURATION_EDGES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
EARLIER_EDGES = (0, 1, 2, 4, 8, 16, 32, 64)


class LiveDecision(Protocol):
    """What scoring needs of a decision; `runtime.decision.Decision` has it."""

    @property
    def stream_time_s(self) -> float:
        """Stream time of the frame the tick used."""

    @property
    def index(self) -> int:
        """Class with the largest probability."""

    @property
    def warming(self) -> bool:
        """Whether fewer frames than a window's were seen since the reset."""


@dataclass(frozen=True)
class Bin:
    """Accuracy of the actions with a value in [lower, upper); no upper for the last bin."""

    lower: float
    upper: float | None
    num_actions: int
    top1: float | None


@dataclass(frozen=True, kw_only=True)
class LiveScore:
    """Live metrics of one stream; accuracies are 0..1, None where nothing could be counted.

    Attributes:
        num_actions: Actions in the truth.
        num_scored: Actions that start at least a window after a reset and have enough earlier
            actions; `live_top1`, `recall`, `confusion`, `by_duration` and the delays are theirs.
        num_undecided: Scored actions before whose end there was no tick; they count as wrong.
        live_top1: Share of scored actions whose label leads at the last tick <= end_s.
        by_duration: Accuracy by duration ÷ window.
        by_earlier: Accuracy by the number of earlier actions since the reset, over all actions
            that start at least a window after it.
        recall: Accuracy of each class.
        confusion: Scored actions, rows true classes, columns the answers, in label order.
        delay_found: Share of scored actions, background aside, that end in a right run.
        delay_median_s: Median time from an action's start to the first right decision that holds
            until its end, over the actions that have one.
        delay_p90_s: The 90th percentile of the same.
        outside_s: Seconds with decisions outside actions; background counts as outside.
        num_false_events: Events that start outside actions.
        false_events_per_hour: The same for one hour outside actions.
        event_precision: Share of events that match an action: same label, IoU >= 0.5.
        event_recall: Share of actions, background aside, that an event matches.
        event_f1: Harmonic mean of the two.
    """

    num_actions: int
    num_scored: int
    num_undecided: int
    live_top1: float | None
    by_duration: tuple[Bin, ...]
    by_earlier: tuple[Bin, ...]
    recall: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]
    delay_found: float | None
    delay_median_s: float | None
    delay_p90_s: float | None
    outside_s: float
    num_false_events: int
    false_events_per_hour: float | None
    event_precision: float | None
    event_recall: float | None
    event_f1: float | None

    def to_json(self) -> dict[str, Any]:
        """The score as plain values for a report."""
        return asdict(self)


@dataclass(frozen=True)
class _Action:
    """A true action and what the stream said about it."""

    segment: Segment
    true: int
    answer: int
    since_reset_s: float
    num_earlier: int
    delay_s: float | None

    @property
    def is_right(self) -> bool:
        return self.answer == self.true


@dataclass(frozen=True, eq=False)
class _Track:
    """Decisions as arrays, in order of time."""

    times_s: Times
    index: Indices
    warming: NDArray[np.bool_]


def score_live(
    truth: Sequence[Segment],
    decisions: Sequence[LiveDecision],
    labels: Sequence[str],
    *,
    window_s: float,
    min_earlier: int = 16,
    background: str | None = "still",
    resets_s: Sequence[float] = (0.0,),
) -> LiveScore:
    """Score the decisions of one stream.

    Events are plain runs of the same top label, so no threshold hides or helps. Warming decisions
    make no events. Actions that start less than a window after a reset, and events that start in
    them, are left out of precision and recall.

    Args:
        truth: The actions of one video.
        decisions: The stream's decisions, times ascending.
        labels: Class names in the order of the model's outputs.
        window_s: The contract's window, > 0.
        min_earlier: Earlier actions since the reset that a scored action needs, >= 0.
        background: The label that means "nothing happens", None if there is none.
        resets_s: Stream times at which the state was reset, the start among them, ascending.

    Raises:
        ValueError: Times run backwards, a label or index is unknown, the truth is of several
            videos, or a number is out of range.
    """
    _check(truth, labels, window_s, min_earlier, background, resets_s)
    track = _track(decisions, len(labels))
    actions = _actions(truth, track, labels, resets_s)
    warm = [action for action in actions if action.since_reset_s >= window_s]
    scored = [action for action in warm if action.num_earlier >= min_earlier]
    quiet = labels.index(background) if background is not None else NO_LABEL
    return LiveScore(
        num_actions=len(actions),
        num_scored=len(scored),
        num_undecided=sum(action.answer == NO_LABEL for action in scored),
        live_top1=_share_right(scored),
        by_duration=_binned(scored, DURATION_EDGES, lambda a: _length_s(a) / window_s),
        by_earlier=_binned(warm, EARLIER_EDGES, lambda a: a.num_earlier),
        recall={
            label: _share_right([a for a in scored if a.true == index])
            for index, label in enumerate(labels)
        },
        confusion=_confusion(scored, len(labels)),
        **_delays([a for a in scored if a.true != quiet]),
        **_event_metrics(track, actions, window_s, quiet),
    )


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
    track = _track(decisions, len(labels))
    in_order = sorted(truth, key=lambda segment: segment.start_s)
    return [_answer(segment, NO_LABEL, track)[0] for segment in in_order]


def _check(
    truth: Sequence[Segment],
    labels: Sequence[str],
    window_s: float,
    min_earlier: int,
    background: str | None,
    resets_s: Sequence[float],
) -> None:
    if not (math.isfinite(window_s) and window_s > 0):
        raise ValueError(f"window_s must be > 0, got {window_s}")
    if min_earlier < 0:
        raise ValueError(f"min_earlier must be >= 0, got {min_earlier}")
    if not resets_s or any(b < a for a, b in pairwise(resets_s)):
        raise ValueError(f"resets_s must ascend and hold the stream's start, got {resets_s}")
    for label in {segment.label for segment in truth} | ({background} - {None}):
        if label not in labels:
            raise ValueError(f"label must be one of {', '.join(labels)}, got {label!r}")
    paths = sorted({segment.path for segment in truth})
    if len(paths) > 1:
        raise ValueError(f"truth must be of one video, got {paths[0]!r} and {paths[1]!r}")


def _track(decisions: Sequence[LiveDecision], num_labels: int) -> _Track:
    times_s = np.array([d.stream_time_s for d in decisions], np.float64)
    index = np.array([d.index for d in decisions], np.int64)
    if np.any(np.diff(times_s) < 0):
        at = int(np.argmax(np.diff(times_s) < 0)) + 1
        raise ValueError(
            f"decision {at} is at {times_s[at]} s, the one before at {times_s[at - 1]}"
        )
    if np.any((index < 0) | (index >= num_labels)):
        raise ValueError(f"a decision's index must be in 0..{num_labels - 1}, got {index.tolist()}")
    return _Track(times_s, index, np.array([d.warming for d in decisions], np.bool_))


def _actions(
    truth: Sequence[Segment], track: _Track, labels: Sequence[str], resets_s: Sequence[float]
) -> list[_Action]:
    in_order = sorted(truth, key=lambda segment: segment.start_s)
    starts = np.array([segment.start_s for segment in in_order])
    actions = []
    for number, segment in enumerate(in_order):
        true = labels.index(segment.label)
        reset_s = max((r for r in resets_s if r <= segment.start_s), default=math.inf)
        earlier = number - int(np.searchsorted(starts, reset_s))
        answer, delay_s = _answer(segment, true, track)
        since_s = segment.start_s - reset_s
        actions.append(_Action(segment, true, answer, since_s, max(0, earlier), delay_s))
    return actions


def _answer(segment: Segment, true: int, track: _Track) -> tuple[int, float | None]:
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


def _share_right(actions: Sequence[_Action]) -> float | None:
    return _ratio(sum(action.is_right for action in actions), len(actions))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _length_s(action: _Action) -> float:
    # times of a csv file carry float dust; without rounding 3.0 s ÷ 2.0 s may miss its bin
    return round(action.segment.end_s - action.segment.start_s, 6)


def _binned(
    actions: Sequence[_Action], edges: Sequence[float], value: Callable[[_Action], float]
) -> tuple[Bin, ...]:
    """Accuracy by value; values below the first edge fall into the first bin."""
    place = np.searchsorted(edges, [value(action) for action in actions], side="right") - 1
    place = np.maximum(place, 0)
    bins = []
    for number, (lower, upper) in enumerate(zip(edges, (*edges[1:], None), strict=True)):
        members = [action for action, at in zip(actions, place, strict=True) if at == number]
        bins.append(Bin(lower, upper, len(members), _share_right(members)))
    return tuple(bins)


def _confusion(actions: Iterable[_Action], num_labels: int) -> tuple[tuple[int, ...], ...]:
    counts = np.zeros((num_labels, num_labels), np.int64)
    for action in actions:
        if action.answer != NO_LABEL:
            counts[action.true, action.answer] += 1
    return tuple(tuple(int(n) for n in row) for row in counts)


def _delays(actions: Sequence[_Action]) -> dict[str, Any]:
    found = [action.delay_s for action in actions if action.delay_s is not None]
    median, p90 = np.percentile(found, [50, 90]).tolist() if found else (None, None)
    return {
        "delay_found": _ratio(len(found), len(actions)),
        "delay_median_s": median,
        "delay_p90_s": p90,
    }


def _event_metrics(
    track: _Track, actions: Sequence[_Action], window_s: float, background: int
) -> dict[str, Any]:
    events = simple_events(track.times_s, track.index, track.warming, background)
    busy = [action for action in actions if action.true != background]
    cold = [action.segment for action in busy if action.since_reset_s < window_s]
    judged = [event for event in events if not _inside(event.start_s, cold)]
    due = [action for action in busy if action.since_reset_s >= window_s]
    num_false = sum(not _inside(event.start_s, [a.segment for a in busy]) for event in events)
    outside_s = seconds_outside(track.times_s, track.warming, [a.segment for a in busy])
    matched = num_matched(judged, [(a.true, a.segment) for a in due])
    return {
        "outside_s": outside_s,
        "num_false_events": num_false,
        "false_events_per_hour": _ratio(3600 * num_false, outside_s),
        "event_precision": _ratio(matched, len(judged)),
        "event_recall": _ratio(matched, len(due)),
        "event_f1": _ratio(2 * matched, len(judged) + len(due)),
    }


def _inside(time_s: float, segments: Iterable[Segment]) -> bool:
    return any(segment.start_s <= time_s < segment.end_s for segment in segments)
