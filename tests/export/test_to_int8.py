"""The INT8 graph: its weights, its states, and what NVIDIA's rules ask of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, numpy_helper

import export.to_int8
from export.build_log import nvidia_build_check
from export.placement import placement_of
from export.preflight import preflight
from export.to_int8 import int8_onnx_from_step, observed_from_step, quantised_weight
from runtime.errors import ExportError
from runtime.selftest import sqnr_db
from tests.export.small import (
    UNITS,
    int8_of,
    measured_thresholds,
    moving_frames,
    ort_session,
    run_step,
    run_steps,
    stamped,
    zero_states,
)

SHIFTING = ["tsm", "pem-tsm", "tsm-pem"]
WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    elements=st.floats(-100, 100, width=32),
)


@settings(deadline=None)
@given(WEIGHTS)
def test_weights_are_rounded_per_output_channel(weight):
    steps, scale = quantised_weight(weight)
    assert steps.dtype == np.int8
    assert steps.shape == weight.shape
    assert scale.dtype == np.float32
    assert scale.shape == weight.shape[:1]
    assert np.all(scale > 0)
    assert steps.min() >= -127
    back = steps.astype(np.float64) * scale.reshape(-1, 1, 1)
    limit = 0.5001 * scale.reshape(-1, 1, 1) + 1e-30
    assert np.all(np.abs(back - weight) <= limit)
    used = np.abs(weight).reshape(len(weight), -1).max(1) > 1e-30
    assert np.all(np.abs(steps).reshape(len(weight), -1).max(1)[used] == 127)


@pytest.mark.parametrize("dead", [0.0, 1e-44, 1e-38])
def test_a_dead_channel_becomes_zeros(dead):
    weight = np.ones((3, 2, 3, 3), np.float32)
    weight[1] = dead
    steps, scale = quantised_weight(weight)
    assert not steps[1].any()
    assert np.all(np.isfinite(scale))
    assert np.all(scale > 1e-6)
    assert np.all(steps[[0, 2]] == 127)


@pytest.fixture(scope="module")
def int8(step_of, tmp_path_factory):
    """`int8(kind)`: step graph, INT8 file, its states."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = int8_of(step_of("tiny", kind), tmp_path_factory.mktemp(kind))
        return (step_of("tiny", kind), *made[kind])

    return make


@pytest.mark.parametrize("kind", UNITS)
def test_preflight_finds_nothing(int8, kind):
    _, path, states = int8(kind)
    assert preflight(path, states=states, quantised=True) == []


@pytest.mark.parametrize("kind", UNITS)
def test_convolutions_read_int8_weights_along_axis_0(int8, kind):
    step, path, _ = int8(kind)
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    weights = {n.input[1] for n in step.proto.graph.node if n.op_type == "Conv"}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convs) == 12
    for conv in convs:
        dequantise = producer[conv.input[1]]
        assert dequantise.op_type == "DequantizeLinear"
        assert {a.name: a.i for a in dequantise.attribute} == {"axis": 0}
        weight, scale, zero = (constants[name] for name in dequantise.input)
        assert weight.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == zero.shape == weight.shape[:1]
        assert weight.min() >= -127
        assert producer[conv.input[0]].op_type == "DequantizeLinear"
    assert not weights & set(constants)  # the float weights are gone
    assert path.stat().st_size < 0.5 * step.path.stat().st_size
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[1]].dtype == np.float32
            assert constants[node.input[2]].dtype == np.int8


@pytest.mark.parametrize("kind", UNITS)
def test_it_computes_what_the_float_graph_computes(int8, kind):
    step, path, states = int8(kind)
    frames = moving_frames(12, seed=3)
    expected, _ = run_steps(step.path, step.states, frames, reset_at=(0, 7))
    got, _ = run_steps(path, states, frames, reset_at=(0, 7))
    assert 15 < sqnr_db(got, expected) < 60  # rounded, and not by much


def test_thresholds_set_the_scales(step_of, tmp_path):
    step = step_of("tiny", "pem-tsm")
    placement, thresholds = measured_thresholds(step, tmp_path)
    int8_onnx_from_step(step.path, step.states, thresholds, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {n.input[0]: constants[n.input[1]] for n in graph.node if n.op_type[0] == "Q"}
    for name in placement.tensors:
        assert found[name] == np.float32(thresholds[name] / 127)


def test_tied_tensors_take_the_other_ones_scale(step_of, tmp_path):
    step = step_of("tiny", "tsm")
    placement, thresholds = measured_thresholds(step, tmp_path)
    for tied in placement.tied:  # what calibration saw there does not count
        thresholds[tied] *= 3
    int8_onnx_from_step(step.path, step.states, thresholds, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    scale = {n.input[0]: constants[n.input[1]] for n in graph.node if n.op_type[0] == "Q"}
    assert len(placement.tied) == 4
    for tied, other in placement.tied.items():
        assert scale[tied] == scale[other]


def with_float_states(step, tmp_path, monkeypatch):
    """The same graph, but its shift states stay float32."""
    monkeypatch.setattr(
        export.to_int8,
        "placement_of",
        lambda *given: replace(placement_of(*given), shift_states={}),
    )
    path = tmp_path / "float_states.onnx"
    _, thresholds = measured_thresholds(step, tmp_path)
    return path, int8_onnx_from_step(step.path, step.states, thresholds, path)


@pytest.mark.parametrize("kind", SHIFTING)
def test_int8_states_are_exactly_the_rounded_float_states(int8, kind, tmp_path, monkeypatch):
    step, path, states = int8(kind)
    float_path, float_states = with_float_states(step, tmp_path, monkeypatch)
    maps = [state.name_in for state in states if state.dtype == "int8"]
    assert len(maps) == 4
    assert {state.dtype for state in float_states} == {"float32"}
    frames = moving_frames(14, seed=8)
    got, after = run_steps(path, states, frames, reset_at=(0, 9))
    expected, float_after = run_steps(float_path, float_states, frames, reset_at=(0, 9))
    assert np.array_equal(got, expected)
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    readers = {n.input[0]: n for n in graph.node if n.input}
    saturated = 0
    for step_number in range(len(frames)):
        for name in maps:
            stored, value = after[step_number][name], float_after[step_number][name]
            scale = constants[readers[name].input[1]]
            rounded = np.clip(np.rint(value / scale), -128, 127)
            assert stored.dtype == np.int8
            assert np.array_equal(stored, rounded)
            saturated += int((stored == 127).sum())
            assert stored.any()
    assert saturated  # thresholds are below the largest value: clipping was tried too


@pytest.mark.parametrize("kind", SHIFTING)
def test_int8_graphs_take_any_number_of_rows(int8, kind):
    _, path, states = int8(kind)
    session = ort_session(stamped(onnx.load(path), 2))
    frames = moving_frames(8).reshape(4, 2, 32, 40, 3)
    carried, rows = zero_states(states, 2), []
    for number, pair in enumerate(frames):
        logits, carried = run_step(session, pair, [number == 0, number in (0, 2)], carried)
        rows.append(logits)
    got = np.stack(rows)
    for row, reset_at in ((0, (0,)), (1, (0, 2))):
        alone, _ = run_steps(path, states, frames[:, row], reset_at)
        assert sqnr_db(got[:, row], alone) > 60


def test_the_float_graph_is_left_as_it_was(step_of, tmp_path):
    step = step_of("tiny", "pem-tsm")
    before = step.path.read_bytes()
    int8_of(step, tmp_path)
    assert step.path.read_bytes() == before


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), None])
def test_bad_thresholds_are_refused_by_name(step_of, tmp_path, bad):
    step = step_of("tiny", "pem-tsm")
    placement, thresholds = measured_thresholds(step, tmp_path)
    name = placement.tensors[5]
    thresholds.pop(name)
    if bad is not None:
        thresholds[name] = bad
    with pytest.raises(ExportError, match=f"tensor {name} has threshold .*calibrate it"):
        int8_onnx_from_step(step.path, step.states, thresholds, tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()


def test_the_observed_graph_gives_every_placed_tensor_and_the_same_logits(step_of, tmp_path):
    step = step_of("tiny", "pem-tsm")
    placement = observed_from_step(step.path, step.states, tmp_path / "observed.onnx")
    names = [output.name for output in onnx.load(tmp_path / "observed.onnx").graph.output]
    own = ["logits", *(state.name_out for state in step.states)]
    assert names == [*own, *placement.tensors]
    frame = moving_frames(1)
    found = ort_session(tmp_path / "observed.onnx").run(
        ["logits"],
        {"frame": frame, "reset": np.ones((1, 1), np.float32), **zero_states(step.states)},
    )
    expected, _ = run_steps(step.path, step.states, frame)
    assert np.array_equal(found[0], expected)


def test_graph_inputs_and_outputs_carry_the_states_dtype(int8):
    _, path, states = int8("pem-tsm")
    graph = onnx.load(path).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert [state.dtype for state in states] == ["float32"] + ["int8"] * 4
    for state in states:
        wanted = TensorProto.INT8 if state.dtype == "int8" else TensorProto.FLOAT
        assert kinds[state.name_in] == kinds[state.name_out] == wanted
    assert kinds["logits"] == TensorProto.FLOAT
    assert not any(node.metadata_props or node.doc_string for node in graph.node)


@pytest.mark.rtx
@pytest.mark.parametrize("kind", UNITS)
def test_nvidias_builder_takes_every_kind(int8, kind):
    step, path, _ = int8(kind)
    assert len(nvidia_build_check(path, expected_int8=12).int8_convs) == 12
    assert len(nvidia_build_check(step.path, expected_int8=0).float_convs) == 12
