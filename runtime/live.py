"""The Python API of the live runtime.

from pathlib import Path
from runtime.bundle import load_bundle
from runtime.live import Stream
from runtime.sources.choose import open_source

bundle = load_bundle(Path("artifacts/latest/bundle"))
with open_source("/dev/video0") as source:
    for decision in Stream(bundle, source):
        print(decision.stream_time_s, decision.label, decision.prob)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.latency import LatencyStats
from runtime.sessions.base import StepSession
from runtime.sessions.choose import open_session
from runtime.sources.frame import Frame, FrameSource
from runtime.stepper import Moment, Stepper


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


class Stream:
    """Decisions on a source of frames, as they come. Iterate once.

    Args:
        bundle: A loaded bundle.
        source: An open source; the caller closes it.
        session: A session with one stream, which the caller closes; without one the bundle's
            best is opened for the iteration.
        max_seconds: Stop after so many seconds: of stream time for files, of real time for live
            sources.

    Attributes:
        latency: Grab to decision.
        latest: The last frame and what came of it; None before the first.
        latest_decision: The last decision; None before the first.

    Raises:
        ValueError: The session has more than one stream, or `max_seconds` is not > 0.
        SessionError: No session was given and none can be opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: FrameSource,
        session: StepSession | None = None,
        *,
        max_seconds: float | None = None,
    ) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"max_seconds must be > 0, got {max_seconds}")
        self.bundle = bundle
        self.source = source
        self.latency = LatencyStats()
        self.latest: Moment | None = None
        self.latest_decision: Decision | None = None
        self._own_session: StepSession | None = None
        if session is None:
            session = self._own_session = open_session(bundle)
        self._stepper = Stepper(bundle, session, source.name)
        self._max_seconds = max_seconds
        self._first_s: float | None = None
        self._waits = False
        self._attempts = 0

    @property
    def progress(self) -> tuple[int, int]:
        """Changes while the stream is healthy: its ticks, and its attempts to reach the source.

        A source that is away is no fault of this process as long as it is tried again. The
        attempts count only while nothing but a frame is waited for, so a step that hangs shows
        even when the source is away too. Safe from any thread.
        """
        if self._waits:
            self._attempts = self.source.counts.attempts
        return self._stepper.steps + self._stepper.missed, self._attempts

    @property
    def counts(self) -> StreamCounts:
        """What the stream did so far."""
        source = self.source.counts
        return StreamCounts(
            source.captured,
            self._stepper.steps,
            source.dropped,
            self._stepper.missed,
            source.reconnects,
        )

    def __iter__(self) -> Iterator[Decision]:
        """Give every decision.

        Raises:
            SourceLostError: The source ended before it should.
            SessionError: The engine failed.
        """
        for moment in self.moments():
            if moment.decision is not None:
                yield moment.decision

    def moments(self) -> Iterator[Moment]:
        """Give every frame with what came of it, for overlays and logs.

        Raises:
            SourceLostError: The source ended before it should.
            SessionError: The engine failed.
        """
        timer = self._start_timer()
        self._waits = True
        try:
            for frame in self.source:
                self._waits = False
                if self._is_over(frame):
                    break
                yield self._see(frame)
                self._waits = True
        finally:
            self._waits = False
            if timer is not None:
                timer.cancel()
            if self._own_session is not None:
                self._own_session.close()

    def stop(self) -> None:
        """Make the iteration end soon; safe in a signal handler and from any thread."""
        self.source.stop()

    def _see(self, frame: Frame) -> Moment:
        moment = self._stepper.take(frame)
        if moment.decision is not None:
            self.latency.add(moment.decision.latency_ms)
            self.latest_decision = moment.decision
        self.latest = moment
        return moment

    def _is_over(self, frame: Frame) -> bool:
        if self._max_seconds is None or self.source.is_live:
            return False
        if self._first_s is None:
            self._first_s = frame.stream_time_s
        return frame.stream_time_s - self._first_s >= self._max_seconds

    def _start_timer(self) -> threading.Timer | None:
        """A live source may be silent, so its end cannot wait for a frame."""
        if self._max_seconds is None or not self.source.is_live:
            return None
        timer = threading.Timer(self._max_seconds, self.stop)
        timer.daemon = True
        timer.start()
        return timer
