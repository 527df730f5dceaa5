"""Events of a live stream, and how they match what happened.

An event is a plain run of the same top label: no threshold hides or helps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from train.data.truth import Segment

MATCH_IOU = 0.5
NO_LABEL = -1

Times = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Event:
    """A run of decisions with the same top label, from its first tick to the next run's."""

    start_s: float
    end_s: float
    index: int


def simple_events(
    times_s: Times, index: Indices, warming: NDArray[np.bool_], background: int
) -> list[Event]:
    """Runs of the same top label, without the background and without warming decisions.

    Args:
        times_s: Stream times of the decisions, shape (D,), float64, ascending.
        index: Their top labels, shape (D,), int64.
        warming: Whether they were warming, shape (D,), bool.
        background: The label that makes no event, -1 for none.

    Example:
        >>> times, warming = np.arange(4.0), np.zeros(4, bool)
        >>> simple_events(times, np.array([2, 1, 1, 2]), warming, background=2)
        [Event(start_s=1.0, end_s=3.0, index=1)]
    """
    shown = np.where(warming | (index == background), NO_LABEL, index)
    if len(shown) == 0:
        return []
    borders = [0, *(np.flatnonzero(np.diff(shown)) + 1).tolist(), len(shown)]
    last = len(shown) - 1
    return [
        Event(float(times_s[a]), float(times_s[min(b, last)]), int(shown[a]))
        for a, b in pairwise(borders)
        if shown[a] != NO_LABEL
    ]


def num_matched(events: Sequence[Event], actions: Sequence[tuple[int, Segment]]) -> int:
    """How many pairs of an event and an action of its label have IoU >= 0.5, best pairs first.

    Args:
        events: What was seen.
        actions: What happened: label index and where.
    """
    overlaps = [
        (_iou(event, segment), e, a)
        for e, event in enumerate(events)
        for a, (index, segment) in enumerate(actions)
        if event.index == index
    ]
    free_events, free_actions = set(range(len(events))), set(range(len(actions)))
    for iou, e, a in sorted(overlaps, reverse=True):
        if iou >= MATCH_IOU and e in free_events and a in free_actions:
            free_events.remove(e)
            free_actions.remove(a)
    return len(actions) - len(free_actions)


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
