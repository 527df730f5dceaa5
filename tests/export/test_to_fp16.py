"""The half graph: what is half and what is not, the first law, rows, and NVIDIA's builder."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from export.checks.preflight import preflight
from export.engines.build_log import nvidia_build_check
from export.graph_view import GraphView
from export.half_check import rounded_graph
from export.parity import compare, model_steps
from export.to_fp16 import fold_batch_norms, fp16_onnx_from_model, half_model
from export.to_onnx import step_onnx_from_model
from runtime.errors import ExportError
from runtime.nvidia import find_tensorrt
from runtime.plan import BuildSettings, build_plan
from tests.export.small import (
    PICTURE,
    UNITS,
    Exported,
    moving_frames,
    ort_session,
    run_step,
    run_steps,
    small_model,
    stamped,
    zero_states,
)
from train.model.teinet import MotionEnhancement
from train.model.unit import UnitConfig

LEAST_DB = 50.0
KINDS = UNITS | {
    "tim": UnitConfig(temporal="tim", pem=False, shift_div=4),
    "mem": UnitConfig(temporal="mem", pem=False),
    "pem-tei": UnitConfig(temporal="tei", shift_div=4),
}
EVERY = [
    *(("tiny", kind) for kind in KINDS),
    *(("narrow18", kind) for kind in UNITS),
    ("narrow50", "pem-tsm"),
    ("efficientnet_lite0", "pem-tsm"),
]
TEMPORAL = [("tiny", kind) for kind in KINDS if kind != "plain"]
FEATURE_MAPS = {"Conv", "Relu", "Clip", "MaxPool", "Add", "Mul", "Concat", "Slice"}


@pytest.fixture(scope="module")
def half_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")

    @cache
    def export(backbone, kind):
        path = folder / f"{backbone}-{kind}.onnx"
        model = deepcopy(small_model(backbone, KINDS[kind]))
        for module in model.modules():
            if isinstance(module, MotionEnhancement):  # a fresh one passes everything
                nn.init.normal_(module.attend.weight, 0, 2.0)
        return Exported(model, path, fp16_onnx_from_model(model, PICTURE, path))

    return export


@pytest.fixture
def half(request, half_of):
    return half_of(*request.param)


every_graph = pytest.mark.parametrize("half", EVERY, indirect=True, ids="-".join)
temporal_graphs = pytest.mark.parametrize("half", TEMPORAL, indirect=True, ids="-".join)


def starts(count, reset_at=(0,)):
    reset = np.zeros(count, np.float32)
    reset[list(reset_at)] = 1
    return reset


def rounded_steps(half, frames, reset_at=(0,)):
    """Steps with float16's roundings, which ONNX Runtime leaves out."""
    return run_steps(rounded_graph(half.proto), half.states, frames, reset_at)[0]


@every_graph
def test_feature_maps_are_half_and_the_rest_is_not(half):
    view = GraphView(half.proto)
    assert not view.inference_error
    dtypes = {name: facts.dtype for name, facts in view.tensors.items()}
    for name in (*view.inputs, *view.outputs):
        assert dtypes[name] == (TensorProto.UINT8 if name == "frame" else TensorProto.FLOAT)
    counts = dict.fromkeys(("maps", "vectors"), 0)
    for node in view.nodes:
        kinds = {dtypes[name] for name in (*node.input, *node.output) if name}
        if node.op_type in FEATURE_MAPS and view.rank(node.output[0]) == 4:
            counts["maps"] += 1
            # slices read their bounds too
            assert kinds - {TensorProto.INT64} == {TensorProto.FLOAT16}, node.name
        elif view.rank(node.output[0]) == 2 and node.op_type not in ("Cast", "Greater", "Where"):
            counts["vectors"] += 1
            assert TensorProto.FLOAT16 not in kinds, node.name
            assert dtypes[node.output[0]] == TensorProto.FLOAT
        elif node.op_type in ("Sub", "Div"):  # normalisation
            assert kinds == {TensorProto.FLOAT}, node.name
    assert counts["maps"] >= 2 * len(view.of_type("Conv")) - 1
    assert counts["vectors"] >= 2  # pooled features and logits
    assert {node.op_type for node in view.nodes}.isdisjoint({"BatchNormalization", "If", "Loop"})


@every_graph
def test_it_is_the_float_graph_from_outside(half, tmp_path):
    path = tmp_path / "step.onnx"
    states = step_onnx_from_model(half.model, PICTURE, path)
    graph, other = half.proto.graph, onnx.load(path).graph
    assert half.states == states
    assert list(graph.input) == list(other.input)
    assert list(graph.output) == list(other.output)
    assert half.proto.ir_version == 8
    assert [(o.domain, o.version) for o in half.proto.opset_import] == [("", 17)]
    assert preflight(half.path, states=half.states, precision="float16") == []
    assert half.path.stat().st_size < 0.65 * path.stat().st_size


@every_graph
def test_it_agrees_with_float(half):
    frames, reset = moving_frames(16), starts(16, (0, 9))
    found = compare(rounded_steps(half, frames, (0, 9)), model_steps(half.model, frames, reset))
    assert found.sqnr_db > LEAST_DB
    assert found.same_top1 == 1


@every_graph
def test_the_first_law(half):
    """Steps of the graph == steps of the half model == its whole clip, but for roundings."""
    frames = moving_frames(6)
    model = half_model(half.model)
    steps = rounded_steps(half, frames)
    with torch.inference_mode():
        clip = model(torch.from_numpy(frames.transpose(0, 3, 1, 2)[np.newaxis].copy()))[0].numpy()
    assert clip.dtype == np.float32
    assert compare(model_steps(model, frames, starts(6)), clip).sqnr_db > LEAST_DB
    assert compare(steps, clip).sqnr_db > LEAST_DB
    if half.states:
        alone = rounded_steps(half, frames, range(6))
        assert compare(alone[1:], steps[1:]).sqnr_db < LEAST_DB - 10


@temporal_graphs
def test_a_reset_starts_a_clip_anew(half):
    frames = moving_frames(10)
    steps = rounded_steps(half, frames, (0, 4))
    assert np.array_equal(steps[:4], rounded_steps(half, frames[:4]))
    assert np.array_equal(steps[4:], rounded_steps(half, frames[4:]))


@temporal_graphs
@pytest.mark.parametrize("rubbish", [1e6, -1e30, np.inf, np.nan])
def test_a_reset_does_not_look_at_the_state(half, rubbish):
    """1e6 is no number of float16: the cast comes after the reset, or does not matter."""
    frame = moving_frames(1)
    zeros = zero_states(half.states)
    spoilt = {name: np.full_like(value, rubbish) for name, value in zeros.items()}
    for graph in (half.proto, rounded_graph(half.proto)):
        session = ort_session(graph)
        expected, after = run_step(session, frame, [1.0], zeros)
        got, got_after = run_step(session, frame, [1.0], spoilt)
        assert np.array_equal(got, expected)
        assert np.isfinite(got).all()
        assert all(np.array_equal(got_after[name], after[name]) for name in after)


@temporal_graphs
def test_states_that_are_maps_lose_nothing_between_steps(half):
    """They hold float16's numbers: float32 outside changes none."""
    _, after = run_steps(rounded_graph(half.proto), half.states, moving_frames(3))
    for value in after[-1].values():
        rounds = np.array_equal(value, value.astype(np.float16).astype(np.float32))
        assert rounds == (value.ndim == 4)


@every_graph
def test_rows_are_stamped_without_a_new_export(half):
    session = ort_session(stamped(rounded_graph(half.proto), 3))
    frames = moving_frames(9).reshape(3, 3, PICTURE.height_px, PICTURE.width_px, 3)
    carried, rows = zero_states(half.states, 3), []
    for number, three in enumerate(frames):
        reset = [float(number == 0), float(number in (0, 2)), float(number == 0)]
        logits, carried = run_step(session, three, reset, carried)
        rows.append(logits)
    got = np.stack(rows)
    for row, reset_at in ((0, (0,)), (1, (0, 2)), (2, (0,))):
        expected = rounded_steps(half, frames[:, row], reset_at)
        assert compare(got[:, row], expected).sqnr_db > LEAST_DB


def conv_weights(proto):
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    return [
        numpy_helper.to_array(stored[n.input[1]]) for n in proto.graph.node if n.op_type == "Conv"
    ]


def test_batch_norms_are_folded_before_weights_are_rounded(half_of, step_of):
    """In the other order one weight of three is another."""
    for backbone in ("tiny", "narrow18"):
        halves = conv_weights(half_of(backbone, "pem-tsm").proto)
        floats = conv_weights(step_of(backbone, "pem-tsm").proto)
        for got, whole in zip(halves, floats, strict=True):
            assert got.dtype == np.float16
            assert (got == whole.astype(np.float16)).mean() > 0.99


@pytest.mark.parametrize("backbone", ["tiny", "narrow50", "efficientnet_lite0"])
@pytest.mark.parametrize("side", [32, 50])
def test_folding_changes_no_float(backbone, side):
    """Side 50 becomes 25: there EfficientNet's padding is the same on both sides."""
    model = small_model(backbone, UNITS["pem-tsm"])
    folded = deepcopy(model)
    fold_batch_norms(folded)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    frame = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        expected, got = model.step(frame)[0], folded.step(frame)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_model_itself_is_not_changed():
    model = deepcopy(small_model("tiny", UNITS["pem-tsm"]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half_model(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.backbone._forward_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_weights_that_float16_cannot_hold(tmp_path):
    model = deepcopy(small_model("tiny", UNITS["plain"]))
    net: Any = model.backbone
    with torch.no_grad():
        net.layer3[0].conv2.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ExportError, match=r"layer3\.0\.conv2 has weights that float16 cannot hold"):
        fp16_onnx_from_model(model, PICTURE, tmp_path / "step.fp16.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_norm_without_a_convolution():
    model = deepcopy(small_model("tiny", UNITS["plain"]))
    model.backbone.maxpool = nn.BatchNorm2d(16).eval()
    with pytest.raises(ExportError, match="batch norm maxpool does not follow a convolution"):
        half_model(model)


def test_lookahead_cannot_stream_and_leaves_no_file(tmp_path):
    model = small_model("tiny", UnitConfig(form="lookahead", shift_div=4))
    with pytest.raises(ExportError, match="'lookahead' sees the next frame and cannot stream"):
        fp16_onnx_from_model(model, PICTURE, tmp_path / "step.fp16.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rtx
@every_graph
def test_nvidias_builder_runs_every_convolution_in_half(half):
    check = nvidia_build_check(half.path)
    convs = [layer for layer in check.layers if layer.is_conv]
    assert len(convs) >= len(check.float_convs) - 1  # RTX may generate a stem of its own
    for layer in convs:
        assert layer.inputs[0] == layer.outputs[0] == "Half", layer.name
        assert layer.constants[0] == "Half", layer.name
    # a model without states does not read `reset`
    assert check.warnings == () or not half.states


@pytest.mark.rtx
def test_nvidias_builder_takes_more_rows(half_of):
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    half = half_of("tiny", "pem-tsm")
    built = build_plan(trt, half.path.read_bytes(), settings=BuildSettings(num_streams=3))
    log = "\n".join(message.text for message in built.messages)
    assert "Name: logits, IOMode: Output, DataType: Float, Dimensions: [3,5]" in log
    assert "Name: state_in_01, IOMode: Input, DataType: Float, Dimensions: [3,4," in log
