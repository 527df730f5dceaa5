"""Wrong engines: each is caught at the right step, and the message says what it means."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.proof.golden import ONE_PHASE, ROWS, SAME_ROWS, TWO_PHASES, Visit, run_golden
from export.proof.session import Opener, stamped_bundle
from export.verify import Case
from runtime.bundle import FRAME_INPUT, GRAPH_OF, load_golden
from runtime.sessions.ort import OrtStepSession
from tests.export.real_bundle import swapped_states, write_real_bundle
from tests.runtime.faults import BgrSession, ForgetfulSession, OnePhaseSession, RecordingSession

PRECISIONS = ("float32", "int8")
RESTART = 5  # the golden sequence's second start


class ShiftedSession(RecordingSession):
    """Crops three pixels too far to the left, one too high."""

    def changed(self, phase, frames, reset):
        return phase, np.ascontiguousarray(np.roll(frames, (1, 3), axis=(1, 2))), reset


class NeverAgainSession(RecordingSession):
    """Hears the first `reset` of a phase only."""

    def changed(self, phase, frames, reset):
        first = sum(called == phase for called, _ in self.calls) == 1
        return phase, frames, reset if first else np.zeros_like(reset)


class FrozenSession(RecordingSession):
    """Never uploads a frame, and has no states."""

    def changed(self, phase, frames, reset):
        return phase, np.zeros_like(frames), np.ones_like(reset)


class LateSession(RecordingSession):
    """Gives the logits of the step before."""

    def step(self, phase, frames, reset, held=None):
        fresh = super().step(phase, frames, reset, held)
        late = getattr(self, "_kept", fresh)
        self._kept = fresh
        return late


class AddingSession(RecordingSession):
    """Adds a constant to all logits."""

    def __init__(self, session, constant):
        super().__init__(session)
        self.constant = constant

    def step(self, phase, frames, reset, held=None):
        return super().step(phase, frames, reset, held) + np.float32(self.constant)


class MixedRowsSession(RecordingSession):
    """Gives the rows' logits in the wrong order."""

    def step(self, phase, frames, reset, held=None):
        return super().step(phase, frames, reset, held)[::-1].copy()


class LostRowSession(RecordingSession):
    """Uploads only the first row."""

    def changed(self, phase, frames, reset):
        lost = frames.copy()
        lost[1:] = 0
        return phase, lost, reset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, step_of):
    folder = tmp_path_factory.mktemp("verify") / "bundle"
    return write_real_bundle(folder, step_of("tiny", "pem-tsm"))


@pytest.fixture(scope="module")
def golden(bundle):
    return load_golden(bundle)


def checked(case, session, names=(ONE_PHASE, TWO_PHASES)):
    """The last check, and where it first went wrong."""
    check = case.checks(session, names)[-1]
    return check, None if check.bad is None else check.bad.visit


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_engine_passes_everything(bundle, golden, precision):
    case, opener = Case(bundle, golden, precision), Opener(bundle, "ort")
    with opener.open(precision, 1, 2) as session:
        checks = case.checks(session, (ONE_PHASE, TWO_PHASES))
    with opener.open(precision, 3, 1) as session:
        assert session.num_streams == 3
        checks += case.checks(session, (SAME_ROWS, ROWS))
    assert [check.bad for check in checks] == [None] * 4
    assert [check.steps for check in checks] == [16, 32, 48, 48]
    assert all(check.sqnr_db > check.needed_db for check in checks)
    assert all((check.float_db == check.sqnr_db) == (precision == "float32") for check in checks)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_blind_spots(bundle, golden, precision):
    case = Case(bundle, golden, precision)
    with OrtStepSession(bundle, precision, 2) as session:
        assert case.blind_spots(session) == []
        # logits far from zero hide anything: all noise is small beside them
        large = replace(golden, logits=golden.logits + 1e4, logits_int8=golden.logits_int8 + 1e4)
        found = replace(case, golden=large).blind_spots(AddingSession(session, 1e4))
    assert found == ["swapped colours", "states that are not fed back"]


def test_rows_meet_different_frames_and_resets(bundle, golden):
    with stamped_bundle(bundle, "float32", 3) as stamped:
        session = RecordingSession(OrtStepSession(stamped))
        run = run_golden(session, golden, ROWS)
    assert run.visits[0] == Visit(0, 0, 0)
    assert run.visits[1:3] == (Visit(0, 0, 1), Visit(0, 1, 0))
    assert run.visits[-1] == Visit(0, 2, 15)


ONE_PHASE_MUTANTS = {
    BgrSession: (0, "red and blue are swapped"),
    ShiftedSession: (0, r"shifted by x \+3, y \+1 pixels"),
    ForgetfulSession: (1, "the states are not fed back"),
    NeverAgainSession: (RESTART, "`reset` does not clear the states"),
    FrozenSession: (0, "frames do not reach the engine"),
    LateSession: (1, "the logits of the one before"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mutant", ONE_PHASE_MUTANTS)
def test_mutants_are_named(bundle, golden, mutant, precision):
    step, cause = ONE_PHASE_MUTANTS[mutant]
    case = Case(bundle, golden, precision)
    with mutant(OrtStepSession(bundle, precision, 2)) as session:
        check, visit = checked(case, session)
    assert visit == Visit(0, 0, step)
    assert check.name == ONE_PHASE
    assert check.bad.before_db is None if step == 0 else check.bad.before_db > 15
    assert check.bad.got != check.bad.expected
    assert re.search(cause, check.cause), check.cause


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_swapped_states(bundle, golden, precision):
    with OrtStepSession(swapped_states(bundle), precision, 2) as session:
        check, visit = checked(Case(bundle, golden, precision), session)
    assert visit == Visit(0, 0, 1)
    assert "states reach the wrong inputs" in check.cause


@pytest.mark.parametrize("precision", PRECISIONS)
def test_phases_that_share_states(bundle, golden, precision):
    with OnePhaseSession(OrtStepSession(bundle, precision, 2)) as session:
        check, visit = checked(Case(bundle, golden, precision), session)
    assert check.name == TWO_PHASES
    # the second phase starts in turn 1, after the first phase's step: turn 2 meets its states
    assert visit == Visit(0, 0, 2)
    assert "phases share their states" in check.cause


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_wrong_mean(bundle, golden, precision, tmp_path):
    path = tmp_path / bundle.graph(GRAPH_OF[precision]).file
    proto = onnx.load(bundle.graph_path(GRAPH_OF[precision]))
    minus_levels(proto.graph, (12.0, 8.0, 4.0))
    onnx.save(proto, path)
    with OrtStepSession(replace(bundle, folder=tmp_path), precision, 2) as session:
        check, visit = checked(Case(bundle, golden, precision), session)
    assert visit == Visit(0, 0, 0)
    assert "the mean is wrong, by about +12, +8, +4 levels" in check.cause


def minus_levels(graph, levels):
    """Take levels off every picture, as a mean that is too high does."""
    (cast,) = [node for node in graph.node if FRAME_INPUT in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array(levels, np.float32), "levels"))
    plain, cast.output[0] = cast.output[0], "not_yet"
    place = list(graph.node).index(cast) + 1
    graph.node.insert(place, helper.make_node("Sub", ["not_yet", "levels"], [plain]))


@pytest.mark.parametrize("nan_at", [0, 7])
def test_no_numbers(bundle, golden, nan_at):
    with RecordingSession(OrtStepSession(bundle, "float32", 2), nan_at=[nan_at]) as session:
        check, visit = checked(Case(bundle, golden, "float32"), session)
    assert visit == Visit(0, 0, nan_at)
    assert np.isnan(check.bad.got)
    assert check.bad.label == bundle.labels[0]
    assert "no numbers" in check.cause


def test_the_other_precisions_graph(bundle, golden):
    with OrtStepSession(bundle, "int8", 2) as session:
        check, visit = checked(Case(bundle, golden, "float32"), session)
    assert "logits of the int8 graph" in check.cause


def test_another_models_weights(bundle, golden, tmp_path):
    proto = onnx.load(bundle.graph_path("step"))
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
    onnx.save(proto, tmp_path / "step.onnx")
    with OrtStepSession(replace(bundle, folder=tmp_path), "float32", 2) as session:
        check, visit = checked(Case(bundle, golden, "float32"), session)
    assert visit == Visit(0, 0, 0)
    assert "another model's weights" in check.cause


@pytest.mark.parametrize(
    ("mutant", "name", "visit"),
    [
        # already the first row is given the logits of the one that waits
        (MixedRowsSession, ROWS, Visit(0, 0, 0)),
        (LostRowSession, SAME_ROWS, Visit(0, 1, 0)),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_that_are_mixed_up(bundle, golden, mutant, name, visit, precision):
    with (
        stamped_bundle(bundle, precision, 2) as stamped,
        mutant(OrtStepSession(stamped, precision)) as session,
    ):
        check, found = checked(Case(bundle, golden, precision), session, (SAME_ROWS, ROWS))
    assert check.name == name
    assert found == visit
    assert "mixed up" in check.cause
