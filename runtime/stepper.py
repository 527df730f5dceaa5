"""One stream's recognition: a frame in, and out what came of it. No source, no threads."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.decision import Decision, consensus, softmax, utc_now
from runtime.events import Event
from runtime.policy import Rules
from runtime.preprocess import fit_picture
from runtime.segments import LONGEST_GAP, LogitsRings, SegmentSchedule, Tick
from runtime.sessions.base import Logits, StepSession
from runtime.sources.frame import Frame

# With more than this share of a window's ticks missed, a phase less serves better.
TOLERABLE_MISSES = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame and what came of it.

    Attributes:
        frame: The frame.
        decision: The decision that it triggered; None where it was not used.
        events: What else happened, in order; resets come before the decision they shaped.
    """

    frame: Frame
    decision: Decision | None
    events: tuple[Event, ...]


class Stepper:
    """Steps a session by the schedule and turns logits into decisions.

    Args:
        bundle: Labels, picture rule and sampling contract.
        session: A session with one stream; its phases are the schedule's.
        source: Name of the source, for decisions and events.

    Attributes:
        steps: Steps taken so far.
        missed: Ticks so far that no frame came for.

    Raises:
        ValueError: The session has more than one stream.
    """

    def __init__(self, bundle: Bundle, session: StepSession, source: str) -> None:
        if session.num_streams != 1:
            raise ValueError(f"a Stream needs a session with 1 stream, got {session.num_streams}")
        self.steps = 0
        self._bundle = bundle
        self._rules = Rules.of(bundle.operating.policy, bundle.labels)
        self._session = session
        self._source = source
        self._missed_before = 0
        self._connection: int | None = None
        self._last_time_s = -math.inf
        self._use_phases(session.num_phases)

    @property
    def missed(self) -> int:
        """Ticks so far that no frame came for."""
        return self._missed_before + self._schedule.missed

    def take(self, frame: Frame) -> Moment:
        """Take the stream's next frame.

        Args:
            frame: The frame.

        Raises:
            SessionError: The engine failed.
        """
        self._events: list[Event] = []
        self._frame = frame
        self._follow_timeline()
        tick = self._schedule.offer(frame.stream_time_s)
        decision = None if tick is None else self._serve(tick)
        return Moment(frame, decision, tuple(self._events))

    def _follow_timeline(self) -> None:
        """Start anew where stream times do."""
        reason = None
        if self._connection is None:
            reason = "start"
        elif self._frame.connection != self._connection:
            reason = "reconnect"
            self._report("reconnect")
        elif self._last_time_s - self._frame.stream_time_s > LONGEST_GAP * self._schedule.spacing_s:
            reason = "time_went_back"
        self._connection = self._frame.connection
        self._last_time_s = self._frame.stream_time_s
        if reason is not None:
            self._restart()
            self._report("reset", reason=reason)

    def _serve(self, tick: Tick) -> Decision | None:
        if tick.missed:
            self._report("missed", count=tick.missed)
        if tick.is_gap:
            self._report("reset", reason="gap", phase=tick.phase)
        starts = tick.is_first or tick.is_gap or tick.phase in self._spoilt
        logits = self._step(tick.phase, starts=starts)
        decision = None
        if np.isfinite(logits).all():
            self._rings.add(tick, logits)
            decision = self._decide(tick)
        else:
            self._spoilt.add(tick.phase)
            self._rings.clear(tick.phase)
            self._report("reset", reason="nan", phase=tick.phase)
        self._watch_load(tick)
        return decision

    def _step(self, phase: int, *, starts: bool) -> Logits:
        if starts:
            self._spoilt.discard(phase)
            self._rings.clear(phase)
        picture = fit_picture(self._frame.image_rgb, self._bundle.picture)
        reset = np.full((1, 1), starts, np.float32)
        self.steps += 1
        return np.asarray(self._session.step(phase, picture[np.newaxis], reset)[0], np.float32)

    def _decide(self, tick: Tick) -> Decision:
        logits = consensus(self._rings.windows(tick.index))
        probs = softmax(logits, self._bundle.operating.temperature)
        index = int(probs.argmax())
        now_ns = time.monotonic_ns()
        return Decision(
            source=self._source,
            tick=tick.index,
            phase=tick.phase,
            label=self._bundle.labels[index],
            index=index,
            action=None if self._rings.warming else self._rules.action(probs),
            prob=float(probs[index]),
            probs=probs,
            warming=self._rings.warming,
            stream_time_s=self._frame.stream_time_s,
            monotonic_ns=now_ns,
            utc=utc_now(),
            latency_ms=(now_ns - self._frame.grabbed_ns) / 1e6,
        )

    def _watch_load(self, tick: Tick) -> None:
        """Drop a phase where ticks are missed too often; the spacing never stretches."""
        if tick.is_gap:  # a pause of the source is no load
            self._window_ticks = self._window_missed = 0
            return
        self._window_ticks += 1 + tick.missed
        self._window_missed += tick.missed
        if self._window_ticks < self._bundle.sampling.num_segments * self._schedule.phases:
            return
        share = self._window_missed / self._window_ticks
        self._window_ticks = self._window_missed = 0
        if self._schedule.phases > 1 and share > TOLERABLE_MISSES:
            self._drop_phase(share)

    def _drop_phase(self, missed_share: float) -> None:
        phases = self._schedule.phases - 1
        logger.warning(
            "%.0f %% of the ticks had no frame in time: %d phase(s) from here on",
            100 * missed_share,
            phases,
        )
        self._missed_before = self.missed
        self._use_phases(phases)
        self._report("phase_dropped", phases=phases)

    def _use_phases(self, phases: int) -> None:
        sampling = self._bundle.sampling
        self._schedule = SegmentSchedule(sampling.window_s, sampling.num_segments, phases)
        self._restart()

    def _restart(self) -> None:
        self._schedule.restart()
        self._rings = LogitsRings(self._bundle.sampling, self._schedule.phases)
        self._spoilt: set[int] = set()
        self._window_ticks = 0
        self._window_missed = 0

    def _report(self, kind: str, **details: Any) -> None:
        self._events.append(
            Event(
                kind=kind,
                source=self._source,
                stream_time_s=round(self._frame.stream_time_s, 6),
                monotonic_ns=time.monotonic_ns(),
                utc=utc_now(),
                details=details,
            )
        )
