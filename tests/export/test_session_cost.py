"""The sessions of a CPU against one another: the same numbers first, then what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from export.session_cost import FRAMES, run_frames, session_costs, wandering_pictures
from export.step_cost import main
from export.step_ratios import WARM_UP
from runtime.command import run_command
from runtime.preprocess import PictureRule
from runtime.selftest import sqnr_db
from runtime.sessions.choose import open_chosen
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from tests.export.real_bundle import write_real_bundle
from tests.mini_bundle import write_mini_bundle
from tests.openvino_part import memory_of, needs_openvino

BACKBONES = ["tiny", "narrow18", "narrow50", "efficientnet_lite0"]


@pytest.fixture(scope="module", params=BACKBONES)
def bundle(request, step_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    return write_real_bundle(folder, step_of(request.param, "pem-tsm"))


@needs_openvino
def test_openvino_computes_float_graphs_as_written(bundle):
    frames = wandering_pictures(bundle.picture)
    with OrtStepSession(bundle, optimise=False) as session:
        expected = run_frames(session, frames)
    with OvStepSession(bundle, threads=1) as session:
        assert sqnr_db(run_frames(session, frames), expected) > 70


@needs_openvino
def test_openvino_computes_int8_graphs_as_written(bundle):
    """Step by step from the same states: a value between two levels may go to either.

    In a random network such values grow along a stream, in ONNX Runtime's optimised graph too.
    The states are feature maps of every depth.
    """
    frames = wandering_pictures(bundle.picture)
    expected, got = [], []
    with (
        OrtStepSession(bundle, "int8", optimise=False) as reference,
        OvStepSession(bundle, "int8", threads=1) as session,
    ):
        for step in range(len(frames)):
            call = (0, frames[step : step + 1], np.full((1, 1), float(step == 0), np.float32))
            wanted, states = (memory_of(each, step % 2) for each in (reference, session))
            for name, array in wanted[0].items():
                states[0][name][:] = array
            reference.step(*call)
            session.step(*call)
            expected.append(flat_states(wanted[1]))
            got.append(flat_states(states[1]))
    assert np.ptp(expected, axis=0).max() > 60  # levels: the frames matter
    assert sqnr_db(np.stack(got), np.stack(expected)) > 30


def flat_states(outputs):
    """The INT8 states of a step as one row, in levels, float32."""
    maps = [array.ravel() for array in outputs.values() if array.dtype == np.int8]
    return np.concatenate(maps).astype(np.float32)


@needs_openvino
def test_costs_are_of_the_sessions_they_name(tmp_path, monkeypatch):
    """A clock that knows what each session takes; the first rounds do not count."""
    takes = {"ort": {"float32": 2, "int8": 4}, "openvino": {"float32": 3, "int8": 1}}
    now = [0]
    monkeypatch.setattr("export.session_cost.time.process_time_ns", lambda: now[0])

    def slow(bundle, choice, phases, *, threads):
        session = open_chosen(bundle, choice, phases, threads=threads)
        step, calls = session.step, []
        now[0] += 7_000_000

        def stepped(*arguments):
            calls.append(1)
            warm = len(calls) > FRAMES + WARM_UP
            now[0] += takes[choice.backend][choice.precision] * (1_000_000 if warm else 9_000_000)
            return step(*arguments)

        monkeypatch.setattr(session, "step", stepped)
        return session

    monkeypatch.setattr("export.session_cost.open_chosen", slow)
    rows = session_costs(write_mini_bundle(tmp_path), rounds=3)
    assert [(row.ms, row.ratio.median, row.opened_ms) for row in rows] == [
        (2, 1, 7), (4, 2, 7), (3, 1.5, 7), (1, 0.5, 7),
    ]  # fmt: skip
    assert ["ONNX" in row.session for row in rows] == [True, True, False, False]
    assert all(row.sqnr_db > 60 for row in rows)


@needs_openvino
def test_the_table_of_the_command(tmp_path, capsys):
    bundle, out = write_mini_bundle(tmp_path / "bundle").folder, tmp_path / "found.json"
    arguments = ["--bundle", str(bundle), "--sessions", "tiny:32", "--pairs", "2"]
    assert run_command(lambda: main([*arguments, "--json", str(out)])) == 0
    table = capsys.readouterr().out
    assert "| mini | ONNX Runtime " in table
    assert "| tiny at 32 | OpenVINO " in table
    assert '"sqnr_db"' in out.read_text()


def test_pictures_are_the_models_and_each_is_another():
    frames = wandering_pictures(PictureRule(height_px=30, width_px=44))
    assert frames.shape == (FRAMES, 30, 44, 3)
    assert len({frame.tobytes() for frame in frames}) == len(frames)
