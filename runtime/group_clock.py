"""One clock for several live streams: when each begins, and how it stays with the others.

Right answers need none of this, for rows of a batch do not know each other. It is about cost: a
step of N rows costs the same however many of them are due, so their ticks should fall together.
Tick k of every stream lies at the same moment of the monotonic clock. A stream keeps its own time
between its ticks; where that drifts away, by parts per million over hours or because its first
frames came in a burst, it slips back, once and without a reset. Pure: frames in, times out.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from runtime.segments import Tick
from runtime.sources.frame import Frame

# Of a tick's interval: a start that is no later than this still joins the tick.
JOIN_SHARE = 0.5
# Farther from the others' tick than this for a whole window, and a stream slips: for so long all
# wait for it, and more than what networks and loaded machines blur.
SLIP_S = 0.01
RATE_MEMORY = 0.9
NS = 1e9

logger = logging.getLogger(__name__)


class GroupClock:
    """Where the ticks of a group lie on the monotonic clock; the first stream to begin sets them.

    Args:
        window_s: Seconds that the T frames of a phase span.
        num_segments: Segments T.
    """

    def __init__(self, window_s: float, num_segments: int) -> None:
        self.window_s = window_s
        self.spacing_s = window_s / num_segments
        self._anchor_ns: int | None = None

    def since_tick(self, time_ns: float, phases: int) -> tuple[int, float]:
        """The last tick before a time, of a schedule with so many phases.

        Args:
            time_ns: Monotonic clock.
            phases: Interleaved phases, >= 1.

        Returns:
            The tick's number, and the seconds since.
        """
        if self._anchor_ns is None:
            self._anchor_ns = round(time_ns)
        interval_s = self.spacing_s / phases
        elapsed_s = (time_ns - self._anchor_ns) / NS
        number = math.floor(elapsed_s / interval_s + 1e-9)
        return number, elapsed_s - number * interval_s

    def off_by_s(self, time_ns: float, phase: int, phases: int) -> float:
        """How far a tick of a phase lies behind the group's tick of that phase.

        Returns:
            Seconds, at most half a tick's interval; less than 0 before it: a schedule can wait
            for the group at any distance, and catch up so far without leaving out a tick.
        """
        number, since_s = self.since_tick(time_ns, phases)
        interval_s = self.spacing_s / phases
        behind_s = ((number - phase) % phases) * interval_s + since_s
        return behind_s - self.spacing_s if behind_s > interval_s / 2 else behind_s


@dataclass(frozen=True)
class Beginning:
    """Where a stream's tick 0 is: its stream time and its phase."""

    start_s: float
    first_phase: int


class StreamClock:
    """One stream's time against the group's.

    Args:
        group: The clock of its group.
        name: The stream's name, for the log.
    """

    def __init__(self, group: GroupClock, name: str) -> None:
        self._group = group
        self._name = name
        self._offset_ns = math.inf  # monotonic clock less stream time, of the fastest frame
        self._least_ns = math.inf  # the same since the last look at it
        self._last: Frame | None = None
        self._interval_ns: float | None = None
        self._since_s: float | None = None

    def begin(self, frame: Frame, phases: int) -> Beginning:
        """Begin a schedule, so that its ticks are the group's.

        The tick just gone is joined where the frame is the first after it or nearly so; else the
        stream waits for the next one.

        Args:
            frame: The stream's first frame.
            phases: Interleaved phases of its schedule.
        """
        self._forget()
        interval_s = self._group.spacing_s / phases
        number, since_s = self._group.since_tick(frame.grabbed_ns, phases)
        if since_s > JOIN_SHARE * interval_s:
            number, since_s = number + 1, since_s - interval_s
        return Beginning(frame.stream_time_s - since_s, number % phases)

    def see(self, frame: Frame) -> None:
        """Learn from a frame when the stream's frames come. Every frame, in order."""
        offset_ns = frame.grabbed_ns - frame.stream_time_s * NS
        self._least_ns = min(self._least_ns, offset_ns)
        self._offset_ns = min(self._offset_ns, offset_ns)
        if self._last is not None:
            # frames that were dropped in between came as well
            number = max(1, frame.index - self._last.index)
            interval_ns = (frame.grabbed_ns - self._last.grabbed_ns) / number
            if self._interval_ns is not None:
                interval_ns = RATE_MEMORY * self._interval_ns + (1 - RATE_MEMORY) * interval_ns
            self._interval_ns = interval_ns
        self._last = frame

    def slip_s(self, tick: Tick, phases: int) -> float:
        """How far a schedule has to move to be with the group again; 0 nearly always.

        Once a window; frames that were delayed on their way do not count, only the fastest does.

        Args:
            tick: A tick that a frame serves.
            phases: Interleaved phases of the schedule.

        Returns:
            Seconds for `SegmentSchedule.slip`.
        """
        if self._since_s is None:
            self._since_s = tick.time_s
        if tick.time_s - self._since_s < self._group.window_s:
            return 0.0
        self._offset_ns, self._least_ns, self._since_s = self._least_ns, math.inf, tick.time_s
        off_s = self._group.off_by_s(tick.time_s * NS + self._offset_ns, tick.phase, phases)
        if abs(off_s) <= SLIP_S:
            return 0.0
        logger.debug("%s: ticks %+.0f ms from the others'; it slips", self._name, 1000 * off_s)
        return -off_s

    def arrival_ns(self, time_s: float) -> float:
        """Monotonic clock when the first frame at or after a stream time should be here.

        Args:
            time_s: Stream time.
        """
        due_ns = time_s * NS + self._offset_ns
        if self._last is None or not self._interval_ns:
            return due_ns
        last_ns = self._last.grabbed_ns
        # half a frame early rather than late: who waits in vain waits no longer for it
        frames = max(1, math.ceil((due_ns - last_ns) / self._interval_ns - 0.5))
        return last_ns + frames * self._interval_ns

    def _forget(self) -> None:
        self._offset_ns = self._least_ns = math.inf
        self._last = self._interval_ns = self._since_s = None
