"""How long a decision takes on this device, and its parts, as far as they need no camera.

    preprocess    from the frame to the call of the engine: crop, resize
    step          the engine's step, with the copies to and from the device
    decide        from the logits to the decision: consensus, softmax
    total         all of it: grab to decision, less the camera and its queue

Twice: back to back, which is the most that the device can do, and paced as a live stream is, where
clocks fall between two steps. The code that runs is the live runtime's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.batch import Batch
from runtime.bundle import Bundle
from runtime.errors import SessionError
from runtime.preprocess import Picture
from runtime.sampling import default_phases
from runtime.sessions.base import Held, Logits, StepSession
from runtime.sources.frame import Frame
from runtime.stepper import Due, Stepper

BACK_TO_BACK = "back to back"
PACED = "paced"
PARTS = ("preprocess", "step", "decide", "total")
WARMUP_STEPS = 20
# Paced steps are slow because the device idles: that is measured, so few are left out.
PACED_WARMUP_STEPS = 3
DIGITS = 4


@dataclass(frozen=True)
class Timing:
    """Percentiles of one part in one schedule, in milliseconds; the nearest rank, no interpolation.

    Attributes:
        schedule: `BACK_TO_BACK` or `PACED`.
        part: One of `PARTS`; with more rows, `step of N rows`.
        count: Steps that were measured.
        p50_ms: Half of the steps took no longer.
        p95_ms: 95 % took no longer.
        p99_ms: 99 % took no longer; with fewer than 100 steps it is the longest.
        max_ms: The longest.
    """

    schedule: str
    part: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, schedule: str, part: str, times_ms: NDArray[np.float64]) -> Timing:
        """Percentiles of durations, shape (n,), n >= 1.

        Example:
            >>> Timing.of("paced", "step", np.arange(1.0, 101.0)).p95_ms
            95.0
        """
        p50, p95, p99, longest = np.percentile(
            times_ms, [50, 95, 99, 100], method="inverted_cdf"
        ).tolist()
        rounded = [round(value, DIGITS) for value in (p50, p95, p99, longest)]
        return cls(schedule, part, len(times_ms), *rounded)


class TimedSession:
    """A session whose last step's start and end are known, with as many phases as a stream has.

    Args:
        session: The session.
        num_phases: Phases to offer, <= those of the session.

    Attributes:
        start_ns: Monotonic clock when the last step was called.
        end_ns: Monotonic clock when its logits were here.
    """

    def __init__(self, session: StepSession, num_phases: int) -> None:
        self.num_phases = num_phases
        self.num_streams = session.num_streams
        self.description = session.description
        self.start_ns = self.end_ns = 0
        self._session = session

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase; see `StepSession.step`."""
        self.start_ns = time.monotonic_ns()
        logits = self._session.step(phase, frames, reset, held)
        self.end_ns = time.monotonic_ns()
        return logits

    def close(self) -> None:
        """The session stays its owner's."""

    def __enter__(self) -> TimedSession:
        """Return the session itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """The session stays its owner's."""


def live_interval_s(bundle: Bundle) -> float:
    """Seconds between two steps of a live stream with the bundle's usual phases."""
    return bundle.sampling.spacing_s / default_phases(bundle.sampling)


def decision_timings(
    bundle: Bundle,
    session: StepSession,
    camera_frame: Picture,
    *,
    paced: bool,
    steps: int,
    on_progress: Callable[[float], None],
) -> list[Timing]:
    """Percentiles of every part of a decision.

    Args:
        bundle: The bundle.
        session: A session with one row and at least the phases that a live stream has.
        camera_frame: What the camera gives, shape (H, W, 3), uint8, RGB.
        paced: Wait for the time of each step, as a live stream does.
        steps: Steps to measure, >= 1, after a warm-up.
        on_progress: Called with the share that is done, 0..1.

    Raises:
        SessionError: The engine failed, or gave logits that are no numbers.
    """
    timed = TimedSession(session, default_phases(bundle.sampling))
    stepper = Stepper(bundle, timed.num_phases, "verify")
    batch = Batch(bundle, timed, [stepper])
    interval_s = live_interval_s(bundle)
    warmup = PACED_WARMUP_STEPS if paced else WARMUP_STEPS
    rows_ms = np.empty((steps, len(PARTS)))
    started_s = time.monotonic()
    for number in range(warmup + steps):
        if paced:
            time.sleep(max(0.0, started_s + number * interval_s - time.monotonic()))
        # every frame is a new grab: the stream's time goes on by exactly a tick
        frame = Frame(camera_frame, number, number * interval_s, time.monotonic_ns())
        due = stepper.offer(frame)
        decision = batch.step({0: due})[0].decision if isinstance(due, Due) else None
        if decision is None:
            raise SessionError(f"{session.description} gave no decision at step {number}")
        if number >= warmup:
            marks_ns = (frame.grabbed_ns, timed.start_ns, timed.end_ns, decision.monotonic_ns)
            rows_ms[number - warmup] = [*np.diff(marks_ns) / 1e6, decision.latency_ms]
        on_progress((number + 1) / (warmup + steps))
    schedule = PACED if paced else BACK_TO_BACK
    return [Timing.of(schedule, part, rows_ms[:, column]) for column, part in enumerate(PARTS)]


def batch_timing(session: StepSession, frames: NDArray[Any], steps: int) -> Timing:
    """Percentiles of a step of N rows, back to back.

    Args:
        session: A session with N rows.
        frames: Pictures, shape (S, H, W, 3), uint8; each row is given the same one.
        steps: Steps to measure, >= 1, after a warm-up.

    Raises:
        SessionError: The engine failed.
    """
    timed = TimedSession(session, 1)
    go_on = np.zeros((session.num_streams, 1), np.float32)
    batches = [np.repeat(frame[np.newaxis], session.num_streams, axis=0) for frame in frames]
    times_ms = np.empty(steps)
    for number in range(-WARMUP_STEPS, steps):
        timed.step(0, batches[number % len(batches)], go_on)
        if number >= 0:
            times_ms[number] = (timed.end_ns - timed.start_ns) / 1e6
    return Timing.of(BACK_TO_BACK, f"step of {session.num_streams} rows", times_ms)
