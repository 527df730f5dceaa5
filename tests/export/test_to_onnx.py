"""The step graph is the model: its shape, its reset, its rows, and the first law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from export.checks.preflight import preflight
from export.to_onnx import clip_onnx_from_model, finished, step_onnx_from_model
from runtime.errors import ExportError
from tests.export.small import (
    NUM_CLASSES,
    PICTURE,
    UNITS,
    moving_frames,
    ort_session,
    run_step,
    run_steps,
    small_model,
    stamped,
    zero_states,
)
from train.model.unit import UnitConfig

EVERY = [(backbone, kind) for backbone in ("tiny", "narrow18") for kind in UNITS]
TEMPORAL = [("tiny", kind) for kind in UNITS if kind != "plain"]
LOOKAHEAD = UnitConfig(form="lookahead", shift_div=4)


@pytest.fixture
def step(request, step_of):
    return step_of(*request.param)


every_graph = pytest.mark.parametrize("step", EVERY, indirect=True, ids="-".join)
temporal_graphs = pytest.mark.parametrize("step", TEMPORAL, indirect=True, ids="-".join)


def close(got, expected):
    """1e-4 of the logits' range, as the export itself asks."""
    assert np.abs(got - expected).max() <= 1e-4 * (expected.max() - expected.min())


def torch_clip(model, frames):
    clip = torch.from_numpy(frames.transpose(0, 3, 1, 2)[np.newaxis].copy())
    with torch.inference_mode():
        return model(clip)[0].numpy()


def shapes(values):
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@every_graph
def test_the_contract(step):
    proto = step.proto
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8
    inputs, outputs = shapes(proto.graph.input), shapes(proto.graph.output)
    size = [PICTURE.height_px, PICTURE.width_px]
    assert list(inputs)[:2] == ["frame", "reset"]
    assert inputs["frame"] == [1, *size, 3]
    assert inputs["reset"] == [1, 1]
    assert outputs["logits"] == [1, NUM_CLASSES]
    assert list(inputs)[2:] == [f"state_in_{i:02d}" for i in range(len(step.states))]
    assert list(outputs)[1:] == [f"state_out_{i:02d}" for i in range(len(step.states))]
    for state in step.states:
        assert inputs[state.name_in] == outputs[state.name_out] == list(state.shape)
        assert state.dtype == "float32"
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert not [node for node in proto.graph.node if node.op_type in ("Loop", "Scan", "If")]
    assert preflight(step.path, states=step.states, precision="float32") == []


def test_states_are_one_tensor_of_vectors_and_a_map_for_every_block(step_of):
    ranks = {kind: [len(s.shape) for s in step_of("tiny", kind).states] for kind in UNITS}
    maps = [4, 4, 4, 4]
    assert ranks == {
        "plain": [],
        "pem": [2],
        "tsm": maps,
        "pem-tsm": [2, *maps],
        "tsm-pem": [2, *maps],
    }


@every_graph
def test_nothing_of_this_machine_is_in_the_file(step):
    proto = step.proto
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")  # random bytes may spell anything
    raw = proto.SerializeToString()
    for word in (b"/work", b"/tmp", b"/home", b"/root", b".py", b"site-packages", b"torch"):
        assert word not in raw
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *values):
        assert item.doc_string == ""
        assert not item.metadata_props


def test_pictures_are_cast_before_they_are_transposed(step_of):
    graph = step_of("tiny", "plain").proto.graph
    assert [node.op_type for node in graph.node if "frame" in node.input] == ["Cast"]


@every_graph
def test_the_first_law(step, tmp_path):
    """Steps of the graph == steps of the model == the model's clip == the clip graph."""
    frames = moving_frames(4)
    steps, _ = run_steps(step.path, step.states, frames)
    clip_onnx_from_model(step.model, PICTURE, 4, tmp_path / "clip.onnx")
    clip = ort_session(tmp_path / "clip.onnx").run(None, {"clip": frames[np.newaxis]})[0][0]
    expected = torch_clip(step.model, frames)
    close(steps, expected)
    close(clip, expected)
    if step.states:  # the past matters: otherwise the above proves nothing
        alone, _ = run_steps(step.path, step.states, frames, reset_at=range(4))
        assert np.abs(alone[1:] - steps[1:]).max() > 0.02 * np.ptp(expected)


@temporal_graphs
def test_a_reset_starts_a_clip_anew(step):
    frames = moving_frames(10)
    steps, _ = run_steps(step.path, step.states, frames, reset_at=(0, 4))
    close(steps[:4], torch_clip(step.model, frames[:4]))
    close(steps[4:], torch_clip(step.model, frames[4:]))


@temporal_graphs
@pytest.mark.parametrize("rubbish", [1e6, -1e30, np.inf, np.nan])
def test_a_reset_does_not_look_at_the_state(step, rubbish):
    frame = moving_frames(1)
    session = ort_session(step.path)
    zeros = zero_states(step.states)
    expected, after = run_step(session, frame, [1.0], zeros)
    spoilt = {name: np.full_like(value, rubbish) for name, value in zeros.items()}
    got, got_after = run_step(session, frame, [1.0], spoilt)
    assert np.array_equal(got, expected)
    assert all(np.array_equal(got_after[name], after[name]) for name in after)
    assert np.isfinite(got).all()
    kept, _ = run_step(session, frame, [0.0], spoilt)
    assert not np.array_equal(kept, expected)


@temporal_graphs
def test_rows_are_independent(step, tmp_path):
    path = tmp_path / "rows.onnx"
    states = step_onnx_from_model(step.model, PICTURE, path, rows=2)
    assert all(state.shape[0] == 2 for state in states)
    session = ort_session(path)
    frames = moving_frames(12).reshape(6, 2, PICTURE.height_px, PICTURE.width_px, 3)
    carried, rows = zero_states(states, 2), []
    for step_number, pair in enumerate(frames):  # the second row starts anew on its own
        reset = [float(step_number == 0), float(step_number in (0, 3))]
        logits, carried = run_step(session, pair, reset, carried)
        rows.append(logits)
    got = np.stack(rows)
    for row, reset_at in ((0, (0,)), (1, (0, 3))):
        close(got[:, row], run_steps(step.path, step.states, frames[:, row], reset_at)[0])


@every_graph
def test_no_node_holds_the_batch_size(step):
    """A device stamps N onto the inputs of the N = 1 graph, before it builds."""
    session = ort_session(stamped(step.proto, 3))
    frames = moving_frames(9).reshape(3, 3, PICTURE.height_px, PICTURE.width_px, 3)
    carried, rows = zero_states(step.states, 3), []
    for number, three in enumerate(frames):
        reset = [float(number == 0), float(number in (0, 2)), float(number == 0)]
        logits, carried = run_step(session, three, reset, carried)
        rows.append(logits)
    got = np.stack(rows)
    for row, reset_at in ((0, (0,)), (1, (0, 2)), (2, (0,))):
        close(got[:, row], run_steps(step.path, step.states, frames[:, row], reset_at)[0])


@pytest.mark.parametrize("step", [("resnet18", "pem-tsm")], indirect=True, ids="-".join)
def test_resnet18_at_its_full_width(step):
    assert preflight(step.path, states=step.states, precision="float32") == []
    frames = moving_frames(3)
    steps, _ = run_steps(step.path, step.states, frames)
    close(steps, torch_clip(step.model, frames))


def test_lookahead_cannot_stream_and_leaves_no_file(tmp_path):
    model = small_model("tiny", LOOKAHEAD)
    with pytest.raises(ExportError, match="'lookahead' sees the next frame and cannot stream"):
        step_onnx_from_model(model, PICTURE, tmp_path / "step.onnx")
    assert list(tmp_path.iterdir()) == []


def test_lookahead_has_a_clip_graph(tmp_path):
    model = small_model("tiny", LOOKAHEAD)
    clip_onnx_from_model(model, PICTURE, 6, tmp_path / "clip.onnx")
    frames = moving_frames(6)
    got = ort_session(tmp_path / "clip.onnx").run(None, {"clip": frames[np.newaxis]})[0][0]
    close(got, torch_clip(model, frames))


def relu_graph(opset):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "/home/me/relu")],
        "x",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_a_newer_opset_is_refused():
    assert finished(relu_graph(17)).ir_version == 8
    with pytest.raises(ExportError, match="opset 18, TensorRT 8.6 reads up to 17"):
        finished(relu_graph(18))


def test_a_broken_graph_is_refused(monkeypatch):
    def breaking(proto):
        proto.graph.node[0].input[0] = "nobody"
        return proto, True

    monkeypatch.setattr("export.to_onnx.onnxsim.simplify", breaking)
    with pytest.raises(ExportError, match="not valid ONNX"):
        finished(relu_graph(17))
    monkeypatch.setattr("export.to_onnx.onnxsim.simplify", lambda proto: (proto, False))
    with pytest.raises(ExportError, match="changed the graph's results"):
        finished(relu_graph(17))


def test_renamed_outputs_are_refused(monkeypatch, tmp_path):
    def renaming(proto):
        for node in proto.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        proto.graph.output[0].name = "scores"
        return proto, True

    monkeypatch.setattr("export.to_onnx.onnxsim.simplify", renaming)
    model = small_model("tiny", UNITS["plain"])
    with pytest.raises(ExportError, match="changed inputs or outputs: .*scores"):
        step_onnx_from_model(model, PICTURE, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())
