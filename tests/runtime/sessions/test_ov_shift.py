"""A shift in an INT8 graph: OpenVINO computes what the graph says, and puts bytes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from runtime.selftest import sqnr_db
from runtime.sessions import ov
from tests.openvino_part import needs_openvino

pytestmark = needs_openvino

node = onnx.helper.make_node
FOLD, CHANNELS, SIZE = 2, 8, 8
SCALE = np.float32(0.02)


def shift_graph(
    gated: bool = False, axis: int = 1, kept: float = 1.0, zero: int = 0, scale: Any = SCALE
) -> onnx.ModelProto:
    """The shift of a block, one quantiser behind it, a convolution in INT8.

    Args:
        gated: A gate between shift and quantiser, `kept` for the past channels.
        axis: Along which past and present are put together.
        kept: What the gate multiplies the past with.
        zero: Zero point of the quantiser.
        scale: Its scale.
    """
    rng = np.random.default_rng(1)
    constants: dict[str, Any] = {
        "scale": np.asarray(scale, np.float32),
        "zero": np.full(np.shape(scale), zero, np.int8),
        "weight_int8": rng.integers(-127, 128, (8, CHANNELS, 3, 3)).astype(np.int8),
        "weight_scale": rng.uniform(0.001, 0.01, 8).astype(np.float32),
        "weight_zero": np.zeros(8, np.int8),
        "pads": np.array([0, FOLD, 0, 0, 0, 0, 0, 0]),
        "kept": np.float32(kept),
    }
    shapes = {axis: FOLD} if axis == 1 else {axis: SIZE // 2}
    past, now = ([1, CHANNELS, SIZE, SIZE] for _ in range(2))
    past[axis], now[axis] = shapes[axis], (CHANNELS if axis == 1 else SIZE) - shapes[axis]
    nodes = [node("Concat", ["past", "now"], ["both"], axis=axis)]
    inputs = {"past": past, "now": now}
    if gated:
        inputs["gate"] = [1, CHANNELS - FOLD, 1, 1]
        nodes += [node("Pad", ["gate", "pads", "kept"], ["padded"])]
        nodes += [node("Mul", ["both", "padded"], ["gated"])]
    nodes += [  # the axis counts where there is a scale for each channel
        node("QuantizeLinear", [nodes[-1].output[0], "scale", "zero"], ["int8"], axis=1),
        node("DequantizeLinear", ["int8", "scale", "zero"], ["again"], axis=1),
        node(
            "DequantizeLinear", ["weight_int8", "weight_scale", "weight_zero"], ["weight"], axis=0
        ),
        node("Conv", ["again", "weight"], ["out"], pads=[1, 1, 1, 1]),
    ]
    return _model(nodes, inputs, constants)


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int]], constants: dict[str, Any]
) -> onnx.ModelProto:
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    read = {name for each in nodes for name in each.input}
    graph = onnx.helper.make_graph(
        nodes,
        "shift",
        [value(name, kind, shape) for name, shape in inputs.items()],
        [value("out", kind, (1, 8, SIZE, SIZE))],
        [
            onnx.numpy_helper.from_array(np.asarray(array), name)
            for name, array in constants.items()
            if name in read
        ],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def feed_of(model: onnx.ModelProto) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        each.name: rng.normal(0, 1, [d.dim_value for d in each.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for each in model.graph.input
    }


def reference(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feed_of(model))[0]


def in_openvino(model: onnx.ModelProto) -> Any:
    compiled = ov.compiled_step(model.SerializeToString(), threads=1)
    return next(iter(compiled.create_infer_request().infer(feed_of(model)).values()))


PER_CHANNEL = np.linspace(0.01, 0.04, CHANNELS, dtype=np.float32)
GRAPHS = {
    "shift": shift_graph(),
    "gated": shift_graph(gated=True),
    "past changed by the gate": shift_graph(gated=True, kept=0.5),
    "rows, not channels": shift_graph(axis=2),
    "zero point": shift_graph(zero=-9),
    "a scale for each channel": shift_graph(scale=PER_CHANNEL),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_openvino_computes_what_the_graph_says(name):
    assert sqnr_db(in_openvino(GRAPHS[name]), reference(GRAPHS[name])) > 100


def test_openvino_alone_does_not(monkeypatch):
    """Where this no longer fails, graphs that are not built like ours need no maximum."""
    monkeypatch.setattr(ov, "quantise_before_concat", lambda model: None)
    assert sqnr_db(in_openvino(GRAPHS["shift"]), reference(GRAPHS["shift"])) < 20


def concat_types(model: onnx.ModelProto) -> list[str]:
    """In which type the compiled graph puts past and present together."""
    compiled = ov.compiled_step(model.SerializeToString(), threads=1)
    about = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    return [
        each["outputPrecisions"].value
        for each in about
        if each["layerType"].value == "Concatenation"
    ]


@pytest.mark.parametrize("gated", [False, True])
def test_our_shift_puts_bytes_together(gated):
    (kind,) = concat_types(shift_graph(gated=gated))
    assert kind in ("i8", "u8")


def test_other_graphs_put_floats_together():
    assert concat_types(GRAPHS["past changed by the gate"]) == ["f32"]
