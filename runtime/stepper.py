"""One stream's recognition: which frames step, and what their logits mean. No engine, no threads.

frame ─▶ offer ─▶ Moment                        the frame's turn has not come
               ─▶ Due ─▶ engine ─▶ finish ─▶ Moment
"""

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
from runtime.group_clock import StreamClock
from runtime.policy import Rules
from runtime.preprocess import Picture
from runtime.scene_cut import SceneCuts
from runtime.segments import LONGEST_GAP, LogitsRings, SegmentSchedule, Tick
from runtime.sessions.base import Logits
from runtime.sources.bgr_frame import fit_frame
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
        tick: The tick that it served; None where it was not used.
        preprocess_s: Time that its picture took to crop and resize; 0 where it was not used.
        step_s: Time that the engine's step took, which other streams may have shared; the same.
    """

    frame: Frame
    decision: Decision | None
    events: tuple[Event, ...]
    tick: Tick | None = None
    preprocess_s: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Due:
    """A step that a frame asks for; `Stepper.finish` takes its logits.

    Attributes:
        frame: The frame.
        picture: What the model sees of it, shape (H, W, 3), uint8, RGB.
        tick: Which tick it serves; its phase is the one to step.
        starts: Whether the phase's state has to be zero.
        overload: Ticks missed right before it because this process took no frame in time; the
            tick's other ones were missed because the source gave none.
        preprocess_s: Time that the picture took to crop and resize.
    """

    frame: Frame
    picture: Picture
    tick: Tick
    starts: bool
    overload: int
    preprocess_s: float


class Stepper:
    """Follows one stream's schedule and turns logits into decisions.

    Args:
        bundle: Labels, picture rule and sampling contract.
        phases: Interleaved phases, >= 1.
        source: Name of the source, for decisions and events.
        clock: Keeps its ticks with those of other streams; None for a stream alone.

    Attributes:
        steps: Steps taken so far.
        missed: Ticks so far that no frame came for.
        phases: Interleaved phases now.
    """

    def __init__(
        self, bundle: Bundle, phases: int, source: str, clock: StreamClock | None = None
    ) -> None:
        self.steps = 0
        self._bundle = bundle
        self._rules = Rules.of(bundle.operating.policy, bundle.labels)
        self._source = source
        self._clock = clock
        self._cuts: SceneCuts | None = None
        self._missed_before = 0
        self._last: Frame | None = None
        self._is_slow_known = self._was_slow = False
        self._is_open = False
        self._drop_to: int | None = None
        self._events: list[Event] = []
        self._window_ticks = self._window_missed = self._window_frames = 0
        self._window_from_s: float | None = None
        self._use_phases(phases)

    @property
    def missed(self) -> int:
        """Ticks so far that no frame came for."""
        return self._missed_before + self._schedule.missed

    @property
    def phases(self) -> int:
        """Interleaved phases now: fewer than at the start where they could not be kept up."""
        return self._schedule.phases

    @property
    def next_tick(self) -> tuple[float, int] | None:
        """Stream time and phase of the next tick; None before the first frame."""
        return self._schedule.next_tick

    def reset_on(self, cuts: SceneCuts) -> None:
        """Start from zero at scene cuts too."""
        self._cuts = cuts

    def offer(self, frame: Frame) -> Moment | Due:
        """Take the stream's next frame.

        Args:
            frame: The frame. One that gave a Due has to be finished before the next.

        Returns:
            What came of it, or the step that has to be taken for it.
        """
        last, self._last = self._last, frame
        self._follow_timeline(last, frame)
        self._window_frames += 1
        if self._clock is not None:
            self._clock.see(frame)
        tick = self._schedule.offer(frame.stream_time_s)
        if tick is None:
            return Moment(frame, None, self._take_events())
        if self._clock is not None:
            self._schedule.slip(self._clock.slip_s(tick, self.phases))
        # between two frames of which none was dropped there was none to take
        is_overload = last is None or frame.index > last.index + 1
        return self._due(frame, tick, overload=tick.missed if is_overload else 0)

    def finish(self, due: Due, logits: Logits, step_s: float = 0.0) -> Moment:
        """Say what came of a step.

        Args:
            due: What `offer` asked for last.
            logits: This stream's, shape (K,), float32.
            step_s: Time that the engine's step took.
        """
        self.steps += 1
        self._is_open = False
        decision = None
        if np.isfinite(logits).all():
            self._rings.add(due.tick, logits)
            decision = self._decide(due)
        else:
            self._spoilt.add(due.tick.phase)
            self._rings.clear(due.tick.phase)
            self._report(due.frame, "reset", reason="nan", phase=due.tick.phase)
        self._watch_source(due)
        if self._drop_to is not None:
            self._drop_phases(due.frame, self._drop_to)
        events = self._take_events()
        return Moment(due.frame, decision, events, due.tick, due.preprocess_s, step_s)

    def drop_phases(self, phases: int) -> None:
        """Go on with so many phases, from a new start, as soon as no step is on its way.

        The event comes with the next moment.

        Raises:
            ValueError: Not fewer than now, or none.
        """
        if not 1 <= phases < self.phases:
            raise ValueError(f"phases must be 1 ... {self.phases - 1}, got {phases}")
        if self._is_open or self._last is None:
            self._drop_to = phases
        else:
            self._drop_phases(self._last, phases)

    def _follow_timeline(self, last: Frame | None, frame: Frame) -> None:
        """Start anew where stream times do."""
        reason = self._new_timeline(last, frame)
        if self._cuts is not None:
            if reason is not None:
                self._cuts.restart()
            if self._cuts.see(frame.image_rgb):
                reason = "scene_cut"
        if reason is not None:
            self._restart()
            self._report(frame, "reset", reason=reason)
        if self._clock is not None and not self._schedule.has_begun:
            beginning = self._clock.begin(frame, self.phases)
            self._schedule.begin(beginning.start_s, beginning.first_phase)

    def _new_timeline(self, last: Frame | None, frame: Frame) -> str | None:
        """Why a frame's time goes on from no other's; None where it does."""
        if last is None:
            return "start"
        if frame.connection != last.connection:
            self._report(frame, "reconnect")
            return "reconnect"
        went_back_s = last.stream_time_s - frame.stream_time_s
        return "time_went_back" if went_back_s > LONGEST_GAP * self._schedule.spacing_s else None

    def _due(self, frame: Frame, tick: Tick, *, overload: int) -> Due:
        if tick.missed:
            self._report(frame, "missed", count=tick.missed)
        if tick.is_gap:
            self._report(frame, "reset", reason="gap", phase=tick.phase)
        self._is_open = True
        starts = tick.is_first or tick.is_gap or tick.phase in self._spoilt
        if starts:
            self._spoilt.discard(tick.phase)
            self._rings.clear(tick.phase)
        began_s = time.perf_counter()
        picture = fit_frame(frame, self._bundle.picture)
        return Due(frame, picture, tick, starts, overload, time.perf_counter() - began_s)

    def _decide(self, due: Due) -> Decision:
        logits = consensus(self._rings.windows(due.tick.index))
        probs = softmax(logits, self._bundle.operating.temperature)
        index = int(probs.argmax())
        now_ns = time.monotonic_ns()
        return Decision(
            source=self._source,
            tick=due.tick.index,
            phase=due.tick.phase,
            label=self._bundle.labels[index],
            index=index,
            action=None if self._rings.warming else self._rules.action(probs),
            prob=float(probs[index]),
            probs=probs,
            warming=self._rings.warming,
            stream_time_s=due.frame.stream_time_s,
            monotonic_ns=now_ns,
            utc=utc_now(),
            latency_ms=(now_ns - due.frame.grabbed_ns) / 1e6,
        )

    def _watch_source(self, due: Due) -> None:
        """Drop a phase where the source is too slow for it; the spacing never stretches."""
        if due.tick.is_gap:  # a pause of the source is no load
            self._begin_window()
            return
        if self._window_from_s is None:
            self._window_from_s, self._window_frames = due.frame.stream_time_s, 0
        self._window_ticks += 1 + due.tick.missed
        self._window_missed += due.tick.missed - due.overload
        if self._window_ticks < self._bundle.sampling.num_segments * self.phases:
            return
        share = self._window_missed / self._window_ticks
        seconds = due.frame.stream_time_s - self._window_from_s
        fps = self._window_frames / seconds if seconds > 0 else math.inf
        self._begin_window()
        was_slow, self._was_slow = self._was_slow, share > TOLERABLE_MISSES
        if not self._was_slow:
            return
        # with a single phase nothing follows from one bad window, so it has to be two
        if not self._is_slow_known and (self.phases > 1 or was_slow):
            self._is_slow_known = True
            self._report_slow(due.frame, fps, share)
        if self.phases > 1:
            logger.warning(
                "%s: %.0f %% of the ticks had no frame in time: %d phase(s) from here on",
                self._source,
                100 * share,
                self.phases - 1,
            )
            self._drop_to = self.phases - 1

    def _report_slow(self, frame: Frame, fps: float, share: float) -> None:
        """Once a run: a camera that is too slow stays so, day and night."""
        wanted_fps = 1 / self._schedule.interval_s
        logger.warning(
            "%s gives %.1f frames a second, the schedule takes %.1f: %.0f %% of its ticks had none",
            self._source,
            fps,
            wanted_fps,
            100 * share,
        )
        facts = {"fps": round(fps, 2), "wanted_fps": round(wanted_fps, 2)}
        self._report(frame, "slow_source", **facts, missed_share=round(share, 3))

    def _drop_phases(self, frame: Frame, phases: int) -> None:
        self._drop_to = None
        self._missed_before = self.missed
        self._use_phases(phases)
        self._report(frame, "phase_dropped", phases=phases)

    def _use_phases(self, phases: int) -> None:
        sampling = self._bundle.sampling
        self._schedule = SegmentSchedule(sampling.window_s, sampling.num_segments, phases)
        self._restart()

    def _restart(self) -> None:
        self._schedule.restart()
        self._rings = LogitsRings(self._bundle.sampling, self.phases)
        self._spoilt: set[int] = set()
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_ticks = self._window_missed = self._window_frames = 0
        self._window_from_s = None

    def _report(self, frame: Frame, kind: str, **details: Any) -> None:
        self._events.append(
            Event(
                kind=kind,
                source=self._source,
                stream_time_s=round(frame.stream_time_s, 6),
                monotonic_ns=time.monotonic_ns(),
                utc=utc_now(),
                details=details,
            )
        )

    def _take_events(self) -> tuple[Event, ...]:
        events, self._events = tuple(self._events), []
        return events
