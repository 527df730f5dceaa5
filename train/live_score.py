"""How good live decisions are: continuous streams against the truth of what happened when.

The headline is `live_top1`: the answer at the last tick of each action. It never stands alone;
beside it are false events, event F1, delay, and accuracy by an action's length and by how long
the stream has been running (docs/design.md, Live).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.policy import Policy
from train.data.truth import Segment, read_truth
from train.event_score import EventScore, score_events
from train.live_events import EVERY_RUN, NO_LABEL
from train.live_tape import (
    Action,
    LiveDecision,
    LiveTape,
    ReadTape,
    answers,
    read_tape,
    require_label,
)

__all__ = [
    "Bin",
    "LiveDecision",
    "LiveScore",
    "LiveTape",
    "Segment",
    "answers",
    "read_truth",
    "score_live",
    "score_tapes",
]

# Bin edges; a value on an edge belongs to the bin above it.
DURATION_EDGES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
EARLIER_EDGES = (0, 1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Bin:
    """Accuracy of the actions with a value in [lower, upper); no upper for the last bin."""

    lower: float
    upper: float | None
    num_actions: int
    top1: float | None


@dataclass(frozen=True, kw_only=True)
class LiveScore(EventScore):
    """Live metrics of one or more streams; accuracies are 0..1, None where nothing was counted.

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

    The events' fields are those of `EventScore`.
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

    def to_json(self) -> dict[str, Any]:
        """The score as plain values for a report."""
        return asdict(self)


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
    """Score the decisions of one stream; see `score_tapes` and `LiveTape`."""
    tape = LiveTape(truth, decisions, min_earlier, resets_s)
    return score_tapes([tape], labels, window_s=window_s, background=background)


def score_tapes(
    tapes: Sequence[LiveTape],
    labels: Sequence[str],
    *,
    window_s: float,
    background: str | None,
    policy: Policy = EVERY_RUN,
) -> LiveScore:
    """Score the decisions of all streams together: every action counts once, on whatever tape.

    Events are plain runs of the same top label, as long as no policy is given. Warming decisions
    make no events. Actions that start less than a window after a reset, and events that start in
    them, are left out of precision and recall.

    Args:
        tapes: The streams and their truth.
        labels: Class names in the order of the model's outputs.
        window_s: The contract's window, > 0.
        background: The label that means "nothing happens", None if there is none.
        policy: Which decisions make an event, where a tape has no events of its own.

    Raises:
        ValueError: Times run backwards, a label or index is unknown, a tape's truth is of several
            videos, or a number is out of range.
    """
    if not (math.isfinite(window_s) and window_s > 0):
        raise ValueError(f"window_s must be > 0, got {window_s}")
    quiet = index_of(background, labels)
    read = [read_tape(tape, labels) for tape in tapes]
    warm = [_warm(tape, window_s) for tape in read]
    scored = [
        action
        for tape, actions in zip(read, warm, strict=True)
        for action in actions
        if action.num_earlier >= tape.min_earlier
    ]
    return LiveScore(
        num_actions=sum(len(tape.actions) for tape in read),
        num_scored=len(scored),
        num_undecided=sum(action.answer == NO_LABEL for action in scored),
        live_top1=_share_right(scored),
        by_duration=_binned(scored, DURATION_EDGES, lambda a: a.length_s / window_s),
        by_earlier=_binned(
            [action for actions in warm for action in actions],
            EARLIER_EDGES,
            lambda a: a.num_earlier,
        ),
        recall={
            label: _share_right([a for a in scored if a.true == index])
            for index, label in enumerate(labels)
        },
        confusion=_confusion(scored, len(labels)),
        **_delays([a for a in scored if a.true != quiet]),
        **asdict(score_events(read, labels, window_s=window_s, background=quiet, policy=policy)),
    )


def index_of(background: str | None, labels: Sequence[str]) -> int:
    """The background's class, -1 for none.

    Raises:
        ValueError: The label is unknown.
    """
    if background is None:
        return NO_LABEL
    require_label(background, labels)
    return list(labels).index(background)


def _warm(tape: ReadTape, window_s: float) -> list[Action]:
    return [action for action in tape.actions if action.since_reset_s >= window_s]


def _share_right(actions: Sequence[Action]) -> float | None:
    return _ratio(sum(action.is_right for action in actions), len(actions))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _binned(
    actions: Sequence[Action], edges: Sequence[float], value: Callable[[Action], float]
) -> tuple[Bin, ...]:
    """Accuracy by value; values below the first edge fall into the first bin."""
    place = np.searchsorted(edges, [value(action) for action in actions], side="right") - 1
    place = np.maximum(place, 0)
    bins = []
    for number, (lower, upper) in enumerate(zip(edges, (*edges[1:], None), strict=True)):
        members = [action for action, at in zip(actions, place, strict=True) if at == number]
        bins.append(Bin(lower, upper, len(members), _share_right(members)))
    return tuple(bins)


def _confusion(actions: Iterable[Action], num_labels: int) -> tuple[tuple[int, ...], ...]:
    counts = np.zeros((num_labels, num_labels), np.int64)
    for action in actions:
        if action.answer != NO_LABEL:
            counts[action.true, action.answer] += 1
    return tuple(tuple(int(n) for n in row) for row in counts)


def _delays(actions: Sequence[Action]) -> dict[str, Any]:
    found = [action.delay_s for action in actions if action.delay_s is not None]
    median, p90 = np.percentile(found, [50, 90]).tolist() if found else (None, None)
    return {
        "delay_found": _ratio(len(found), len(actions)),
        "delay_median_s": median,
        "delay_p90_s": p90,
    }
