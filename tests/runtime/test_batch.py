"""The rows of one session: who steps, who is held, and what is decided for all."""

from __future__ import annotations

import time

import numpy as np
import pytest

from runtime.batch import Batch
from runtime.sources.bgr_frame import fit_frame
from runtime.sources.frame import Frame
from runtime.stepper import Due, Moment, Stepper
from tests.mini_bundle import write_mini_bundle
from tests.runtime.simulation import CountingSession


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return write_mini_bundle(folder, num_segments=4, window_s=1.0, consensus_len=1, int8=False)


class Rows:
    """A batch whose rows are offered frames by hand."""

    def __init__(self, bundle, count, phases=1):
        self.session = CountingSession(count, phases)
        self.steppers = [Stepper(bundle, phases, f"row {row}") for row in range(count)]
        self.batch = Batch(bundle, self.session, self.steppers)
        self._side_px = bundle.picture.height_px

    def due(self, row, time_s, *, code=0, index=None):
        picture = np.full((self._side_px, self._side_px, 3), code, np.uint8)
        number = round(time_s * 1000) if index is None else index
        outcome = self.steppers[row].offer(Frame(picture, number, time_s, 0))
        assert isinstance(outcome, Due)
        return outcome

    def step(self, time_s, rows=None, index=None):
        rows = range(len(self.steppers)) if rows is None else rows
        return self.batch.step({row: self.due(row, time_s, index=index) for row in rows})


def kinds(moment):
    return [event.kind for event in moment.events]


def test_each_row_gets_its_picture_reset_and_logits(bundle):
    rows = Rows(bundle, 3)
    rows.step(0.0, rows=[1])
    moments = rows.batch.step(
        {2: rows.due(2, 0.0, code=20), 1: rows.due(1, 0.25, code=10), 0: rows.due(0, 0.0, code=3)}
    )
    assert rows.session.calls[1].codes == {0: 3, 1: 10, 2: 20}
    assert rows.session.calls[1].resets == {0: True, 1: False, 2: True}
    decided = {row: moment.decision for row, moment in moments.items() if moment.decision}
    assert {row: (one.source, one.index) for row, one in decided.items()} == {
        0: ("row 0", 0), 1: ("row 1", 1), 2: ("row 2", 2)
    }  # fmt: skip


def test_each_row_knows_what_its_picture_and_the_step_took(bundle, monkeypatch):
    """A fit of 2 s and a step of 5 s, which both rows share; a frame in between took none."""
    rows, now_s = Rows(bundle, 2), [0.0]

    def later(call, seconds):
        def slow(*arguments):
            now_s[0] += seconds
            return call(*arguments)

        return slow

    monkeypatch.setattr("runtime.stepper.fit_frame", later(fit_frame, 2.0))
    monkeypatch.setattr(rows.session, "step", later(rows.session.step, 5.0))
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    moments = rows.step(0.0)
    assert [(each.preprocess_s, each.step_s) for each in moments.values()] == [(2.0, 5.0)] * 2
    between = rows.steppers[0].offer(Frame(np.zeros((8, 8, 3), np.uint8), 1, 0.01, 0))
    assert isinstance(between, Moment)
    assert (between.preprocess_s, between.step_s) == (0, 0)


def test_rows_that_are_not_due_are_held(bundle):
    rows = Rows(bundle, 3)
    rows.step(0.0)
    rows.step(0.25, rows=[2])
    assert [sorted(call.codes) for call in rows.session.calls] == [[0, 1, 2], [2]]


def test_overload_drops_a_phase_of_all_rows_at_once(bundle, caplog):
    """Frame numbers jump where frames were dropped: this process was too slow."""
    rows = Rows(bundle, 2, phases=2)
    happened = []
    for number in range(8):
        happened.append(rows.step(0.25 * number, index=7 * number))  # every second tick is missed
    assert [stepper.phases for stepper in rows.steppers] == [1, 1]
    told = [number for number, each in enumerate(happened) if "phase_dropped" in kinds(each[0])]
    assert told == [
        number for number, each in enumerate(happened) if "phase_dropped" in kinds(each[1])
    ]
    assert len(told) == 1
    assert caplog.text.count("came while this machine was busy: 1 phase(s)") == 1


def test_a_phase_is_dropped_only_when_no_step_is_on_its_way(bundle):
    rows = Rows(bundle, 2, phases=2)
    for number in range(4):
        rows.step(0.125 * number, rows=[1])
    waiting = rows.due(1, 0.5)  # phase 0, and its batch waits for others
    for number in range(8):
        rows.step(0.25 * number, rows=[0], index=7 * number)
    assert [stepper.phases for stepper in rows.steppers] == [1, 2]
    moment = rows.batch.step({1: waiting})[1]
    assert moment.decision is not None
    assert kinds(moment) == ["phase_dropped"]
    assert rows.steppers[1].phases == 1


def test_a_step_is_of_one_phase_and_a_session_of_as_many_rows(bundle):
    rows = Rows(bundle, 2, phases=2)
    rows.step(0.0, rows=[0])
    with pytest.raises(ValueError, match=r"a step is of one phase, got \[0, 1\]"):
        rows.batch.step({0: rows.due(0, 0.125), 1: rows.due(1, 0.0)})
    with pytest.raises(ValueError, match=r"got \[\]"):
        rows.batch.step({})
    with pytest.raises(
        ValueError, match=r"2 stream\(s\) need .* got 3; open it with num_streams=2"
    ):
        Batch(bundle, CountingSession(3, 2), rows.steppers)
