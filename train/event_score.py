"""Events against the truth: how many actions are found, how many alarms are false, at which price.

The price is a threshold on the probability: `event_curve` tells recall and false events an hour
for each, so that a threshold can be chosen for a camera (on a validation tape, never this one).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runtime.files import whole_file
from runtime.policy import Policy, Rules
from train.data.truth import Segment
from train.live_events import (
    EVERY_RUN,
    NO_LABEL,
    Event,
    events_of,
    matched_actions,
    matched_pairs,
    seconds_outside,
)
from train.live_tape import ReadTape

THRESHOLDS = (0.0, *(round(0.05 * step, 2) for step in range(2, 20)), 0.98, 0.99)


@dataclass(frozen=True, kw_only=True)
class EventScore:
    """Events of all tapes; shares are 0..1, None where nothing could be counted.

    Attributes:
        outside_s: Seconds with decisions outside actions; background counts as outside.
        num_false_events: Events that match no action and start outside all of them.
        false_events_per_hour: The same for one hour outside actions.
        event_precision: Share of events that match an action: same label, IoU >= 0.5.
        event_recall: Share of actions, background aside, that an event matches.
        event_f1: Harmonic mean of the two.
        event_recall_of: Recall of each class.
    """

    outside_s: float
    num_false_events: int
    false_events_per_hour: float | None
    event_precision: float | None
    event_recall: float | None
    event_f1: float | None
    event_recall_of: dict[str, float | None]


@dataclass(frozen=True)
class EventPoint:
    """What one threshold gives."""

    threshold: float
    event_recall: float | None
    event_precision: float | None
    event_f1: float | None
    false_events_per_hour: float | None

    def to_json(self) -> dict[str, Any]:
        """The point as plain values for a report."""
        return asdict(self)


def score_events(
    tapes: Sequence[ReadTape],
    labels: Sequence[str],
    *,
    window_s: float,
    background: int,
    policy: Policy = EVERY_RUN,
) -> EventScore:
    """Score the events of all tapes.

    Actions that start less than a window after a reset, and events that start in them, are left
    out of precision and recall.

    Args:
        tapes: The tapes, read.
        labels: Class names in the order of the model's outputs.
        window_s: The contract's window, > 0.
        background: The label that means "nothing happens", -1 for none.
        policy: Which decisions make an event, where a tape has no events of its own.
    """
    rules = rules_of(policy, labels, background)
    found: list[tuple[int, bool]] = []  # class of an action that was due, whether it was found
    num_judged, num_false, outside_s = 0, 0, 0.0
    for tape in tapes:
        events = events_of(tape.decisions, rules) if tape.events is None else tape.events
        judged = judge_events(tape, events, window_s=window_s, background=background)
        found += judged.found
        num_judged += judged.num_judged
        busy = [action for action in tape.actions if action.true != background]
        segments = [action.segment for action in busy]
        right = {e for e, _ in matched_pairs(events, [(a.true, a.segment) for a in busy])}
        num_false += sum(
            e not in right and not _inside(event.start_s, segments)
            for e, event in enumerate(events)
        )
        outside_s += seconds_outside(tape.track.times_s, tape.track.warming, segments)
    num_matched = sum(hit for _, hit in found)
    return EventScore(
        outside_s=outside_s,
        num_false_events=num_false,
        false_events_per_hour=_ratio(3600 * num_false, outside_s),
        event_precision=_ratio(num_matched, num_judged),
        event_recall=_ratio(num_matched, len(found)),
        event_f1=_ratio(2 * num_matched, num_judged + len(found)),
        event_recall_of={
            label: _mean([hit for index, hit in found if index == number])
            for number, label in enumerate(labels)
        },
    )


@dataclass(frozen=True)
class Judged:
    """Events of one tape against its actions.

    Attributes:
        found: Class of every action that was due, and whether an event matches it.
        num_judged: Events that count in precision.
    """

    found: list[tuple[int, bool]]
    num_judged: int

    @property
    def num_matched(self) -> int:
        """Actions that an event matches."""
        return sum(hit for _, hit in self.found)


def judge_events(
    tape: ReadTape, events: Sequence[Event], *, window_s: float, background: int
) -> Judged:
    """Match one tape's events; what starts less than a window after a reset is left out."""
    busy = [action for action in tape.actions if action.true != background]
    cold = [action.segment for action in busy if action.since_reset_s < window_s]
    due = [(a.true, a.segment) for a in busy if a.since_reset_s >= window_s]
    judged = [event for event in events if not _inside(event.start_s, cold)]
    hits = matched_actions(judged, due)
    return Judged([(i, hit) for (i, _), hit in zip(due, hits, strict=True)], len(judged))


def rules_of(policy: Policy, labels: Sequence[str], background: int) -> Rules:
    """A policy for a model's classes; the background is a class's number, -1 for none."""
    return Rules(policy, labels, None if background == NO_LABEL else labels[background])


def event_curve(
    tapes: Sequence[ReadTape],
    labels: Sequence[str],
    *,
    window_s: float,
    background: int,
    policy: Policy = EVERY_RUN,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[EventPoint, ...]:
    """Recall and false events an hour over a threshold on the probability.

    Args:
        tapes: As in `score_events`.
        labels: As in `score_events`.
        window_s: As in `score_events`.
        background: As in `score_events`.
        policy: What holds besides; the ratio of its exit to its enter threshold is kept.
        thresholds: Enter thresholds of all classes, 0..1.
    """
    ratio = policy.exit / policy.enter if policy.enter else 1.0
    points = []
    for threshold in thresholds:
        point = replace(policy, enter=threshold, exit=threshold * ratio, classes={})
        score = score_events(tapes, labels, window_s=window_s, background=background, policy=point)
        points.append(
            EventPoint(
                threshold,
                score.event_recall,
                score.event_precision,
                score.event_f1,
                score.false_events_per_hour,
            )
        )
    return tuple(points)


def draw_event_curve(points: Sequence[EventPoint], path: Path, title: str = "") -> None:
    """Draw event recall against false events an hour, thresholds beside the points, as PNG.

    Args:
        points: The curve; points without both values are left out.
        path: The PNG; whole or not at all.
        title: Above the picture.
    """
    from matplotlib.figure import Figure

    drawn = [
        (point.threshold, point.false_events_per_hour, point.event_recall)
        for point in points
        if point.false_events_per_hour is not None and point.event_recall is not None
    ]
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([x for _, x, _ in drawn], [y for _, _, y in drawn], "o-", markersize=4)
    shown: set[tuple[float, float]] = set()
    for threshold, x, y in drawn:
        if (x, y) not in shown:  # many thresholds may give one point: the smallest is named
            axis.annotate(f"{threshold:g}", (x, y), xytext=(4, -10), textcoords="offset points",
                          fontsize=7, color="dimgrey")  # fmt: skip
        shown.add((x, y))
    axis.set(xlabel="false events an hour", ylabel="event recall (IoU ≥ 0.5)", ylim=(-0.03, 1.03))
    axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
    axis.set_title(f"{title}\npoints: least probability of a decision".strip(), fontsize=10)
    axis.grid(alpha=0.3)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)


def _inside(time_s: float, segments: Iterable[Segment]) -> bool:
    return any(segment.start_s <= time_s < segment.end_s for segment in segments)


def _mean(hits: Sequence[bool]) -> float | None:
    return _ratio(sum(hits), len(hits))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
