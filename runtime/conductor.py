"""Leads several lanes through one engine: who steps together, and who is not waited for.

A call of the engine steps all lanes that are due in one phase and holds the others. Recordings
advance in step, as fast as they can, the same way every time. Live lanes keep to one clock, and a
call waits for those whose frame is about to come, at most half a tick.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from runtime.batch import Batch
from runtime.errors import TdrlError
from runtime.group_clock import StreamClock
from runtime.lane import Lane
from runtime.readers import End, Readers
from runtime.sources.frame import Frame
from runtime.stepper import Due, Moment

# A lane and what came of its frame; None when the lane has ended.
Happening: TypeAlias = tuple[Lane, Moment | None]

SHORTEST_WAIT_S = 1e-4
LONGEST_WAIT_S = 1.0
NS = 1e9


def play_in_order(lanes: Sequence[Lane], batch: Batch) -> Iterator[Happening]:
    """Take every frame in turn, without threads: one lane of any kind, or several recordings.

    Every lane advances to its next tick; then those of the earliest tick's phase step. So lanes
    that lost each other, over a missing frame, find together again.

    Args:
        lanes: The lanes, by row of the batch. Where one fails, its `failure` says why.
        batch: The engine.

    Raises:
        SessionError: The engine failed.
    """
    frames = {row: iter(lane.source) for row, lane in enumerate(lanes)}
    dues: dict[int, Due] = {}
    while frames or dues:
        for row in [row for row in frames if row not in dues]:
            lane = lanes[row]
            for outcome in _until_due(lane, frames[row]):
                if isinstance(outcome, Due):
                    dues[row] = outcome
                else:
                    yield lane, outcome
            if row not in dues:
                del frames[row]
                yield lane, None
        if dues:
            first = min(dues.values(), key=lambda due: due.tick.index)
            going = {row: due for row, due in dues.items() if due.tick.phase == first.tick.phase}
            for row, moment in batch.step(going).items():
                del dues[row]
                yield lanes[row], lanes[row].show(moment)


def _until_due(lane: Lane, frames: Iterator[Frame]) -> Iterator[Moment | Due]:
    """What comes of a lane's next frames, up to the one that is due; none is when it ended."""
    lane.waits = True
    try:
        for frame in frames:
            lane.waits = False
            if lane.is_over(frame):
                break
            outcome = lane.offer(frame)
            yield outcome
            if isinstance(outcome, Due):
                return
            lane.waits = True
    except (TdrlError, OSError) as err:
        lane.failure = err
    finally:
        lane.waits = False
    lane.has_ended = True


@dataclass(eq=False)
class _Row:
    """A live lane, and what of it waits."""

    lane: Lane
    clock: StreamClock
    backlog: deque[Frame | End] = field(default_factory=deque)
    is_late: bool = False  # waited for in vain, and silent since

    def comes_until(self, until_ns: float, phase: int) -> bool:
        """Whether its frame for a step of that phase should be here by then."""
        next_tick = self.lane.stepper.next_tick
        if self.is_late or self.lane.has_ended or next_tick is None:
            return False
        time_s, its_phase = next_tick
        return its_phase == phase and self.clock.arrival_ns(time_s) <= until_ns


class Conductor:
    """Decides which live lanes step together. No threads, no clock of its own.

    Args:
        lanes: The lanes, by row of the batch.
        clocks: Their clocks, of one group.
        batch: The engine.
        spacing_s: Seconds between the steps of one phase.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        clocks: Sequence[StreamClock],
        batch: Batch,
        spacing_s: float,
    ) -> None:
        self._lanes = lanes
        self._rows = [_Row(*each) for each in zip(lanes, clocks, strict=True)]
        self._dues: dict[int, Due] = {}
        self._batch = batch
        self._spacing_ns = spacing_s * NS

    @property
    def is_done(self) -> bool:
        """Whether every lane has ended and nothing is due."""
        return not self._dues and all(lane.has_ended for lane in self._lanes)

    @property
    def patience_ns(self) -> float | None:
        """Monotonic clock at which a step has to be taken, whoever is missing; None without one."""
        return min((self._until_ns([due]) for due in self._dues.values()), default=None)

    def arrive(self, row: int, item: Frame | End) -> None:
        """Take what a lane's source gave, to be looked at by `advance`."""
        self._rows[row].backlog.append(item)
        self._rows[row].is_late = False

    def advance(self, now_ns: int) -> Iterator[Happening]:
        """Look at all that arrived, and take at most one step.

        Args:
            now_ns: Monotonic clock.

        Raises:
            SessionError: The engine failed.
        """
        yield from self._look()
        going = self._ready(now_ns)
        if going:
            moments = self._batch.step(going)
            for row, moment in moments.items():
                del self._dues[row]
                yield self._lanes[row], self._lanes[row].show(moment)
            yield from self._look()

    def _look(self) -> Iterator[Happening]:
        for row, each in enumerate(self._rows):
            # frames behind one that is due wait for its step: moments come in order
            while each.backlog and row not in self._dues and not each.lane.has_ended:
                outcome = _outcome(each.lane, each.backlog.popleft())
                if isinstance(outcome, Due):
                    self._dues[row] = outcome
                else:
                    yield each.lane, outcome

    def _ready(self, now_ns: int) -> dict[int, Due]:
        """The rows that step now, all of one phase; none where frames are about to come."""
        by_phase: dict[int, dict[int, Due]] = {}
        for row, due in sorted(self._dues.items(), key=lambda each: each[1].frame.grabbed_ns):
            by_phase.setdefault(due.tick.phase, {})[row] = due
        for phase, going in by_phase.items():
            until_ns = self._until_ns(going.values())
            awaited = [
                each
                for row, each in enumerate(self._rows)
                if row not in self._dues and each.comes_until(until_ns, phase)
            ]
            if awaited and now_ns < until_ns:
                continue
            for each in awaited:
                each.is_late = True
            return going
        return {}

    def _until_ns(self, dues: Iterable[Due]) -> float:
        """How long a step waits for others: half a tick from its oldest frame on."""
        phases = max(lane.stepper.phases for lane in self._lanes)
        return min(due.frame.grabbed_ns for due in dues) + self._spacing_ns / phases / 2


def play_together(lanes: Sequence[Lane], conductor: Conductor) -> Iterator[Happening]:
    """Take the newest frames of live lanes as they come. Where one fails, `failure` says why.

    Args:
        lanes: The lanes.
        conductor: Theirs.

    Raises:
        SessionError: The engine failed.
    """
    with Readers([lane.source for lane in lanes]) as readers:
        while not conductor.is_done:
            until_ns = conductor.patience_ns
            wait_s = LONGEST_WAIT_S
            if until_ns is not None:
                wait_s = min(wait_s, (until_ns - time.monotonic_ns()) / NS)
            for lane in lanes:
                lane.waits = True
            # never 0: the reading threads need a moment to hand over what is there
            arrived = readers.take(max(SHORTEST_WAIT_S, wait_s))
            for lane in lanes:
                lane.waits = False
            for row, item in arrived:
                conductor.arrive(row, item)
            yield from conductor.advance(time.monotonic_ns())


def _outcome(lane: Lane, item: Frame | End) -> Moment | Due | None:
    """What comes of a frame; None for the lane's end."""
    if isinstance(item, Frame) and not lane.is_over(item):
        return lane.offer(item)
    if isinstance(item, End):
        lane.failure = item.failure
    lane.has_ended = True
    lane.stop()
    return None
