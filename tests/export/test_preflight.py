"""Every static check, on a graph that has exactly its fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph_view import load_graph
from export.preflight import main, preflight, require_clean, states_by_name
from runtime.bundle import StateSpec
from runtime.command import run_command
from runtime.errors import ExportError
from tests.mini_bundle import write_mini_bundle
from tests.qdq_graphs import Edit, QdqRule, node_named, qdq_step_graph, set_constant

CONV = "/layer.0/conv2/Conv"
CLEAN_RULES = [
    QdqRule(),
    QdqRule(int8=False),
    QdqRule(int8_states=False),
    QdqRule(streams=2, blocks=4, depthwise=True),
]


@pytest.mark.parametrize("rule", CLEAN_RULES, ids=str)
def test_good_graphs_are_clean(rule: QdqRule) -> None:
    assert preflight(qdq_step_graph(rule), quantised=rule.int8) == []


def test_the_mini_bundle_is_clean(tmp_path: Path) -> None:
    bundle = write_mini_bundle(tmp_path)
    for kind in ("step", "step_int8"):
        graph = bundle.graph(kind)
        require_clean(bundle.graph_path(kind), states=graph.states, quantised=kind != "step")


def nonzero_zero_point(model: onnx.ModelProto) -> None:
    set_constant(model, "/layer.0/conv2/in/zero_point", np.int8(3))


def uint8_activation(model: onnx.ModelProto) -> None:
    set_constant(model, "/layer.0/conv2/in/zero_point", np.uint8(0))


def no_zero_point(model: onnx.ModelProto) -> None:
    del node_named(model, "/layer.0/conv2/in/Q").input[2]
    del node_named(model, "/layer.0/conv2/in/DQ").input[2]


def zero_scale(model: onnx.ModelProto) -> None:
    set_constant(model, "/layer.0/conv2/in/scale", np.float32(0))


def nan_scale(model: onnx.ModelProto) -> None:
    set_constant(model, "/layer.0/conv2/in/scale", np.float32(np.nan))


def negative_weight_scale(model: onnx.ModelProto) -> None:
    set_constant(model, f"{CONV}/w_scale", -np.ones(16, np.float32))


def weight_axis_1(model: onnx.ModelProto) -> None:
    node_named(model, f"{CONV}/w_dq").attribute[0].i = 1


def per_tensor_weight(model: onnx.ModelProto) -> None:
    set_constant(model, f"{CONV}/w_scale", np.float32(0.01))
    set_constant(model, f"{CONV}/w_zero", np.int8(0))


def weight_only(model: onnx.ModelProto) -> None:
    node_named(model, CONV).input[0] = "/layer.0/Relu_1_out"


def activation_only(model: onnx.ModelProto) -> None:
    set_constant(model, f"{CONV}/float_w", np.full((16, 16, 3, 3), 0.01, np.float32))
    node_named(model, CONV).input[1] = f"{CONV}/float_w"


def int32_bias(model: onnx.ModelProto) -> None:
    set_constant(model, "bias_int32", np.ones(16, np.int32))
    set_constant(model, "bias_scale", np.full(16, 1e-3, np.float32))
    dequantise = helper.make_node(
        "DequantizeLinear", ["bias_int32", "bias_scale"], ["bias"], "bias_dq", axis=0
    )
    model.graph.node.insert(0, dequantise)
    node_named(model, CONV).input[2] = "bias"


def int8_constant_in_where(model: onnx.ModelProto) -> None:
    """Reset an INT8 state before its DQ: tempting, and refused by NVIDIA's builder."""
    set_constant(model, "int8_zero", np.int8(0))
    dequantise = node_named(model, "/layer.0/state_in/DQ")
    inputs = ["/starts_map_out", "int8_zero", "state_in_00"]
    _insert_before(model, dequantise, helper.make_node("Where", inputs, ["kept"], "kept"))
    dequantise.input[0] = "kept"


def both_inputs_of_the_add(model: onnx.ModelProto) -> None:
    add = node_named(model, "/layer.0/Add")
    for kind, name in (("QuantizeLinear", "extra_q"), ("DequantizeLinear", "extra_dq")):
        inputs = [add.input[0], "/layer.0/out/scale", "/layer.0/out/zero_point"]
        _insert_before(model, add, helper.make_node(kind, inputs, [name], name))
        add.input[0] = name


def float_shortcut(model: onnx.ModelProto) -> None:
    node_named(model, "/layer.0/Add").input[1] = "/stem/Relu_out"


def float_strided_shortcut(model: onnx.ModelProto) -> None:
    node_named(model, "/layer.1/Add").input[1] = "/layer.1/down/Conv_out"


def quantised_twice(model: onnx.ModelProto) -> None:
    add = node_named(model, "/layer.0/Add")
    inputs = ["/stem/Relu_out", "/stem/out/scale", "/stem/out/zero_point"]
    _insert_before(model, add, helper.make_node("QuantizeLinear", inputs, ["q2"], "again_q"))
    inputs = ["q2", *inputs[1:]]
    _insert_before(model, add, helper.make_node("DequantizeLinear", inputs, ["dq2"], "again_dq"))
    add.input[1] = "dq2"


def float_slice(model: onnx.ModelProto) -> None:
    node_named(model, "/layer.0/rest").input[0] = "/stem/Relu_out"


def quantised_state_math(model: onnx.ModelProto) -> None:
    node = node_named(model, "/layer.1/gate/keep")
    scale = ["/layer.1/out/scale", "/layer.1/out/zero_point"]
    for kind, name in (("QuantizeLinear", "state_q"), ("DequantizeLinear", "state_dq")):
        _insert_before(model, node, helper.make_node(kind, [node.input[0], *scale], [name], name))
        node.input[0] = name


def state_scales_differ(model: onnx.ModelProto) -> None:
    set_constant(model, "/layer.0/state_in/scale", np.float32(0.06))


def state_scale_is_not_the_convs(model: onnx.ModelProto) -> None:
    for name in ("state_in", "state_out"):
        set_constant(model, f"/layer.0/{name}/scale", np.float32(0.06))


def shared_q(model: onnx.ModelProto) -> None:
    node_named(model, "/layer.0/Where").input[2] = "again"
    reader = node_named(model, "/layer.0/Where")
    inputs = ["state_in_00", "/layer.0/state_in/scale", "/layer.0/state_in/zero_point"]
    again = helper.make_node("DequantizeLinear", inputs, ["again"], "second_reader")
    _insert_before(model, reader, again)


def too_new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def too_new_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 10


def custom_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def dynamic_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"


def duplicate_names(model: onnx.ModelProto) -> None:
    node_named(model, "/layer.0/Relu_1").name = "/layer.0/Relu_2"


def nameless_conv(model: onnx.ModelProto) -> None:
    node_named(model, CONV).name = ""


def transpose_of_uint8(model: onnx.ModelProto) -> None:
    cast, transpose = model.graph.node[0], model.graph.node[1]
    transpose.input[0], transpose.output[0] = "frame", "turned"
    cast.input[0], cast.output[0] = "turned", "/transpose_out"
    first = onnx.NodeProto()
    first.CopyFrom(cast)
    cast.CopyFrom(transpose)
    transpose.CopyFrom(first)


def local_path(model: onnx.ModelProto) -> None:
    model.graph.node[3].metadata_props.add(
        key="pkg.torch.onnx.stack_trace", value='File "/home/someone/tdrl/train/model/pem.py"'
    )


def external_data(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "/fc/w")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.data_location = TensorProto.EXTERNAL


def batch_in_reshape(model: onnx.ModelProto) -> None:
    gate = node_named(model, "/layer.1/gate/Unsqueeze")
    gate.op_type = "Reshape"
    set_constant(model, "shape", np.array([1, 16, 1, 1], np.int64))
    gate.input[1] = "shape"


def state_without_an_output(model: onnx.ModelProto) -> None:
    model.graph.output.remove(
        next(output for output in model.graph.output if output.name == "state_out_02")
    )


def states_of_two_shapes(model: onnx.ModelProto) -> None:
    next(i for i in model.graph.input if i.name == "state_in_02").type.tensor_type.shape.dim[
        1
    ].dim_value = 1


FAULTS: list[tuple[Edit, str, str]] = [
    (nonzero_zero_point, "zero point", "symmetric"),
    (uint8_activation, "zero point", "is uint8, must be int8"),
    (no_zero_point, "zero point", "missing"),
    (zero_scale, "scale", "got 0.0"),
    (nan_scale, "scale", "got nan"),
    (negative_weight_scale, "scale", "must be finite and > 0"),
    (weight_axis_1, "weight axis", "use axis 0"),
    (per_tensor_weight, "weight scale", r"must be \(16,\)"),
    (weight_only, "conv data", "runs in float"),
    (activation_only, "conv weight", "runs in float"),
    (int32_bias, "INT32", "leave biases in float"),
    (int8_constant_in_where, "INT8 constant", "dequantise first"),
    (both_inputs_of_the_add, "residual add", "blocks Conv"),
    (float_shortcut, "residual add", "float from Relu"),
    (float_strided_shortcut, "residual add", "shortcut has no Q/DQ"),
    (quantised_twice, "block output", "quantised 2 times"),
    (float_slice, "block output", "goes on in float to /layer.0/rest"),
    (quantised_state_math, "state path", "keep state math in float"),
    (state_scales_differ, "INT8 state", "is written with scale 0.05 and read with 0.06"),
    (state_scale_is_not_the_convs, "INT8 state", "following convolution's input 0.05"),
    (shared_q, "INT8 state", "one DQ"),
    (too_new_opset, "opset", r"must be 13 \.\.\. 17"),
    (too_new_ir, "IR version", "must be <= 8"),
    (custom_domain, "domain", "standard operators"),
    (dynamic_axis, "static shape", "without dynamic axes"),
    (duplicate_names, "node names", "make it unique"),
    (nameless_conv, "node names", "without a name"),
    (transpose_of_uint8, "uint8", "put the Cast before it"),
    (local_path, "metadata", "local path"),
    (external_data, "external data", "external_data=False"),
    (batch_in_reshape, "batch", "write 0 or -1"),
    (state_without_an_output, "states", "needs an input and an output"),
    (states_of_two_shapes, "states", "like its other end"),
]


@pytest.mark.parametrize(("fault", "check", "match"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_each_fault_is_named(fault: Edit, check: str, match: str) -> None:
    model = qdq_step_graph()
    fault(model)
    with pytest.raises(ExportError, match=rf"{check} \[.*{match}"):
        require_clean(model, quantised=True)


def test_a_float_graph_has_no_qdq() -> None:
    with pytest.raises(ExportError, match="float graph"):
        require_clean(qdq_step_graph(), quantised=False)


def test_an_unquantised_graph_is_no_int8_graph() -> None:
    found = {
        finding.check for finding in preflight(qdq_step_graph(QdqRule(int8=False)), quantised=True)
    }
    assert {"conv data", "conv weight"} <= found


def test_a_convolution_may_stay_in_float_on_purpose() -> None:
    model = qdq_step_graph()
    weight_only(model)
    activation_only(model)
    assert preflight(model, float_convs=[CONV]) == []
    assert len(preflight(model)) >= 2


def test_a_split_convolution_is_no_residual_add() -> None:
    """Two convolutions, one of the state, one of the rest, added: a shift without Concat."""
    model = qdq_step_graph()
    concat = node_named(model, "/layer.0/conv1/in/Q")
    assert concat.input[0] == "/layer.0/Concat_out"
    split_first_convolution(model)
    assert [str(f) for f in preflight(model) if f.check == "residual add"] == []


def split_first_convolution(model: onnx.ModelProto) -> None:
    conv = node_named(model, "/layer.0/conv1/Conv")
    other = onnx.NodeProto()
    other.CopyFrom(conv)
    other.name, other.output[0] = "/layer.0/conv1/other/Conv", "other"
    other.input[0] = "/stem/out/DQ_out"
    relu = node_named(model, "/layer.0/Relu_1")
    _insert_before(model, relu, other)
    add = helper.make_node("Add", [conv.output[0], "other"], ["joined"], "/layer.0/conv1/join")
    _insert_before(model, relu, add)
    relu.input[0] = "joined"


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ([StateSpec("state_in_00", "state_out_00", (1, 2, 24, 24), "int8")], "state_in_01"),
        ([StateSpec("state_in_00", "state_out_00", (1, 2, 24, 24), "float32")], "must be float32"),
    ],
)
def test_states_are_the_bundles(states: list[StateSpec], match: str) -> None:
    with pytest.raises(ExportError, match=match):
        require_clean(qdq_step_graph(), states=states)


def test_unpadded_numbers_do_not_sort() -> None:
    model = qdq_step_graph(QdqRule(int8=False))
    specs = states_by_name(load_graph(model))
    specs = [
        StateSpec(f"state_in_{9 + i}", s.name_out, s.shape, s.dtype) for i, s in enumerate(specs)
    ]
    assert "pad numbers with zeros" in str(preflight(model, states=specs))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = qdq_step_graph()
    onnx.save(model, tmp_path / "good.onnx")
    assert run_command(lambda: main([str(tmp_path / "good.onnx")])) == 0
    assert "nothing found" in capsys.readouterr().out
    weight_only(model)
    onnx.save(model, tmp_path / "bad.onnx")
    assert run_command(lambda: main([str(tmp_path / "bad.onnx")])) == 1
    out, err = capsys.readouterr()
    assert f"conv data [{CONV}]" in out
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("contents", [None, b"no protobuf at all"])
def test_not_a_graph(tmp_path: Path, contents: bytes | None, capsys: Any) -> None:
    path = tmp_path / "x.onnx"
    if contents is not None:
        path.write_bytes(contents)
    assert run_command(lambda: main([str(path)])) == 1
    assert "error: " in capsys.readouterr().err


def _insert_before(model: onnx.ModelProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    names = [each.output[0] for each in model.graph.node]
    model.graph.node.insert(names.index(node.output[0]), new)
