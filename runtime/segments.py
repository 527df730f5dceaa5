"""The sliding segment buffer: which frames a live stream uses, and the logits it remembers.

A clip of training is T frames over window_s seconds. Live, tick k lies at k · window_s / (T · P)
after the first frame and belongs to phase k mod P; so each phase sees frames spaced as in
training, and P phases decide P times as often. Pure: times in, ticks out.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.sampling import SamplingContract
from runtime.sessions.base import Logits

# Stream times are milliseconds in float64: a frame this little early is on time.
TOLERANCE_S = 1e-6
# A phase that missed one tick goes on; the state of one that missed two is of another moment.
LONGEST_GAP = 2


@dataclass(frozen=True)
class Tick:
    """A moment at which one phase takes one step.

    Attributes:
        index: k, from 0 at the schedule's start.
        phase: k mod phases, from the schedule's first phase on.
        time_s: Stream time of the tick; its frame comes at or after it.
        missed: Ticks right before this one that no frame came for.
        is_first: The phase's first tick since the schedule started.
        is_gap: The phase's last tick lies more than two spacings back.
    """

    index: int
    phase: int
    time_s: float
    missed: int
    is_first: bool
    is_gap: bool


class SegmentSchedule:
    """Picks, by time, the frames that are used.

    Args:
        window_s: Seconds that the T frames of a phase span.
        num_segments: Segments T.
        phases: Interleaved phases, >= 1.

    Raises:
        ValueError: An argument out of range.

    Example:
        >>> schedule = SegmentSchedule(window_s=1.0, num_segments=2, phases=2)
        >>> ticks = [schedule.offer(index / 10) for index in range(8)]
        >>> [(index, tick.phase) for index, tick in enumerate(ticks) if tick]
        [(0, 0), (3, 1), (5, 0)]
    """

    def __init__(self, window_s: float, num_segments: int, phases: int = 1) -> None:
        if not (math.isfinite(window_s) and window_s > 0):
            raise ValueError(f"window_s must be > 0, got {window_s}; set --window")
        if num_segments < 1 or phases < 1:
            raise ValueError(f"num_segments and phases must be >= 1, got {num_segments}, {phases}")
        self.phases = phases
        self.spacing_s = window_s / num_segments
        self.interval_s = self.spacing_s / phases
        self.missed = 0
        self._start_s: float | None = None
        self._first_phase = 0
        self._next = 0
        self._last: dict[int, int] = {}

    @property
    def has_begun(self) -> bool:
        """Whether it is known when tick 0 is."""
        return self._start_s is not None

    @property
    def next_tick(self) -> tuple[float, int] | None:
        """Stream time and phase of the next tick; None before the schedule began."""
        if self._start_s is None:
            return None
        return self._start_s + self._next * self.interval_s, self._phase_of(self._next)

    def restart(self) -> None:
        """Forget the past: the next frame is at tick 0. The count of missed ticks goes on."""
        self._start_s = None
        self._first_phase = 0
        self._next = 0
        self._last = {}

    def begin(self, start_s: float, first_phase: int) -> None:
        """Put tick 0 at a time of its own, instead of at the next frame.

        Args:
            start_s: Stream time of tick 0; frames before it are not used.
            first_phase: The phase of tick 0.

        Raises:
            ValueError: No such phase, or it has begun already: restart first.
        """
        if not 0 <= first_phase < self.phases:
            raise ValueError(f"first_phase must be 0 ... {self.phases - 1}, got {first_phase}")
        if self.has_begun:
            raise ValueError("this schedule has begun; restart it first")
        self._start_s = start_s
        self._first_phase = first_phase

    def slip(self, later_s: float) -> None:
        """Move every tick to come by that many seconds; nothing is reset, none comes twice.

        Raises:
            ValueError: It has not begun.
        """
        if self._start_s is None:
            raise ValueError("this schedule has not begun; there is nothing to move")
        self._start_s += later_s

    def offer(self, time_s: float) -> Tick | None:
        """Offer a frame.

        Args:
            time_s: The frame's stream time.

        Returns:
            The tick that the frame serves; None where its turn has not come.

        Raises:
            ValueError: `time_s` is not finite.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"time_s must be finite, got {time_s}")
        if self._start_s is None:
            self._start_s = time_s
        index = math.floor((time_s - self._start_s + TOLERANCE_S) / self.interval_s)
        if index < self._next:
            return None
        missed = index - self._next
        self.missed += missed
        self._next = index + 1
        return self._tick(index, missed, self._start_s)

    def _phase_of(self, index: int) -> int:
        return (index + self._first_phase) % self.phases

    def _tick(self, index: int, missed: int, start_s: float) -> Tick:
        phase = self._phase_of(index)
        last = self._last.get(phase)
        self._last[phase] = index
        return Tick(
            index=index,
            phase=phase,
            time_s=start_s + index * self.interval_s,
            missed=missed,
            is_first=last is None,
            is_gap=last is not None and index - last > LONGEST_GAP * self.phases,
        )


class LogitsRings:
    """The last logits of every phase.

    Entries older than the window fall out, or older than `consensus_len` spacings where that is
    more.

    Args:
        sampling: The bundle's contract.
        phases: Interleaved phases.
    """

    def __init__(self, sampling: SamplingContract, phases: int) -> None:
        self._warm_after = sampling.num_segments
        self._consensus_len = sampling.consensus_len
        self._oldest = max(sampling.num_segments, sampling.consensus_len) * phases
        self._seen = [0] * phases
        self._rings: list[deque[tuple[int, Logits]]] = [
            deque(maxlen=sampling.consensus_len) for _ in range(phases)
        ]

    @property
    def warming(self) -> bool:
        """Whether some phase has not seen T frames since its reset."""
        return min(self._seen) < self._warm_after

    def add(self, tick: Tick, logits: Logits) -> None:
        """Remember one step's logits, shape (K,), float32."""
        self._seen[tick.phase] += 1
        self._rings[tick.phase].append((tick.index, logits))

    def clear(self, phase: int) -> None:
        """Forget a phase: its state was reset."""
        self._seen[phase] = 0
        self._rings[phase].clear()

    def windows(self, now: int) -> list[NDArray[np.float32]]:
        """What a decision at tick `now` averages.

        Returns:
            For every phase that has any, its last logits, shape (1 ... consensus_len, K).
        """
        for ring in self._rings:
            while ring and ring[0][0] <= now - self._oldest:
                ring.popleft()
        return [np.stack([logits for _, logits in ring]) for ring in self._rings if ring]
