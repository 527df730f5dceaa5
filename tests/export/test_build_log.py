"""The layer table: read from recorded lines, and from NVIDIA's real builder."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from export.engines.build_log import (
    BuildCheck,
    check_messages,
    conv_node_names,
    convs_by_precision,
    count_kernels,
    nvidia_build_check,
    parse_layers,
)
from runtime.errors import EngineError, ExportError
from runtime.nvidia import LogMessage, find_tensorrt
from runtime.plan import BuildSettings, build_plan
from tests.export import bad_graphs as faults
from tests.export.bad_graphs import Edit
from tests.qdq_graphs import QdqRule, node_named, qdq_step_graph

RTX_TABLE = """Layers:
Name: __myl_CastTranConc_myl0_0, LayerType: kgen, Inputs: [ { Name: frame, Dimensions: [1,48,48,3],\
 Strides: [6912,144,3,1], Datatype: UInt8, Format: (Linear) Row major linear format }], Constants:\
 [ { Name: c0, Dimensions: [1,3,1,1], Datatype: Float, Format: (Linear) }], Outputs: [ { Name: t0,\
 Dimensions: [1,4,48,48], Datatype: Int8, Format: (NHWC) }], TacticName: __myl_x, StreamId: 0,\
 Metadata: [ONNX Layer: /cast][ONNX Layer: /a/Conv]
Name: /a/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: t0, Dimensions: [1,4,48,48],\
 Datatype: Int8, Format: (NHWC) }], Constants: [ { Name: w, Dimensions: [16,4,3,3], Datatype: Int8,\
 Format: (NHWC) }, { Name: s, Datatype: Float, Format: (NHWC) }], Outputs: [ { Name: t1,\
 Dimensions: [1,16,24,24], Datatype: Float, Format: (NHWC) }], TacticName: __myelin_CASK_STUB,\
 StreamId: 0, Metadata: [ONNX Layer: /a/Conv][ONNX Layer: /a/w_dq]
Name: /b [2], x/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: t1, Dimensions: [1,16],\
 Datatype: Float }, { Name: r, Datatype: Float }], Constants: [ { Name: w, Datatype: Float }],\
 Outputs: [ { Name: t2, Datatype: Float }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata:\
 [ONNX Layer: /b [2], x/Conv][ONNX Layer: /b/Relu]
Name: /fc/Gemm_myl0_3, LayerType: gemm, Inputs: [ { Name: t2, Datatype: Int8 }], Constants: [],\
 Outputs: [ { Name: logits, Datatype: Float }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer:\
 /fc/Gemm]

I/O Tensors:
 Name: frame, IOMode: Input, DataType: UInt8, Dimensions: [1,48,48,3], Location: Device
"""
# From TensorRT's documentation of the engine inspector: 8.6 and 10 name types in one field.
TRT_LINE = (
    "Name: /a/Conv + /a/Relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, "
    "Dimensions: [1,32,24,24], Format/Datatype: Thirty-two wide channel vectorized row major Int8 "
    "format }], Outputs: [ { Name: y, Location: Device, Dimensions: [1,32,24,24], Format/Datatype: "
    "Row major linear FP32 }], ParameterType: Convolution, Kernel: [3,3], TacticName: sm80_x, "
    "StreamId: 0, Metadata: [ONNX Layer: /a/Conv]\x1e[ONNX Layer: /a/Relu]"
)


def _messages(*texts: str) -> list[LogMessage]:
    return [LogMessage("VERBOSE", text) for text in texts]


def test_a_table_is_read() -> None:
    layers = parse_layers(_messages("Detected 7 inputs", RTX_TABLE))
    assert [layer.kind for layer in layers] == ["kgen", "correlation", "correlation", "gemm"]
    assert layers[0].inputs == ("UInt8",)
    assert layers[1].inputs == ("Int8",)
    assert layers[1].constants == ("Int8", "Float")
    assert layers[1].outputs == ("Float",)
    assert layers[2].onnx_nodes == ("/b [2], x/Conv", "/b/Relu")
    assert count_kernels(layers) == 4


def test_only_convolution_lines_decide() -> None:
    """Pointwise code names the convolutions around it, and an INT8 Gemm is none."""
    layers = parse_layers(_messages(RTX_TABLE))
    nodes = ("/a/Conv", "/b [2], x/Conv", "/gone/Conv")
    assert convs_by_precision(layers, nodes) == (("/a/Conv",), nodes[1:])
    assert convs_by_precision(layers) == (("/a/Conv",), ("/b [2], x/Conv",))


def test_tensorrts_own_lines_are_read() -> None:
    (layer,) = parse_layers(_messages(TRT_LINE))
    assert (layer.inputs, layer.outputs) == (("Int8",), ("Float",))
    assert layer.onnx_nodes == ("/a/Conv", "/a/Relu")
    assert convs_by_precision([layer], ["/a/Conv"]) == (("/a/Conv",), ())


def test_layers_without_a_kernel_are_not_counted() -> None:
    line = (
        "Name: x, LayerType: NoOp, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "
    )
    assert count_kernels(parse_layers(_messages(line))) == 0


def test_warnings() -> None:
    harmless = LogMessage("WARNING", "CUDA lazy loading is not enabled. Enabling it can ...")
    assert check_messages([harmless, harmless, LogMessage("INFO", "x")]) == (harmless.text,)
    with pytest.raises(ExportError, match="warns: something new"):
        check_messages([harmless, LogMessage("WARNING", "something new")])
    uint8 = "TensorRT supports Q/DQ with UINT8 zero_point only on DLA. Defaulting to INT8 instead."
    with pytest.raises(ExportError, match="would read it as INT8 and clip"):
        check_messages([LogMessage("WARNING", uint8)])


def test_the_verdict_on_one_line() -> None:
    check = BuildCheck(
        kernels=16,
        int8_convs=("a", "b"),
        float_convs=("c",),
        warnings=(),
        build_s=0.72,
        plan_bytes=1_400_000,
        layers=(),
    )
    assert str(check) == "16 kernels, 2 of 3 convolutions on INT8, 1.4 MB, built in 0.7 s"


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.rtx
@pytest.mark.parametrize(
    "rule",
    [
        QdqRule(),
        QdqRule(int8=False),
        QdqRule(int8_states=False, streams=3),
        QdqRule(depthwise=True, blocks=4),
        QdqRule(size_px=96, channels=64),
    ],
    ids=str,
)
def test_every_convolution_runs_int8(rule: QdqRule, tmp_path: Path) -> None:
    path = _saved(qdq_step_graph(rule), tmp_path)
    expected = set(conv_node_names(path)) if rule.int8 else set()
    check = nvidia_build_check(path, expected_int8=expected)
    assert len(check.int8_convs) == (rule.num_convs if rule.int8 else 0)
    assert len(check.int8_convs) + len(check.float_convs) == rule.num_convs
    assert rule.num_convs < check.kernels <= len(check.layers)
    assert check.warnings == ()


CONV = "/layer.0/conv2/Conv"
# What the user reads; `test_bad_graphs.py` holds what the builder does with all bad graphs.
REFUSED: list[tuple[Edit, str]] = [
    (faults.zero_point_3, "node /layer.0/conv2/in/Q.*every zero point must be 0"),
    (faults.scale_0, "Scale coefficients.*a Q/DQ scale is 0, negative or NaN"),
    (faults.int32_bias, "node bias_dq.*leave biases in float"),
    (faults.int8_constant_in_where, "only allowed before DQ.*dequantise first"),
    (faults.dynamic_axis, "export it with static ones"),
    (faults.transpose_of_uint8, "node /transpose.*cast uint8 to float"),
]
IN_FLOAT = [faults.weight_axis_1, faults.weight_only, faults.activation_only]
WARNED: list[tuple[Edit, str]] = [
    (faults.uint8_zero_point_0, "would read it as INT8 and clip"),
    (faults.one_name_twice, "warns: .*already exists"),
]


@pytest.mark.rtx
@pytest.mark.parametrize(("fault", "match"), REFUSED, ids=[f[0].__name__ for f in REFUSED])
def test_refused_graphs_name_node_and_fix(fault: Edit, match: str, tmp_path: Path) -> None:
    model = qdq_step_graph()
    fault(model)
    with pytest.raises(EngineError, match=f"(?s){match}"):
        nvidia_build_check(_saved(model, tmp_path))


@pytest.mark.rtx
@pytest.mark.parametrize(("fault", "match"), WARNED, ids=[f[0].__name__ for f in WARNED])
def test_warnings_fail(fault: Edit, match: str, tmp_path: Path) -> None:
    model = qdq_step_graph()
    fault(model)
    with pytest.raises(ExportError, match=match):
        nvidia_build_check(_saved(model, tmp_path))


@pytest.mark.rtx
@pytest.mark.parametrize("fault", IN_FLOAT)
def test_silent_float_convolutions_are_named(fault: Edit, tmp_path: Path) -> None:
    model = qdq_step_graph()
    fault(model)
    path = _saved(model, tmp_path)
    assert nvidia_build_check(path).float_convs == (CONV,)
    with pytest.raises(ExportError, match=f"5 convolutions .* expected 6; in float: {CONV}"):
        nvidia_build_check(path, expected_int8=6)
    with pytest.raises(ExportError, match=f"in float: {CONV}"):
        nvidia_build_check(path, expected_int8={CONV})


@pytest.mark.rtx
def test_nameless_convolutions_are_told_apart(tmp_path: Path) -> None:
    model = qdq_step_graph()
    for node in model.graph.node:
        node.name = ""
    path = _saved(model, tmp_path)
    assert nvidia_build_check(path, expected_int8=6).int8_convs == conv_node_names(path)


@pytest.mark.rtx
def test_convolutions_of_one_name_cannot_be_judged(tmp_path: Path) -> None:
    model = qdq_step_graph()
    node_named(model, CONV).name = "/stem/Conv"
    with pytest.raises(ExportError, match="several Conv nodes named /stem/Conv"):
        nvidia_build_check(_saved(model, tmp_path))


@pytest.mark.rtx
def test_rows_are_stamped_without_a_new_export() -> None:
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    model = qdq_step_graph().SerializeToString()
    built = build_plan(trt, model, settings=BuildSettings(num_streams=3))
    log = "\n".join(message.text for message in built.messages)
    for line in (
        "Name: logits, IOMode: Output, DataType: Float, Dimensions: [3,3]",
        "Name: state_in_00, IOMode: Input, DataType: Int8, Dimensions: [3,2,24,24]",
    ):
        assert line in log


@pytest.mark.rtx
def test_an_unknown_gpu(tmp_path: Path) -> None:
    path = _saved(qdq_step_graph(), tmp_path)
    with pytest.raises(ValueError, match="must be one of .*SM86.*, got 'SM87'"):
        nvidia_build_check(path, compute_capability="SM87")


@pytest.mark.rtx
def test_ctrl_c_cancels_a_build() -> None:
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, qdq_step_graph().SerializeToString(), on_progress=interrupt)
    shares: list[float] = []
    build_plan(trt, qdq_step_graph().SerializeToString(), on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
