from __future__ import annotations

import numpy as np
import onnx
import pytest

from runtime.bundle import load_bundle, load_golden
from runtime.errors import BundleError, SessionError
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession
from tests.mini_bundle import mini_model, reference_logits, write_manifest, write_mini_bundle

ONE = np.ones((1, 1), np.float32)
ZERO = np.zeros((1, 1), np.float32)


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


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_steps_equal_the_reference(bundle, precision, optimise):
    golden = load_golden(bundle)
    expected = golden.logits_int8 if precision == "int8" else golden.logits
    with OrtStepSession(bundle, precision, optimise=optimise) as session:
        got = run(session, golden.frames, golden.reset)
        assert (session.num_streams, session.num_phases) == (1, 1)
        assert f"CPU, {precision}" in session.description
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_phases_do_not_know_each_other(bundle):
    golden = load_golden(bundle)
    orders = {0: golden.frames, 1: golden.frames[::-1].copy(), 2: golden.frames[3:]}
    starts = [1.0] + [0.0] * (len(golden.frames) - 1)
    expected = {}
    for phase, frames in orders.items():
        with OrtStepSession(bundle) as session:
            expected[phase] = run(session, frames, starts[: len(frames)])
    got: dict[int, list[Logits]] = {phase: [] for phase in orders}
    with OrtStepSession(bundle, phases=3) as session:
        turns = [phase for phase, frames in orders.items() for _ in frames]
        for phase in np.random.default_rng(0).permutation(turns):  # ticks can be missed
            step = len(got[phase])
            reset = ONE if step == 0 else ZERO
            got[phase].append(session.step(phase, orders[phase][step][np.newaxis], reset)[0])
    for phase, logits in got.items():
        np.testing.assert_array_equal(np.stack(logits), expected[phase])


def test_streams_of_a_batch_reset_alone(tmp_path):
    bundle = write_mini_bundle(tmp_path, num_streams=2)
    golden = load_golden(bundle)
    frames, model = golden.frames, mini_model(3)
    resets = np.zeros((len(frames), 2), np.float32)
    resets[0] = 1
    resets[5, 1] = 1
    with OrtStepSession(bundle) as session:
        got = np.stack(
            [
                session.step(0, np.repeat(frame[np.newaxis], 2, axis=0), reset[:, np.newaxis])
                for frame, reset in zip(frames, resets, strict=True)
            ]
        )
    for row in range(2):
        expected = reference_logits(model, frames, resets[:, row])
        np.testing.assert_allclose(got[:, row], expected, atol=1e-3)


def manifest_with(bundle, **changes):
    graphs = bundle.to_json()["graphs"]
    graphs["step"]["states"][1].update(changes)
    write_manifest(bundle, graphs=graphs)
    return load_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shape": [1, 3, 8, 8]},
            r"input state_in_01 is float32 \[1, 3, 4, 4\], .* \[1, 3, 8, 8\]",
        ),
        ({"dtype": "int8"}, r"input state_in_01 is float32 .* wants int8"),
        ({"name_in": "state_in_07"}, r"input state_in_01 is float32 .* wants none"),
        ({"name_out": "state_out_07"}, r"output state_out_01 is float32 .* wants none"),
    ],
)
def test_states_that_differ_from_the_manifest_are_refused(tmp_path, changes, message):
    bundle = manifest_with(write_mini_bundle(tmp_path), **changes)
    with pytest.raises(BundleError, match=message):
        OrtStepSession(bundle)


def test_a_graph_without_reset_is_refused(tmp_path):
    bundle = write_mini_bundle(tmp_path)
    graph = onnx.load(tmp_path / "step.onnx")
    for value in [value for value in graph.graph.input if value.name == "reset"]:
        graph.graph.input.remove(value)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(ZERO, "reset"))
    onnx.save(graph, tmp_path / "step.onnx")
    write_manifest(bundle)
    with pytest.raises(BundleError, match="input reset is missing"):
        OrtStepSession(load_bundle(tmp_path))


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    bundle = write_mini_bundle(tmp_path, int8=False)
    (tmp_path / "step.onnx").write_bytes(b"no graph")
    with pytest.raises(SessionError, match=r"ONNX Runtime cannot load .*step\.onnx"):
        OrtStepSession(bundle)
    with pytest.raises(BundleError, match="has no step_int8 graph"):
        OrtStepSession(bundle, "int8")
