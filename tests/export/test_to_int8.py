"""The INT8 graph: its weights, its states, and what NVIDIA's rules ask of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import export.to_int8
from export.checks.preflight import preflight
from export.engines.build_log import nvidia_build_check
from export.int8.placement import placement_of
from export.to_int8 import int8_onnx_from_step, int8_step, observed_from_step
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
    assert preflight(path, states=states, precision="int8") == []


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


def kept_float(step, tmp_path, names):
    """The INT8 graph with some convolutions in float."""
    _, thresholds = measured_thresholds(step, tmp_path)
    return int8_step(step.proto, step.states, thresholds, float_convs=names)


def first_convs(step):
    """The convolutions behind the shifts of the four blocks."""
    names = [node.name for node in step.proto.graph.node if node.op_type == "Conv"]
    return [name for name in names if name.endswith(".0/conv1/Conv")]


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize(
    "conv",
    ["backbone/conv1", "layer1.0/conv1", "layer1.0/conv2", "layer2.0/conv1", "layer2.0/downsample"],
)
def test_a_convolution_kept_in_float(step_of, tmp_path, kind, conv):
    step = step_of("tiny", kind)
    name = next(n.name for n in step.proto.graph.node if n.op_type == "Conv" and conv in n.name)
    made = kept_float(step, tmp_path, [name])
    listed = preflight(made.proto, states=made.states, precision="int8", float_convs=[name])
    assert listed == []
    unlisted = preflight(made.proto, states=made.states, precision="int8")
    assert {finding.where for finding in unlisted if finding.check == "conv-weight"} == {name}
    graph = made.proto.graph
    node = next(node for node in graph.node if node.name == name)
    original = next(node for node in step.proto.graph.node if node.name == name)
    assert list(node.input) == list(original.input)  # neither its weight nor its data is rounded
    assert made.placement.float_convs == (name,)
    assert len(made.placement.convs) == 11
    frames = moving_frames(12, seed=3)
    expected, _ = run_steps(step.path, step.states, frames, reset_at=(0, 7))
    got, _ = run_steps(made.proto, made.states, frames, reset_at=(0, 7))
    assert 15 < sqnr_db(got, expected) < 60


def test_a_state_is_float_if_only_a_float_convolution_reads_it(step_of, tmp_path):
    """Behind a gate the convolution's scale is the state's; without one there is none to take."""
    step = step_of("tiny", "pem-tsm")
    convs = first_convs(step)
    made = kept_float(step, tmp_path, convs[1:3])
    assert [s.dtype for s in made.states] == ["float32", "int8", "float32", "float32", "int8"]
    assert set(made.state_scales) == {"state_in_01", "state_in_04"}
    frames = moving_frames(6, seed=4)
    _, exact = run_steps(step.path, step.states, frames)
    _, after = run_steps(made.proto, made.states, frames)
    for name in ("state_in_02", "state_in_03"):
        assert sqnr_db(after[-1][name], exact[-1][name]) > 15


def test_a_state_cut_from_a_rounded_tensor_stays_int8(step_of, tmp_path):
    step = step_of("tiny", "tsm")
    made = kept_float(step, tmp_path, first_convs(step))
    assert {s.dtype for s in made.states} == {"int8"}


def test_float_convolutions_must_exist(step_of, tmp_path):
    with pytest.raises(ExportError, match="no convolution is called conv9; keep one of"):
        kept_float(step_of("tiny", "plain"), tmp_path, ["conv9"])


def test_given_weights_take_the_place_of_the_nearest(step_of, tmp_path):
    step = step_of("tiny", "plain")
    _, thresholds = measured_thresholds(step, tmp_path)
    conv = next(n for n in step.proto.graph.node if n.op_type == "Conv")
    shape = next(tuple(t.dims) for t in step.proto.graph.initializer if t.name == conv.input[1])
    ours = (np.full(shape, 7, np.int8), np.full(shape[0], 0.5, np.float32))
    made = int8_step(step.proto, step.states, thresholds, rounded={conv.name: ours})
    constants = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    assert np.all(constants[f"{conv.input[1]}_int8"] == 7)
    assert np.all(constants[f"{conv.input[1]}_scale"] == 0.5)
    others = [n for n in constants if n.endswith("_int8") and n != f"{conv.input[1]}_int8"]
    assert len(others) == 11
    assert all(np.abs(constants[name]).max() == 127 for name in others)


@pytest.mark.rtx
def test_nvidias_builder_keeps_the_listed_ones_in_float(step_of, tmp_path):
    step = step_of("tiny", "pem-tsm")
    kept = [n.name for n in step.proto.graph.node if n.op_type == "Conv"][3:5]
    made = kept_float(step, tmp_path, kept)
    onnx.save(made.proto, str(tmp_path / "kept.onnx"))
    check = nvidia_build_check(tmp_path / "kept.onnx", expected_int8=made.placement.convs)
    assert set(check.float_convs) == set(kept)


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
