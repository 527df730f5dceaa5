"""The Python API of the live runtime: one stream, or many that step together in one engine.

from pathlib import Path
from runtime.bundle import load_bundle
from runtime.live import Stream, Streams
from runtime.sources.choose import open_source

bundle = load_bundle(Path("artifacts/latest/bundle"))
with open_source("/dev/video0") as source:
    for decision in Stream(bundle, source):
        print(decision.stream_time_s, decision.label, decision.prob)

with open_source("/dev/video0") as door, open_source("rtsp://10.0.0.7/stream") as yard:
    for decision in Streams(bundle, [door, yard]):  # as they come, each with its source's name
        print(decision.source, decision.stream_time_s, decision.label, decision.prob)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from runtime.batch import Batch
from runtime.bundle import Bundle
from runtime.conductor import Conductor, Happening, play_in_order, play_together
from runtime.decision import Decision
from runtime.group_clock import GroupClock, StreamClock
from runtime.lane import Lane, StreamCounts
from runtime.sessions.base import StepSession
from runtime.sessions.choose import open_session
from runtime.sources.frame import FrameSource
from runtime.stepper import Moment

__all__ = ["Lane", "Stream", "StreamCounts", "Streams", "check_paces"]


class Stream(Lane):
    """Decisions on a source of frames, as they come. Iterate once.

    Args:
        bundle: A loaded bundle.
        source: An open source; the caller closes it.
        session: A session with one stream, which the caller closes; without one the bundle's
            best is opened for the iteration.
        max_seconds: Stop after so many seconds: of stream time for files, of real time for live
            sources.

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
        self._own_session: StepSession | None = None
        if session is None:
            session = self._own_session = open_session(bundle)
        super().__init__(bundle, source, session.num_phases, max_seconds=max_seconds)
        self._batch = Batch(bundle, session, [self.stepper])

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
        with _running([self], self._own_session):
            for _, moment in play_in_order([self], self._batch):
                if moment is not None:
                    yield moment
        if self.failure is not None:
            raise self.failure


class Streams:
    """Decisions on several sources that step together in one engine. Iterate once.

    Recordings advance in step, as fast as they can, and decide what each would alone. Live sources
    keep to one clock: a step waits for those whose frame is about to come, at most half a tick. A
    source that is away costs the others nothing, and one that is lost for good does not end them.

    Args:
        bundle: A loaded bundle.
        sources: Open sources, which the caller closes; the iteration stops them.
        session: A session with one row for each, which the caller closes; without one the
            bundle's best is opened for the iteration.
        realtime: The recordings among them are paced like cameras.
        max_seconds: Stop each after so many seconds; see `Stream`.
        names: Names for people and events, one a source; the sources' own where it is None.

    Attributes:
        lanes: What each source did so far, in their order.
        is_stopping: Whether `stop` was called.

    Raises:
        ValueError: No source, a session with another number of rows, a name that is given twice,
            or a recording that is not paced beside a live source.
        SessionError: No session was given and none can be opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        sources: Sequence[FrameSource],
        session: StepSession | None = None,
        *,
        realtime: bool = False,
        max_seconds: float | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        names = [source.name for source in sources] if names is None else names
        if not sources or len(names) != len(sources) or len(set(names)) != len(names):
            raise ValueError(f"streams need sources with names of their own, got {list(names)}")
        is_live = any(source.is_live for source in sources)
        check_paces([(source.name, source.is_live) for source in sources], realtime=realtime)
        self.is_stopping = False
        self._own_session: StepSession | None = None
        if session is None:
            session = self._own_session = open_session(bundle, num_streams=len(sources))
        group = GroupClock(bundle.sampling.window_s, bundle.sampling.num_segments)
        self._clocks: list[StreamClock] = []
        if len(sources) > 1 and (is_live or realtime):
            self._clocks = [StreamClock(group, name) for name in names]
        clocks: Sequence[StreamClock | None] = self._clocks or [None] * len(sources)
        self.lanes = tuple(
            Lane(
                bundle, source, session.num_phases, max_seconds=max_seconds, name=name, clock=clock
            )
            for source, name, clock in zip(sources, names, clocks, strict=True)
        )
        self._spacing_s = bundle.sampling.spacing_s
        self._batch = Batch(bundle, session, [lane.stepper for lane in self.lanes])

    @property
    def progress(self) -> tuple[tuple[int, int], ...]:
        """Changes while any of the streams advances; see `Lane.progress`."""
        return tuple(lane.progress for lane in self.lanes)

    def __iter__(self) -> Iterator[Decision]:
        """Give every decision of every source, as they come.

        Raises:
            SourceLostError: A source ended before it should; raised when all have ended.
            SessionError: The engine failed.
        """
        for _, moment in self.moments():
            if moment is not None and moment.decision is not None:
                yield moment.decision
        for lane in self.lanes:
            if lane.failure is not None:
                raise lane.failure

    def moments(self) -> Iterator[Happening]:
        """Give every frame with its lane and what came of it; None where the lane has ended.

        A lane that ended before it should has a `failure`; nothing is raised for it.

        Raises:
            SessionError: The engine failed.
        """
        with _running(self.lanes, self._own_session):
            if self._clocks:
                conductor = Conductor(self.lanes, self._clocks, self._batch, self._spacing_s)
                yield from play_together(self.lanes, conductor)
            else:
                yield from play_in_order(self.lanes, self._batch)

    def stop(self) -> None:
        """Make the iteration end soon; safe in a signal handler and from any thread."""
        self.is_stopping = True
        for lane in self.lanes:
            lane.stop()


def check_paces(sources: Sequence[tuple[str, bool]], *, realtime: bool) -> None:
    """Refuse a recording that runs as fast as it can beside a source that does not.

    Args:
        sources: Names, and whether each is live.
        realtime: Recordings are paced.

    Raises:
        ValueError: Both kinds, and no pace.
    """
    recordings = [name for name, is_live in sources if not is_live]
    if recordings and not realtime and any(is_live for _, is_live in sources):
        raise ValueError(
            f"{recordings[0]} is a recording beside a live source; pass --realtime, which plays it "
            "at its own pace, or run it by itself"
        )


@contextmanager
def _running(lanes: Sequence[Lane], own_session: StepSession | None) -> Iterator[None]:
    """Stop live lanes in time; free what the iteration made."""
    with ExitStack() as opened:
        if own_session is not None:
            opened.callback(own_session.close)
        for lane in lanes:
            timer: threading.Timer | None = lane.start_timer()
            if timer is not None:
                opened.callback(timer.cancel)
        yield
