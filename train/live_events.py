"""Events of a live stream, and how they match what happened.

An event is an action as the runtime reports it. With `EVERY_RUN` it is a plain run of the same top
label: that scores the model without the policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.actions import Action, Speaker, actions_of
from runtime.policy import Policy, Rules
from train.data.truth import Segment

MATCH_IOU = 0.5
NO_LABEL = -1
EVERY_RUN = Policy()

Times = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Event:
    """What was reported: from when to when, and the class."""

    start_s: float
    end_s: float
    index: int


def events_of(decisions: Iterable[Speaker], rules: Rules) -> list[Event]:
    """What the runtime reports on a stream: its own state machine on the stream's decisions.

    Args:
        decisions: The stream's decisions, times ascending.
        rules: The policy, for the model's classes.
    """
    return [as_event(action) for action in actions_of(decisions, rules)]


def as_event(action: Action) -> Event:
    """An action that has ended, as scoring sees it.

    Raises:
        ValueError: It goes on.
    """
    if action.end_s is None:
        raise ValueError(f"an action that goes on is no event yet: {action}")
    return Event(action.start_s, action.end_s, action.index)


def num_matched(events: Sequence[Event], actions: Sequence[tuple[int, Segment]]) -> int:
    """How many pairs of an event and an action of its label have IoU >= 0.5, best pairs first.

    Args:
        events: What was seen.
        actions: What happened: label index and where.
    """
    return sum(matched_actions(events, actions))


def matched_actions(events: Sequence[Event], actions: Sequence[tuple[int, Segment]]) -> list[bool]:
    """Which actions an event of their label finds with IoU >= 0.5, one to one, best pairs first.

    Args:
        events: What was seen.
        actions: What happened: label index and where.
    """
    found = {a for _, a in matched_pairs(events, actions)}
    return [a in found for a in range(len(actions))]


def matched_pairs(
    events: Sequence[Event], actions: Sequence[tuple[int, Segment]]
) -> list[tuple[int, int]]:
    """Events and the actions they find, by their numbers; see `matched_actions`."""
    classes = np.array([index for index, _ in actions], np.int64)
    starts_s = np.array([segment.start_s for _, segment in actions])
    ends_s = np.array([segment.end_s for _, segment in actions])
    overlaps = [
        (_iou(event, actions[a][1]), e, a)
        for e, event in enumerate(events)
        for a in np.flatnonzero(
            (classes == event.index) & (starts_s < event.end_s) & (ends_s > event.start_s)
        ).tolist()
    ]
    free_events, free_actions = set(range(len(events))), set(range(len(actions)))
    pairs = []
    for iou, e, a in sorted(overlaps, reverse=True):
        if iou >= MATCH_IOU and e in free_events and a in free_actions:
            free_events.remove(e)
            free_actions.remove(a)
            pairs.append((e, a))
    return pairs


def _iou(event: Event, segment: Segment) -> float:
    shared = min(event.end_s, segment.end_s) - max(event.start_s, segment.start_s)
    union = max(event.end_s, segment.end_s) - min(event.start_s, segment.start_s)
    return max(0.0, shared) / union if union > 0 else 0.0


def seconds_outside(
    times_s: Times, warming: NDArray[np.bool_], segments: Sequence[Segment]
) -> float:
    """Seconds between decisions, warming ones aside, that no segment covers.

    Args:
        times_s: Stream times of the decisions, shape (D,), float64, ascending.
        warming: Whether they were warming, shape (D,), bool.
        segments: What covers; overlaps count once.
    """
    if len(times_s) < 2:
        return 0.0
    uncovered = np.diff(times_s) - np.diff(_covered_until(times_s, segments))
    return max(0.0, float(uncovered[~warming[:-1]].sum()))


def _covered_until(times_s: Times, segments: Sequence[Segment]) -> Times:
    """Seconds before each time that segments cover, overlaps counted once."""
    covered = np.zeros_like(times_s)
    reached = -math.inf
    for segment in sorted(segments, key=lambda s: s.start_s):
        start = max(segment.start_s, reached)
        covered += np.clip(times_s - start, 0, max(0.0, segment.end_s - start))
        reached = max(reached, segment.end_s)
    return covered
