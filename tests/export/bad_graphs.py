"""Every bad graph we know of: a good exported graph with one fault, and what finds it.

Places are found by structure, so the faults fit any of our graphs. `BAD_GRAPHS` says what preflight
calls each, and what NVIDIA's builder does with it; tests hold both, and `docs/preflight.md` shows it:

    python -m tests.export.bad_graphs > docs/preflight.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.checks.named import markdown
from export.graph_view import DEQUANTISE, QUANTISE, GraphIndex
from runtime.bundle import Precision

Edit: TypeAlias = Callable[[onnx.ModelProto], None]
Answer: TypeAlias = Literal["refuses", "warns", "in float", "silent"]
LOCAL = 'File "/home/someone/tdrl/train/model/pem.py"'
OTHER_SCALE = 1.7


@dataclass(frozen=True)
class BadGraph:
    """A fault.

    Attributes:
        what: In words.
        edit: Makes it.
        check: The name that preflight must find it by.
        answer: What NVIDIA's builder does: refuse it, build it with a warning, run a convolution in
            another precision without a word, or take it as if it were good.
        said: A part of what the builder says.
        base: The good graph.
    """

    what: str
    edit: Edit
    check: str
    answer: Answer
    said: str = ""
    base: Precision = "int8"

    @property
    def name(self) -> str:
        """Name of the edit."""
        return self.edit.__name__


# ---------------------------------------------------------------- places


def producer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    return next(node for node in model.graph.node if tensor in node.output)


def readers(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """The nodes that read a tensor."""
    return [node for node in model.graph.node if tensor in node.input]


def _kind_before(model: onnx.ModelProto, tensor: str) -> str:
    return GraphIndex(model.graph).made_by(tensor)


def residual_add(model: onnx.ModelProto, shortcut: str) -> onnx.NodeProto:
    """The first residual add whose quantised shortcut comes from that operator."""
    index = GraphIndex(model.graph)
    for add in index.of_type("Add"):
        if [index.made_by(name) for name in add.input] == ["Conv", DEQUANTISE]:
            quantise = producer(model, producer(model, add.input[1]).input[0])
            if index.made_by(quantise.input[0]) == shortcut:
                return add
    raise LookupError(f"no residual add with a shortcut from {shortcut}")


def main_conv(model: onnx.ModelProto) -> onnx.NodeProto:
    """The last convolution of a block without a projection: square, and not behind a shift."""
    return producer(model, residual_add(model, "Relu").input[0])


def data_pair(model: onnx.ModelProto, conv: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Q and DQ of a convolution's data."""
    dequantise = producer(model, conv.input[0])
    return [producer(model, dequantise.input[0]), dequantise]


def shift_states(model: onnx.ModelProto) -> list[str]:
    """Names of the INT8 state inputs."""
    inputs = model.graph.input
    return [i.name for i in inputs if i.type.tensor_type.elem_type == TensorProto.INT8]


def gate(model: onnx.ModelProto) -> onnx.NodeProto:
    """The Unsqueeze behind PEM's gate."""
    index = GraphIndex(model.graph)
    nodes = index.of_type("Unsqueeze")
    return next(node for node in nodes if index.made_by(node.input[0]) in ("Sigmoid", "Cast"))


def state_mul(model: onnx.ModelProto) -> onnx.NodeProto:
    """The product in PEM's update of its running mean: of vectors, before a Sum with the old."""
    index = GraphIndex(model.graph)
    for mul in index.of_type("Mul"):
        made = [index.made_by(name) for name in mul.input]
        if made == ["Sigmoid", "Sub"]:
            return mul
    raise LookupError("no state update")


def value(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """An initialiser's value."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def constant(model: onnx.ModelProto, name: str, array: Any) -> str:
    """Add an initialiser."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def insert_before(model: onnx.ModelProto, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    """Put nodes before another."""
    place = [each.output[0] for each in model.graph.node].index(node.output[0])
    for offset, each in enumerate(new):
        model.graph.node.insert(place + offset, each)


def add_pair(model: onnx.ModelProto, node: onnx.NodeProto, position: int, like: str = "") -> None:
    """Q/DQ on one input of a node, at a scale of its own or that of a Q node's name."""
    name = node.input[position]
    scale = constant(model, f"{name}_extra_scale", np.float32(0.05))
    if like:
        scale = next(n for n in model.graph.node if n.name == like).input[1]
    zero = constant(model, f"{name}_extra_zero", np.int8(0))
    q, dq = f"{name}_extra_q", f"{name}_extra_dq"
    insert_before(
        model,
        node,
        helper.make_node(QUANTISE, [name, scale, zero], [q], f"{q}_node"),
        helper.make_node(DEQUANTISE, [q, scale, zero], [dq], f"{dq}_node"),
    )
    node.input[position] = dq


def _cast(name: str, to: int, output: str = "") -> onnx.NodeProto:
    output = output or f"{name}_cast_{to}"
    return helper.make_node("Cast", [name], [output], f"{output}_node", to=to)


# ---------------------------------------------------------------- scales and zero points


def _pair_zero(model: onnx.ModelProto, zero: Any) -> None:
    name = constant(model, "other_zero", zero)
    for node in data_pair(model, main_conv(model)):
        node.input[2] = name


def _pair_scale(model: onnx.ModelProto, scale: Any) -> None:
    name = constant(model, "other_scale", scale)
    for node in data_pair(model, main_conv(model)):
        node.input[1] = name


def uint8_zero_point_0(model):
    _pair_zero(model, np.uint8(0))


def uint8_zero_point_128(model):
    _pair_zero(model, np.uint8(128))


def zero_point_3(model):
    _pair_zero(model, np.int8(3))


def no_zero_point(model):
    for node in data_pair(model, main_conv(model)):
        del node.input[2]


def scale_0(model):
    _pair_scale(model, np.float32(0))


def scale_negative(model):
    _pair_scale(model, np.float32(-0.05))


def scale_nan(model):
    _pair_scale(model, np.float32(np.nan))


def scale_infinite(model):
    _pair_scale(model, np.float32(np.inf))


def scale_float16(model):
    _pair_scale(model, np.float16(0.05))


def scale_computed(model):
    first, *rest = data_pair(model, main_conv(model))
    total = helper.make_node("Mul", [first.input[1], "one"], ["computed"], "scale_mul")
    constant(model, "one", np.float32(1))
    insert_before(model, first, total)
    for node in (first, *rest):
        node.input[1] = "computed"


def scales_per_channel(model):
    channels = value(model, main_conv(model).input[2]).size
    _pair_scale(model, np.full(channels, 0.05, np.float32))
    constant(model, "zeros", np.zeros(channels, np.int8))
    for node in data_pair(model, main_conv(model)):
        node.input[2] = "zeros"


def pair_of_two_scales(model):
    quantise, dequantise = data_pair(model, main_conv(model))
    other = value(model, quantise.input[1]) * np.float32(OTHER_SCALE)
    dequantise.input[1] = constant(model, "other_scale", other)


# ---------------------------------------------------------------- convolutions


def weight_axis_1(model):
    dequantise = producer(model, main_conv(model).input[1])
    next(each for each in dequantise.attribute if each.name == "axis").i = 1


def weight_scale_for_all(model):
    dequantise = producer(model, main_conv(model).input[1])
    dequantise.input[1] = constant(model, "one_scale", np.float32(0.01))
    dequantise.input[2] = constant(model, "one_zero", np.int8(0))


def weight_scales_too_few(model):
    dequantise = producer(model, main_conv(model).input[1])
    half = value(model, dequantise.input[1]).size // 2
    dequantise.input[1] = constant(model, "few_scales", np.full(half, 0.01, np.float32))
    dequantise.input[2] = constant(model, "few_zeros", np.zeros(half, np.int8))


def weight_only(model):
    conv = main_conv(model)
    conv.input[0] = data_pair(model, conv)[0].input[0]


def activation_only(model):
    conv = main_conv(model)
    levels = value(model, producer(model, conv.input[1]).input[0])
    conv.input[1] = constant(model, "float_weight", levels.astype(np.float32) / 1000)


def not_quantised(model):
    weight_only(model)
    conv = next(
        n
        for n in model.graph.node
        if n.op_type == "Conv" and _kind_before(model, n.input[0]) == "Relu"
    )
    levels = value(model, producer(model, conv.input[1]).input[0])
    conv.input[1] = constant(model, "float_weight", levels.astype(np.float32) / 1000)


def int32_bias(model):
    conv = main_conv(model)
    channels = value(model, conv.input[2]).size
    constant(model, "bias_int32", np.ones(channels, np.int32))
    constant(model, "bias_scale", np.full(channels, 1e-3, np.float32))
    node = helper.make_node(DEQUANTISE, ["bias_int32", "bias_scale"], ["bias"], "bias_dq", axis=0)
    insert_before(model, conv, node)
    conv.input[2] = "bias"


# ---------------------------------------------------------------- feature maps


def both_branches_quantised(model):
    add_pair(model, residual_add(model, "Relu"), 0)


def shortcut_in_float(model):
    add = residual_add(model, "Relu")
    add.input[1] = producer(model, producer(model, add.input[1]).input[0]).input[0]


def projection_in_float(model):
    add = residual_add(model, "Conv")
    add.input[1] = producer(model, producer(model, add.input[1]).input[0]).input[0]


def map_crosses_border_in_float(model):
    """What PEM's gate multiplies comes from the last block's output before its Q."""
    reader = next(
        node
        for node in model.graph.node
        if node.op_type == "Slice"
        and _kind_before(model, node.input[0]) == DEQUANTISE
        and any(each.op_type == "Concat" for each in readers(model, node.output[0]))
    )
    reader.input[0] = producer(model, producer(model, reader.input[0]).input[0]).input[0]


def quantised_twice(model):
    shortcut_in_float(model)
    add = residual_add_in_float(model)
    index = GraphIndex(model.graph)
    first = next(n for n in index.consumers(add.input[1]) if n.op_type == QUANTISE)
    add_pair(model, add, 1, like=first.name)


def residual_add_in_float(model: onnx.ModelProto) -> onnx.NodeProto:
    """The residual add that `shortcut_in_float` has changed."""
    index = GraphIndex(model.graph)
    for add in index.of_type("Add"):
        if [index.made_by(name) for name in add.input] == ["Conv", "Relu"]:
            return add
    raise LookupError("no residual add in float")


def pooling_in_float(model):
    """The last block's output to the mean over pixels."""
    pool = producer(model, producer(model, "logits").input[0])
    pool.input[0] = producer(model, producer(model, pool.input[0]).input[0]).input[0]


def qdq_before_relu(model):
    relu = producer(model, data_pair(model, main_conv(model))[0].input[0])
    add_pair(model, relu, 0)


# ---------------------------------------------------------------- states and vectors


def qdq_on_state_path(model):
    add_pair(model, state_mul(model), 1)


def qdq_on_gate(model):
    add_pair(model, gate(model), 0)


def qdq_on_classifier(model):
    add_pair(model, producer(model, "logits"), 0)


def state_read_at_another_scale(model):
    name = shift_states(model)[0]
    (reader,) = readers(model, name)
    other = value(model, reader.input[1]) * np.float32(OTHER_SCALE)
    reader.input[1] = constant(model, "other_scale", other)


def state_kept_at_another_scale(model):
    state_read_at_another_scale(model)
    producer(model, shift_states(model)[0].replace("_in_", "_out_")).input[1] = "other_scale"


def int8_constant_in_where(model):
    """Reset an INT8 state before its DQ: tempting."""
    name = shift_states(model)[0]
    (reader,) = readers(model, name)
    where = next(
        n for n in model.graph.node if n.op_type == "Where" and reader.output[0] in n.input
    )
    constant(model, "int8_nought", np.int8(0))
    made = helper.make_node("Where", [where.input[0], "int8_nought", name], ["kept"], "kept")
    model.graph.node.remove(reader)
    reader.input[0] = "kept"
    insert_before(model, where, made, reader)


def state_reset_turned_round(model):
    (where,) = readers(model, "state_in_00")
    where.input[1], where.input[2] = where.input[2], where.input[1]


def state_without_output(model):
    outputs = model.graph.output
    outputs.remove(next(output for output in outputs if output.name == "state_out_01"))


def state_in_float16(model):
    """Both ends of a state vector in half, with casts: half the bytes, and no longer exact."""
    last = producer(model, "state_out_00")
    last.output[0] = "state_out_00_float"
    model.graph.node.append(_cast("state_out_00_float", TensorProto.FLOAT16, "state_out_00"))
    first = readers(model, "state_in_00")[0]
    insert_before(model, first, _cast("state_in_00", TensorProto.FLOAT, "state_in_00_float"))
    first.input[list(first.input).index("state_in_00")] = "state_in_00_float"
    for each in (*model.graph.input, *model.graph.output):
        if each.name in ("state_in_00", "state_out_00"):
            each.type.tensor_type.elem_type = TensorProto.FLOAT16


def frame_in_float(model):
    frame = next(i for i in model.graph.input if i.name == "frame")
    frame.type.tensor_type.elem_type = TensorProto.FLOAT


def logits_in_float16(model):
    producer(model, "logits").output[0] = "logits_float"
    model.graph.node.append(_cast("logits_float", TensorProto.FLOAT16, "logits"))
    logits = next(o for o in model.graph.output if o.name == "logits")
    logits.type.tensor_type.elem_type = TensorProto.FLOAT16


def input_is_output(model):
    model.graph.output.append(next(i for i in model.graph.input if i.name == "reset"))


def batch_in_reshape(model):
    node = gate(model)
    node.op_type = "Reshape"
    channels = len(value(model, producer(model, producer(model, node.input[0]).input[0]).input[2]))
    node.input[1] = constant(model, "shape", np.array([1, channels, 1, 1], np.int64))


# ---------------------------------------------------------------- the file


def opset_19(model):
    model.opset_import[0].version = 19


def ir_version_10(model):
    model.ir_version = 10


def unused_domain(model):
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def custom_operator(model):
    unused_domain(model)
    node = producer(model, "logits")
    add = helper.make_node("Mystery", ["plain"], ["logits"], "mystery", domain="com.example")
    node.output[0] = "plain"
    model.graph.node.append(add)


def dynamic_axis(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"


def one_name_twice(model):
    first, second = [node for node in model.graph.node if node.op_type == "Relu"][:2]
    second.name = first.name


def conv_without_name(model):
    main_conv(model).name = ""


def transpose_of_uint8(model):
    cast = readers(model, "frame")[0]
    (transpose,) = readers(model, cast.output[0])
    end = transpose.output[0]
    transpose.input[0], transpose.output[0] = "frame", "turned"
    cast.input[0], cast.output[0] = "turned", end
    model.graph.node.remove(transpose)
    insert_before(model, cast, transpose)


def local_path(model):
    model.graph.node[5].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=LOCAL)


def condition(model):
    """Logits through If: the same on both ways."""
    node = producer(model, "logits")
    node.output[0] = "plain"
    starts = next(n for n in model.graph.node if n.op_type == "Greater")
    branches = []
    for name in ("yes", "no"):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        same = helper.make_node("Identity", ["plain"], [name], f"{name}_node")
        branches.append(helper.make_graph([same], name, [], [out]))
    scalar = helper.make_node("Squeeze", [starts.output[0]], ["is_start"], "scalar")
    choose = helper.make_node(
        "If", ["is_start"], ["logits"], "choose", then_branch=branches[0], else_branch=branches[1]
    )
    model.graph.node.extend([scalar, choose])


# ---------------------------------------------------------------- half graphs


def half_conv(model: onnx.ModelProto) -> onnx.NodeProto:
    """A convolution inside a block of the half graph."""
    index = GraphIndex(model.graph)
    return next(n for n in index.of_type("Conv") if index.made_by(n.input[0]) == "Relu")


def bias_in_float32(model):
    conv = half_conv(model)
    conv.input[2] = constant(model, "wide", value(model, conv.input[2]).astype(np.float32))


def _widen_weights(model: onnx.ModelProto, conv: onnx.NodeProto) -> None:
    for position in (1, 2):
        array = value(model, conv.input[position]).astype(np.float32)
        conv.input[position] = constant(model, f"wide_{position}", array)


def conv_in_float32(model):
    """Casts around one convolution."""
    conv = half_conv(model)
    insert_before(model, conv, _cast(conv.input[0], TensorProto.FLOAT, "wide_in"))
    conv.input[0] = "wide_in"
    _widen_weights(model, conv)
    old, conv.output[0] = conv.output[0], "wide_out"
    insert_before(model, readers(model, old)[0], _cast("wide_out", TensorProto.FLOAT16, old))


def stem_in_float32(model):
    """The cast into half behind the first convolution and its ReLU, not before."""
    index = GraphIndex(model.graph)
    conv = next(n for n in index.of_type("Conv") if index.made_by(n.input[0]) == "Cast")
    conv.input[0] = producer(model, conv.input[0]).input[0]
    _widen_weights(model, conv)
    (relu,) = readers(model, conv.output[0])
    old, relu.output[0] = relu.output[0], "wide_out"
    insert_before(model, readers(model, old)[0], _cast("wide_out", TensorProto.FLOAT16, old))


def state_math_in_float16(model):
    mul = state_mul(model)
    for position, name in enumerate(list(mul.input)):
        insert_before(model, mul, _cast(name, TensorProto.FLOAT16))
        mul.input[position] = f"{name}_cast_{TensorProto.FLOAT16}"
    old, mul.output[0] = mul.output[0], "narrow_product"
    insert_before(model, readers(model, old)[0], _cast("narrow_product", TensorProto.FLOAT, old))


# what each is, what preflight calls it, what NVIDIA's builder does
BAD_GRAPHS: tuple[BadGraph, ...] = (
    BadGraph("UINT8 activations, zero point 0", uint8_zero_point_0, "zero-point-type", "warns", "Defaulting to INT8"),
    BadGraph("UINT8 activations, zero point 128", uint8_zero_point_128, "zero-point-type", "refuses", "Non-zero zero point is not supported"),
    BadGraph("INT8 activations, zero point 3", zero_point_3, "zero-point-value", "refuses", "Non-zero zero point is not supported"),
    BadGraph("no zero point at all", no_zero_point, "zero-point-type", "silent"),
    BadGraph("weights along axis 1", weight_axis_1, "weight-axis", "in float"),
    BadGraph("weight-only Q/DQ", weight_only, "conv-data", "in float"),
    BadGraph("activation-only Q/DQ", activation_only, "conv-weight", "in float"),
    BadGraph("a convolution without Q/DQ", not_quantised, "conv-data", "in float"),
    BadGraph("one weight scale for all channels", weight_scale_for_all, "weight-scale-count", "silent"),
    BadGraph("half as many weight scales as channels", weight_scales_too_few, "weight-scale-count", "refuses", "number of scales is not equal"),
    BadGraph("INT32 bias", int32_bias, "int32-bias", "refuses", "input has type Int32 but must have type"),
    BadGraph("scale 0", scale_0, "scale-value", "refuses", "Scale coefficients must all be positive"),
    BadGraph("negative scale", scale_negative, "scale-value", "refuses", "Scale coefficients must all be positive"),
    BadGraph("scale NaN", scale_nan, "scale-value", "refuses", "Scale coefficients must all be positive"),
    BadGraph("infinite scale", scale_infinite, "scale-value", "silent"),
    BadGraph("float16 scale", scale_float16, "scale-type", "refuses", "must be of same type"),
    BadGraph("computed scale", scale_computed, "scale-constant", "silent"),
    BadGraph("activation scales per channel", scales_per_channel, "scale-count", "in float"),
    BadGraph("Q and DQ of two scales", pair_of_two_scales, "pair-scales", "silent"),
    BadGraph("both branches of a residual add quantised", both_branches_quantised, "residual-add", "silent"),
    BadGraph("shortcut in float", shortcut_in_float, "shortcut-float", "silent"),
    BadGraph("projected shortcut in float", projection_in_float, "shortcut-float", "silent"),
    BadGraph("a feature map crosses a block border in float", map_crosses_border_in_float, "float-map", "silent"),
    BadGraph("the last feature map is pooled in float", pooling_in_float, "float-map", "silent"),
    BadGraph("a feature map quantised twice", quantised_twice, "quantised-twice", "silent"),
    BadGraph("Q/DQ between a convolution and its ReLU", qdq_before_relu, "relu-qdq", "silent"),
    BadGraph("Q/DQ on the state's way", qdq_on_state_path, "state-path", "silent"),
    BadGraph("Q/DQ on a gate vector", qdq_on_gate, "vector-qdq", "silent"),
    BadGraph("Q/DQ on the classifier's input", qdq_on_classifier, "vector-qdq", "silent"),
    BadGraph("INT8 state read at another scale than written", state_read_at_another_scale, "int8-state", "silent"),
    BadGraph("INT8 state kept at another scale than the convolution's", state_kept_at_another_scale, "int8-state", "silent"),
    BadGraph("INT8 constant in Where", int8_constant_in_where, "int8-constant", "refuses", "only allowed before DQ"),
    BadGraph("a state without an output", state_without_output, "state-pairs", "silent"),
    BadGraph("a state that is reset when nothing starts", state_reset_turned_round, "state-reset", "silent"),
    BadGraph("a float16 state", state_in_float16, "state-types", "silent"),
    BadGraph("a float32 frame", frame_in_float, "step-io", "silent"),
    BadGraph("float16 logits", logits_in_float16, "step-io", "silent"),
    BadGraph("an input that is an output", input_is_output, "io-names", "silent"),
    BadGraph("the batch size in a Reshape", batch_in_reshape, "batch-size", "silent"),
    BadGraph("opset 19", opset_19, "opset", "silent"),
    BadGraph("IR version 10", ir_version_10, "ir-version", "silent"),
    BadGraph("an unused domain", unused_domain, "custom-domain", "silent"),
    BadGraph("an operator of another domain", custom_operator, "custom-domain", "refuses", "Plugin not found"),
    BadGraph("a dynamic axis", dynamic_axis, "static-shape", "refuses", "no optimization profile has been defined"),
    BadGraph("one name for two nodes", one_name_twice, "node-names", "warns", "already exists"),
    BadGraph("a convolution without a name", conv_without_name, "node-names", "silent"),
    BadGraph("Transpose of uint8", transpose_of_uint8, "uint8-cast", "refuses", "first input has type UInt8"),
    BadGraph("a path of the exporting computer", local_path, "local-path", "silent"),
    BadGraph("control flow", condition, "control-flow", "silent"),
    BadGraph("a float32 bias in a half convolution", bias_in_float32, "mixed-float", "refuses", "must be of same type", "float16"),
    BadGraph("the first convolution left in float32", stem_in_float32, "half-conv", "in float", base="float16"),
    BadGraph("a convolution in float32 between casts", conv_in_float32, "half-conv", "silent", base="float16"),
    BadGraph("state math in float16", state_math_in_float16, "half-state-math", "silent", base="float16"),
)  # fmt: skip
# ruff: noqa: E501  a table: one graph a line

ANSWERS: dict[Answer, str] = {
    "refuses": "refuses",
    "warns": "builds, warns",
    "in float": "builds without a word, the convolution runs in float",
    "silent": "builds without a word",
}
HEAD = """# Preflight

`python -m export.check FILE.onnx` (or a bundle folder) looks for what this page lists. It needs no GPU,
and no NVIDIA software unless `--build` asks for NVIDIA's builder too. Why it exists: of the {total} bad
graphs at the end of this page NVIDIA's builder refuses {refused} and warns of {warned}. It builds the
other {taken}, and says nothing.

*error*: the graph does not build, or runs with other numbers or in another precision than it claims.
*warning*: slower, or fragile. Errors end the command with status 1, warnings with `--strict`; an export
of ours stops at either.

What the builder does was seen with TensorRT-RTX {version}, building for SM86 (what TensorRT loads for
Orin). TensorRT itself has not been asked. This page is made by `python -m tests.export.bad_graphs`; a
test holds it against the checks, another against the builder.

## The checks

"""
GRAPHS_HEAD = """

## Bad graphs

Each is a good exported graph with one fault; tests make them again.

| fault | found as | NVIDIA's builder |
|---|---|---|
"""
RTX_VERSION = "1.7.1"


def document() -> str:
    """The text of `docs/preflight.md`."""
    count = {answer: sum(bad.answer == answer for bad in BAD_GRAPHS) for answer in ANSWERS}
    head = HEAD.format(
        total=len(BAD_GRAPHS),
        refused=count["refuses"],
        warned=count["warns"],
        taken=count["in float"] + count["silent"],
        version=RTX_VERSION,
    )
    rows = [f"| {bad.what} | `{bad.check}` | {_answer(bad)} |" for bad in BAD_GRAPHS]
    return head + markdown() + GRAPHS_HEAD + "\n".join(rows) + "\n"


def _answer(bad: BadGraph) -> str:
    return f"{ANSWERS[bad.answer]}: `{bad.said}`" if bad.said else ANSWERS[bad.answer]


if __name__ == "__main__":
    sys.stdout.write(document())
