"""The OpenVINO session against numpy's reference, on real graphs, and over a long time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.batch_rows import with_rows
from runtime.bundle import GRAPH_OF, load_bundle, load_golden
from runtime.errors import BundleError, SessionError
from runtime.selftest import run_self_test
from runtime.sessions import ov
from runtime.sessions.base import Logits
from runtime.sessions.ov import OvStepSession
from tests.mini_bundle import mini_model, reference_logits, write_manifest, write_mini_bundle
from tests.openvino_part import memory_of, needs_openvino
from tests.runtime.faults import BgrSession, ForgetfulSession, OnePhaseSession

ROOT = Path(__file__).resolve().parents[3]
ONE = np.ones((1, 1), np.float32)
ZERO = np.zeros((1, 1), np.float32)
PRECISIONS = ["float32", "float16", "int8"]

pytestmark = needs_openvino


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), fp16=True)


def run(session, frames, resets, phase=0):
    return np.stack(
        [
            session.step(phase, frame[np.newaxis], np.full((1, 1), reset, np.float32))[0]
            for frame, reset in zip(frames, resets, strict=True)
        ]
    )


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_equal_the_reference(bundle, precision, threads):
    golden = load_golden(bundle)
    expected = golden.logits_int8 if precision == "int8" else golden.logits
    with OvStepSession(bundle, precision, threads=threads) as session:
        got = run(session, golden.frames, golden.reset)
        assert (session.num_streams, session.num_phases) == (1, 1)
        assert session.description.startswith("OpenVINO 20")
        assert session.description.endswith(f", CPU, {precision}")
    np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_self_test_passes_and_catches_mutants(bundle, precision):
    with OvStepSession(bundle, precision, 2) as session:
        assert run_self_test(bundle, session, precision).sqnr_db > 60
        for mutant in (BgrSession, ForgetfulSession, OnePhaseSession):
            with pytest.raises(SessionError, match="self-test failed at golden step"):
                run_self_test(bundle, mutant(session), precision)


def test_phases_do_not_know_each_other(bundle):
    golden = load_golden(bundle)
    orders = {0: golden.frames, 1: golden.frames[::-1].copy(), 2: golden.frames[3:]}
    starts = [1.0] + [0.0] * (len(golden.frames) - 1)
    got: dict[int, list[Logits]] = {phase: [] for phase in orders}
    with OvStepSession(bundle, "int8", phases=3) as session:
        turns = [phase for phase, frames in orders.items() for _ in frames]
        for phase in np.random.default_rng(0).permutation(turns):  # ticks can be missed
            step = len(got[phase])
            reset = ONE if step == 0 else ZERO
            got[phase].append(session.step(phase, orders[phase][step][np.newaxis], reset)[0])
    for phase, frames in orders.items():
        expected = reference_logits(
            mini_model(3), frames, np.array(starts[: len(frames)], np.float32), int8=True
        )
        np.testing.assert_allclose(np.stack(got[phase]), expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_row_that_resets_does_not_disturb_the_others(bundle, tmp_path, precision):
    """Three rows stamped on the device; each sees other frames, the second resets."""
    kind = GRAPH_OF[precision]
    graph = bundle.graph(kind)
    states = tuple(replace(state, shape=(3, *state.shape[1:])) for state in graph.states)
    stamped = replace(bundle, folder=tmp_path, graphs={kind: replace(graph, states=states)})
    (tmp_path / graph.file).write_bytes(with_rows(bundle.graph_path(kind).read_bytes(), 3))
    frames = load_golden(bundle).frames
    rows = np.stack([frames, frames[::-1], np.roll(frames, 4, axis=0)], axis=1)
    resets = np.zeros((len(frames), 3), np.float32)
    resets[0] = 1
    resets[5, 1] = 1
    with OvStepSession(stamped, precision) as session:
        assert session.num_streams == 3
        got = np.stack(
            [
                session.step(0, pictures, reset[:, np.newaxis])
                for pictures, reset in zip(rows, resets, strict=True)
            ]
        )
    for row in range(3):
        expected = reference_logits(
            mini_model(3), rows[:, row], resets[:, row], int8=precision == "int8"
        )
        np.testing.assert_allclose(got[:, row], expected, atol=1e-3)


def test_a_reset_forgets_a_state_that_is_no_number(bundle):
    golden = load_golden(bundle)
    with OvStepSession(bundle) as session:
        memory_of(session, 0)[0]["state_in_00"][:] = np.nan
        assert np.isnan(session.step(0, golden.frames[:1], ZERO)).all()
        got = run(session, golden.frames, golden.reset)
    np.testing.assert_allclose(got, golden.logits, atol=1e-3)


def test_the_engine_writes_into_the_sessions_own_memory(bundle):
    """Nothing is copied: a state is in our buffer after a step, and read from there in the next."""
    golden = load_golden(bundle)
    with OvStepSession(bundle) as session:
        states = memory_of(session, 1)[0]
        session.step(0, golden.frames[:1], ONE)
        assert np.abs(states["state_in_01"]).max() > 0
        states["state_in_00"][:] += 1
        moved = session.step(0, golden.frames[1:2], ZERO)[0]
    assert np.abs(moved - golden.logits[1]).max() > 0.1


def test_a_step_that_failed_leaves_the_states_as_they_were(bundle, monkeypatch):
    golden = load_golden(bundle)
    with OvStepSession(bundle) as session:
        session.step(0, golden.frames[:1], ONE)

        class Failing:
            def infer(self, **_):
                raise RuntimeError("Exception from src/a.cpp:1:\n\nno memory left\n")

        with monkeypatch.context() as broken:
            broken.setattr(session, "_requests", [(Failing(), Failing())])
            with pytest.raises(SessionError, match=r"OpenVINO failed on .*: no memory left$"):
                session.step(0, golden.frames[1:2], ZERO)
        again = session.step(0, golden.frames[1:2], ZERO)[0]
    np.testing.assert_allclose(again, golden.logits[1], atol=1e-3)


def test_a_graph_that_openvino_cannot_prepare_is_a_session_error(bundle, monkeypatch):
    class Compiled:
        """Compiles, and then has no memory for a request: nothing real does so on demand."""

        def __init__(self, compiled):
            self.inputs, self.outputs = compiled.inputs, compiled.outputs

        def create_infer_request(self):
            raise RuntimeError

    compiled_step = ov.compiled_step
    monkeypatch.setattr(ov, "compiled_step", lambda *args: Compiled(compiled_step(*args)))
    with pytest.raises(SessionError, match=r"OpenVINO cannot run .*step\.onnx: RuntimeError$"):
        OvStepSession(bundle)


def test_graphs_that_do_not_fit_are_refused(tmp_path):
    bundle = write_mini_bundle(tmp_path)
    graphs = bundle.to_json()["graphs"]
    graphs["step"]["states"][1]["shape"] = [1, 3, 8, 8]
    write_manifest(bundle, graphs=graphs)
    with pytest.raises(BundleError, match=r"input state_in_01 is float32 \[1, 3, 4, 4\], .* 8, 8"):
        OvStepSession(load_bundle(tmp_path))
    (tmp_path / "step.onnx").write_bytes(b"no graph")
    with pytest.raises(SessionError, match=r"OpenVINO cannot load .*step\.onnx: \S+") as refused:
        OvStepSession(bundle)
    assert "\n" not in str(refused.value)


def test_without_openvino_the_ways_out_are_named(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not ov.has_openvino()
    with pytest.raises(SessionError, match=r"'tdrl-edge\[openvino\]' or pass --backend ort"):
        OvStepSession(bundle)


STARTED = """
import json, sys
from pathlib import Path
from runtime.bundle import load_bundle
from runtime.sessions.ov import OvStepSession
OvStepSession(load_bundle(Path(sys.argv[1])), "int8").close()
print(json.dumps([name for name in sys.modules if "telemetry" in name or "ovc" in name]))
"""


def test_openvino_does_not_report_its_use(bundle, tmp_path):
    """Its import would send an event and leave an identifier in the home folder."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(bundle.folder)],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []


def resident_bytes():
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_memory_does_not_grow(bundle, precision):
    frames = load_golden(bundle).frames[:1]
    with OvStepSession(bundle, precision, phases=2, threads=1) as session:
        for step in range(1_000):
            session.step(step % 2, frames, ONE)
        before = resident_bytes()
        for step in range(5_000):
            session.step(step % 2, frames, ZERO)
        assert resident_bytes() - before < 1_000_000  # 200 bytes a step


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_a_closed_session_gives_its_memory_back(tmp_path):
    """Closed sessions are kept here, as an owner may do."""
    bundle = write_mini_bundle(tmp_path, height_px=32, width_px=32)
    frames = load_golden(bundle).frames[:1]

    def use():
        session = OvStepSession(bundle, phases=400, threads=1)
        session.step(0, frames, ONE)
        session.close()
        return session

    kept = [use() for _ in range(5)]
    before = resident_bytes()
    kept += [use() for _ in range(10)]
    assert resident_bytes() - before < 3_000_000
    assert len(kept) == 15


SIGNAL_AFTER_TWO = """
import gc, os, signal, sys
from pathlib import Path
from runtime.bundle import load_bundle
from runtime.sessions.ov import OvStepSession

bundle = load_bundle(Path(sys.argv[1]))
first, second = OvStepSession(bundle), OvStepSession(bundle)
for session in (first, second):
    session.close()
del first, second, session
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_two_sessions_is_handled(tmp_path):
    """Each Core has a stack for signal handlers; the last one left was one that had gone."""
    folder = write_mini_bundle(tmp_path).folder
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_TWO, str(folder)],
        cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
