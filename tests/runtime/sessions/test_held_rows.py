"""N streams in one session compute what N sessions of one stream do, whatever subset steps."""

import numpy as np
import pytest

from runtime.bundle import load_golden
from runtime.errors import BundleError
from runtime.sessions.choose import open_session
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from runtime.sessions.step_io import graph_to_load
from tests.mini_bundle import write_mini_bundle
from tests.openvino_part import needs_openvino

ROWS, PHASES, CALLS = 3, 2, 60


@pytest.fixture(params=[OrtStepSession, pytest.param(OvStepSession, marks=needs_openvino)])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), fp16=True)


def random_calls(bundle, *, seed):
    """Calls with their own pictures for every row, any subset of rows held, resets now and then."""
    rng = np.random.default_rng(seed)
    golden = load_golden(bundle).frames
    for number in range(CALLS):
        frames = golden[rng.integers(0, len(golden), ROWS)].copy()
        reset = (rng.random((ROWS, 1)) < 0.1).astype(np.float32)
        if number < PHASES:
            reset[:] = 1
        held = rng.random(ROWS) < 0.5
        held[rng.integers(ROWS)] = False
        yield number % PHASES, frames, reset, held if number >= PHASES else None


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_rows_of_one_session_are_sessions_alone(kind, bundle, precision):
    alone = [kind(bundle, precision, PHASES) for _ in range(ROWS)]
    compared = 0
    with kind(bundle, precision, PHASES, num_streams=ROWS) as together:
        assert together.num_streams == ROWS
        for phase, frames, reset, held in random_calls(bundle, seed=1):
            got = together.step(phase, frames, reset, held)
            assert got.shape == (ROWS, 3)
            for row, session in enumerate(alone):
                if held is None or not held[row]:
                    one = slice(row, row + 1)
                    expected = session.step(phase, frames[one], reset[one])[0]
                    np.testing.assert_allclose(got[row], expected, atol=1e-5)
                    compared += 1
    for session in alone:
        session.close()
    assert compared > CALLS


def test_a_held_row_ignores_its_frame_and_its_reset(kind, bundle):
    frames = load_golden(bundle).frames
    go_on, held = np.zeros((2, 1), np.float32), np.array([False, True])
    logits = []
    for spoilt in (False, True):
        with kind(bundle, num_streams=2) as session:
            session.step(0, frames[:2], np.ones((2, 1), np.float32))
            junk, reset = frames[2:4].copy(), go_on.copy()
            if spoilt:
                junk[1], reset[1] = 255, 1
            session.step(0, junk, reset, held)
            logits.append(session.step(0, frames[4:6], go_on))
    np.testing.assert_array_equal(*logits)


def test_wrong_rows_say_what_is_wanted(kind, bundle):
    frames, reset = np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 1), np.float32)
    with kind(bundle, num_streams=2) as session:
        for held in (np.zeros(3, bool), np.zeros(2, np.float32), np.zeros((2, 1), bool)):
            with pytest.raises(ValueError, match=r"held must be bool \(2,\), got "):
                session.step(0, frames, reset, held)
        with pytest.raises(ValueError, match=r"frames must be uint8 \(2, 32, 32, 3\)"):
            session.step(0, frames[:1], reset)
    with pytest.raises(ValueError, match="num_streams must be >= 1, got 0"):
        kind(bundle, num_streams=0)


def test_a_file_that_is_no_graph_is_refused_before_an_engine_sees_it(tmp_path):
    bundle = write_mini_bundle(tmp_path)
    (tmp_path / "step.onnx").write_bytes(b"no graph")
    assert graph_to_load(bundle, "float32", 1) == tmp_path / "step.onnx"
    with pytest.raises(BundleError, match=r"step\.onnx is no step graph: .*; export the bundle"):
        graph_to_load(bundle, "float32", 2)


def test_a_session_is_opened_for_so_many_streams(bundle, caplog):
    caplog.set_level("INFO")
    with open_session(bundle, "ort", num_streams=4) as session:
        assert (session.num_streams, session.num_phases) == (4, 1)
    assert "1 phase(s), 4 streams together" in caplog.text
