"""Events of a live stream, and how they match what happened.

An event is a plain run of the same top label. A rule may ask for a probability or a length; no
hysteresis, no smoothing: what is scored here is the model, not the polish of a product.
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
class EventRule:
    """Which runs of decisions count as events.

    Attributes:
        threshold: Decisions of a smaller probability say nothing, 0..1; 0 lets all speak.
        min_duration_s: Shorter runs are dropped.
    """

    threshold: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in 0..1, got {self.threshold}")
        if not self.min_duration_s >= 0:
            raise ValueError(f"min_duration_s must be >= 0, got {self.min_duration_s}")


EVERY_RUN = EventRule()


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


def ruled_events(
    times_s: Times,
    index: Indices,
    warming: NDArray[np.bool_],
    prob: Times,
    background: int,
    rule: EventRule = EVERY_RUN,
) -> list[Event]:
    """Runs of the same top label that a rule lets through.

    Args:
        times_s: Stream times of the decisions, shape (D,), float64, ascending.
        index: Their top labels, shape (D,), int64.
        warming: Whether they were warming, shape (D,), bool.
        prob: Their probabilities, shape (D,), float64.
        background: The label that makes no event, -1 for none.
        rule: Which runs count.

    Example:
        >>> times, warming = np.arange(4.0), np.zeros(4, bool)
        >>> sure = np.array([0.4, 0.9, 0.9, 0.9])
        >>> ruled_events(times, np.array([1, 1, 1, 2]), warming, sure, 2, EventRule(0.5))
        [Event(start_s=1.0, end_s=3.0, index=1)]
    """
    silent = warming | (prob < rule.threshold)
    events = simple_events(times_s, index, silent, background)
    return [event for event in events if event.end_s - event.start_s >= rule.min_duration_s]


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
    overlaps = [
        (_iou(event, segment), e, a)
        for e, event in enumerate(events)
        for a, (index, segment) in enumerate(actions)
        if event.index == index
    ]
    free_events, found = set(range(len(events))), [False] * len(actions)
    for iou, e, a in sorted(overlaps, reverse=True):
        if iou >= MATCH_IOU and e in free_events and not found[a]:
            free_events.remove(e)
            found[a] = True
    return found


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
