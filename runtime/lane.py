"""One source of a run: its stepper, and what it did so far, for overlays, pages and logs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.errors import TdrlError
from runtime.group_clock import StreamClock
from runtime.latency import LatencyStats
from runtime.sources.frame import Frame, FrameSource
from runtime.stepper import Due, Moment, Stepper


@dataclass(frozen=True)
class StreamCounts:
    """What a stream did so far.

    Attributes:
        captured: Frames the source grabbed.
        used: Frames that went through the model.
        dropped: Frames that a newer one replaced unseen.
        missed: Ticks that no frame came for.
        reconnects: Times that a lost source came back.
    """

    captured: int
    used: int
    dropped: int
    missed: int
    reconnects: int


class Lane:
    """One source on its way through the engine.

    Args:
        bundle: A loaded bundle.
        source: An open source; the caller closes it.
        phases: Interleaved phases of the session, >= 1.
        max_seconds: Stop after so many seconds: of stream time for files, of real time for live
            sources.
        name: Name for people and events; the source's where it is None.
        clock: Keeps its ticks with those of other lanes; None for a lane alone.

    Attributes:
        latency: Grab to decision.
        latest: The last frame and what came of it; None before the first.
        latest_decision: The last decision; None before the first.
        waits: Nothing but a frame is waited for.
        has_ended: No frame will come any more.
        failure: Why it ended before it should; None where it did not.

    Raises:
        ValueError: `max_seconds` is not > 0.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: FrameSource,
        phases: int,
        *,
        max_seconds: float | None = None,
        name: str | None = None,
        clock: StreamClock | None = None,
    ) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"max_seconds must be > 0, got {max_seconds}")
        self.bundle = bundle
        self.source = source
        self.name = source.name if name is None else name
        self.latency = LatencyStats()
        self.latest: Moment | None = None
        self.latest_decision: Decision | None = None
        self.waits = False
        self.has_ended = False
        self.failure: TdrlError | OSError | None = None
        self.stepper = Stepper(bundle, phases, self.name, clock)
        self._max_seconds = max_seconds
        self._first_s: float | None = None
        self._attempts = 0

    @property
    def progress(self) -> tuple[int, int]:
        """Changes while the stream is healthy: its ticks, and its attempts to reach the source.

        A source that is away is no fault of this process as long as it is tried again. The
        attempts count only while nothing but a frame is waited for, so a step that hangs shows
        even when the source is away too. Safe from any thread.
        """
        if self.waits:
            self._attempts = self.source.counts.attempts
        return self.stepper.steps + self.stepper.missed, self._attempts

    @property
    def counts(self) -> StreamCounts:
        """What the stream did so far."""
        source = self.source.counts
        return StreamCounts(
            source.captured,
            self.stepper.steps,
            source.dropped,
            self.stepper.missed,
            source.reconnects,
        )

    def stop(self) -> None:
        """Make its frames end soon; safe in a signal handler and from any thread."""
        self.source.stop()

    def offer(self, frame: Frame) -> Moment | Due:
        """Take the next frame; see `Stepper.offer`."""
        outcome = self.stepper.offer(frame)
        return outcome if isinstance(outcome, Due) else self.show(outcome)

    def show(self, moment: Moment) -> Moment:
        """Remember what came of a frame; gives it back."""
        if moment.decision is not None:
            self.latency.add(moment.decision.latency_ms)
            self.latest_decision = moment.decision
        self.latest = moment
        return moment

    def is_over(self, frame: Frame) -> bool:
        """Whether a file's frame lies beyond `max_seconds`."""
        if self._max_seconds is None or self.source.is_live:
            return False
        if self._first_s is None:
            self._first_s = frame.stream_time_s
        return frame.stream_time_s - self._first_s >= self._max_seconds

    def start_timer(self) -> threading.Timer | None:
        """Stop a live source after `max_seconds`: it may be silent, and then no frame would."""
        if self._max_seconds is None or not self.source.is_live:
            return None
        timer = threading.Timer(self._max_seconds, self.stop)
        timer.daemon = True
        timer.start()
        return timer
