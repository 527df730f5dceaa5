from __future__ import annotations

import time

import numpy as np
import pytest

from export.proof.latency import (
    BACK_TO_BACK,
    PACED,
    PACED_WARMUP_STEPS,
    PARTS,
    WARMUP_STEPS,
    Timing,
    batch_timing,
    decision_timings,
    live_interval_s,
)
from export.proof.session import stamped_bundle
from runtime.errors import SessionError
from runtime.sessions.ort import OrtStepSession
from tests.mini_bundle import write_mini_bundle
from tests.runtime.faults import RecordingSession

STEP_S = 0.01
CAMERA = np.zeros((48, 64, 3), np.uint8)


class SlowSession(RecordingSession):
    """Takes ten milliseconds for a step, and remembers when each began."""

    def __init__(self, session):
        super().__init__(session)
        self.began_s = []

    def changed(self, phase, frames, reset):
        self.began_s.append(time.monotonic())
        time.sleep(STEP_S)
        return phase, frames, reset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    # a spacing of 0.3 s: two phases, a step every 0.15 s
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=1.2)


def measured(bundle, session, *, paced, steps):
    shares: list[float] = []
    timings = decision_timings(
        bundle, session, CAMERA, paced=paced, steps=steps, on_progress=shares.append
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return {timing.part: timing for timing in timings}


def test_percentiles_are_measured_values():
    timing = Timing.of(PACED, "step", np.arange(1.0, 201.0))
    assert (timing.p50_ms, timing.p95_ms, timing.p99_ms, timing.max_ms) == (100, 190, 198, 200)
    assert (timing.schedule, timing.part, timing.count) == (PACED, "step", 200)


def test_parts_add_up(bundle):
    session = SlowSession(OrtStepSession(bundle, phases=3))
    timings = measured(bundle, session, paced=False, steps=6)
    assert set(timings) == set(PARTS)
    assert {timing.schedule for timing in timings.values()} == {BACK_TO_BACK}
    assert timings["step"].p50_ms >= STEP_S * 1e3
    assert timings["total"].max_ms >= timings["step"].p50_ms
    assert timings["preprocess"].p50_ms > 0
    # one frame, one step; the phases are those of a live stream
    assert len(session.calls) == WARMUP_STEPS + 6
    assert {phase for phase, _ in session.calls} == {0, 1}
    assert [reset for _, reset in session.calls] == [True, True] + [False] * (WARMUP_STEPS + 4)


def test_paced_steps_keep_the_live_pace(bundle):
    interval_s = live_interval_s(bundle)
    assert interval_s == pytest.approx(0.15)
    session = SlowSession(OrtStepSession(bundle, phases=2))
    timings = measured(bundle, session, paced=True, steps=2)
    assert timings["step"].count == 2
    assert timings["step"].schedule == PACED
    assert len(session.began_s) == PACED_WARMUP_STEPS + 2
    # each waits for its time: none may come early, whatever the machine is busy with
    ahead_s = [session.began_s[n] - session.began_s[0] - n * interval_s for n in range(5)]
    assert min(ahead_s) > -0.05


def test_an_engine_that_gives_no_numbers_is_not_timed(bundle):
    session = RecordingSession(OrtStepSession(bundle, phases=2), nan_at=[4])
    with pytest.raises(SessionError, match="no decision at step 4"):
        measured(bundle, session, paced=False, steps=4)


def test_a_batch(bundle):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    with stamped_bundle(bundle, "int8", 4) as stamped:
        session = SlowSession(OrtStepSession(stamped, "int8"))
        timing = batch_timing(session, frames, 5)
    assert timing.part == "step of 4 rows"
    assert timing.count == 5
    assert timing.p50_ms >= STEP_S * 1e3
    assert len(session.calls) == WARMUP_STEPS + 5
