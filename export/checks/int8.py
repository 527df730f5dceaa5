"""Static checks of quantised graphs: where Q/DQ must be, where it must not, and with what scales.

NVIDIA's builder accepts many of these faults without a word and runs the layer in float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.checks.named import Finding, found
from export.graph_view import DEQUANTISE, QUANTISE, GraphView, attribute, label, scale_of
from runtime.bundle import StateSpec

ACTIVATIONS = ("Relu", "Clip")
VECTOR_RANK = 2
MAP_RANK = 4
# What gives a part of its input as it is.
SELECTING = ("Slice", "Split", "Identity")
# What gives its inputs as they are, and the first input that is one.
JOINING = {"Concat": 0, "Where": 1}
# What may stand between a block's last activation and its Q.
PASSING = ("Relu", "Clip", "MaxPool", "Identity")


def int8_findings(
    view: GraphView, states: Sequence[StateSpec], float_convs: Collection[str]
) -> list[Finding]:
    """Everything that is wrong with a graph's quantisation.

    Args:
        view: The graph.
        states: Its states.
        float_convs: Conv nodes that stay in float on purpose.
    """
    findings: list[Finding] = []
    for conv in view.of_type("Conv"):
        if conv.name not in float_convs:
            findings += _check_conv(view, conv)
    for node in view.of_type(QUANTISE, DEQUANTISE):
        findings += [*_check_zero_point(view, node), *_check_scale(view, node)]
    for node in view.of_type(QUANTISE):
        findings += _check_pair(view, node)
    findings += _check_int8_constants(view)
    findings += _check_vectors(view)
    findings += _check_activation_inputs(view)
    findings += _check_float_states(view, [spec for spec in states if spec.dtype == "float32"])
    for spec in states:
        if spec.dtype == "int8":
            findings += _check_int8_state(view, spec)
    findings += _check_residual_adds(view, [spec.name_in for spec in states])
    findings += _check_quantised_once(view)
    findings += _check_float_maps(view, float_convs)
    return findings


def _check_conv(view: GraphView, conv: onnx.NodeProto) -> Iterator[Finding]:
    if view.made_by(conv.input[0]) != DEQUANTISE:
        yield found("conv-data", label(conv), "data input has no Q/DQ, it runs in float")
    weight = view.producer(conv.input[1])
    if weight is None or weight.op_type != DEQUANTISE:
        yield found("conv-weight", label(conv), "weight has no DQ, it runs in float")
        return
    channels = _out_channels(view, conv)
    axis = attribute(weight, "axis", 1)
    scale = scale_of(view, weight)
    if scale is None or scale.shape != (channels,):
        shape = None if scale is None else scale.shape
        yield found(
            "weight-scale-count",
            label(conv),
            f"weight scale has shape {shape}, must be ({channels},)",
        )
    elif axis not in (0, -4):
        yield found(
            "weight-axis", label(conv), f"weight is quantised along axis {axis}, it runs in float"
        )


def _out_channels(view: GraphView, conv: onnx.NodeProto) -> int:
    facts = view.tensors.get(conv.input[1])
    return -1 if facts is None or not facts.shape else facts.shape[0]


def _check_zero_point(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    source = view.tensors.get(node.input[0])
    if node.op_type == DEQUANTISE and source is not None and source.dtype == TensorProto.INT32:
        yield found("int32-bias", label(node), "dequantises INT32")
        return
    zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        yield found("zero-point-type", label(node), "is missing or computed, it means UINT8")
    elif zero.dtype != np.int8:
        yield found("zero-point-type", label(node), f"is {zero.dtype}, must be int8")
    elif np.any(zero):
        yield found("zero-point-value", label(node), f"is {zero.ravel()[np.argmax(zero != 0)]}")


def _check_scale(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    scale = scale_of(view, node)
    if scale is None:
        yield found("scale-constant", label(node), "its scale is computed")
    elif scale.dtype != np.float32:
        yield found("scale-type", label(node), f"its scale is {scale.dtype}, must be float32")
    elif scale.size == 0 or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        worst = scale.min() if scale.size else "none"
        yield found("scale-value", label(node), f"must be finite and > 0, got {worst}")
    elif scale.size > 1 and not _is_weight(view, node):
        yield found("scale-count", label(node), f"has {scale.size} scales")


def _check_pair(view: GraphView, quantise: onnx.NodeProto) -> Iterator[Finding]:
    for reader in view.consumers(quantise.output[0]):
        if reader.op_type != DEQUANTISE:
            continue
        here, there = scale_of(view, quantise), scale_of(view, reader)
        if not _equal(here, there):
            yield found(
                "pair-scales",
                label(reader),
                f"reads with scale {_show(there)} what was written with {_show(here)}",
            )


def _is_weight(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a Q or DQ node's data are constant."""
    source = view.producer(node.input[0])
    if source is not None and source.op_type == QUANTISE:
        return view.is_constant(source.input[0])
    return view.is_constant(node.input[0])


def _check_int8_constants(view: GraphView) -> Iterator[Finding]:
    """NVIDIA: a quantised constant is only allowed before DQ."""
    for name, facts in view.tensors.items():
        if facts.dtype != TensorProto.INT8 or not view.is_constant(name):
            continue
        for node in view.consumers(name):
            if node.op_type not in (QUANTISE, DEQUANTISE):
                yield found("int8-constant", label(node), f"{node.op_type} reads {name}")


def _check_float_states(view: GraphView, states: Sequence[StateSpec]) -> Iterator[Finding]:
    """A state that is quantised on its way decays: 6-25 dB instead of 52."""
    ahead = view.after((spec.name_in for spec in states), stop=("Conv",))
    behind = {id(n) for n in view.before((spec.name_out for spec in states), stop=("Conv",))}
    for node in ahead:
        if node.op_type in (QUANTISE, DEQUANTISE) and id(node) in behind:
            yield found("state-path", label(node), "is on a way from a float state to one")


def _check_vectors(view: GraphView) -> Iterator[Finding]:
    for node in view.of_type(QUANTISE):
        facts = view.tensors.get(node.input[0])
        if facts is None or facts.shape is None or view.is_constant(node.input[0]):
            continue
        if len(facts.shape) == VECTOR_RANK or (
            len(facts.shape) == MAP_RANK and facts.shape[2:] == (1, 1)
        ):
            yield found("vector-qdq", label(node), f"quantises a vector, shape {facts.shape}")


def _check_activation_inputs(view: GraphView) -> Iterator[Finding]:
    """Q/DQ between a convolution and its activation."""
    for node in view.of_type(*ACTIVATIONS):
        if _quantises_conv(view, node.input[0]):
            yield found("relu-qdq", label(node), "reads its convolution through Q/DQ")


def _check_int8_state(view: GraphView, spec: StateSpec) -> Iterator[Finding]:
    readers = view.consumers(spec.name_in)
    if [node.op_type for node in readers] != [DEQUANTISE]:
        yield found("int8-state", spec.name_in, "must be read by one DQ and nothing else")
        return
    reader = readers[0]
    writer = _without_identity(view, spec.name_out)
    if writer is None or writer.op_type != QUANTISE:
        yield found("int8-state", spec.name_out, "must be written by a Q")
        return
    kept = scale_of(view, reader)
    if not _equal(kept, scale_of(view, writer)):
        yield found(
            "int8-state",
            spec.name_out,
            f"is written with scale {_show(scale_of(view, writer))} and read with {_show(kept)}",
        )
    if _moves_only(view, writer, kept):
        return
    for quantise in view.after(reader.output, stop=("Conv", QUANTISE)):
        if quantise.op_type != QUANTISE or not _feeds_conv(view, quantise):
            continue
        if not _equal(kept, scale_of(view, quantise)):
            yield found(
                "int8-state",
                spec.name_in,
                f"has scale {_show(kept)}, the following convolution's input "
                f"{_show(scale_of(view, quantise))} ({label(quantise)})",
            )


def _moves_only(view: GraphView, writer: onnx.NodeProto, kept: NDArray[np.float32] | None) -> bool:
    """Whether a Q writes parts of tensors that came out of DQs on the same grid: no rounding."""
    waiting, dequantised = [writer.input[0]], False
    while waiting:
        tensor = waiting.pop()
        source, constant = view.producer(tensor), view.constant(tensor)
        if constant is not None and not np.any(constant):
            continue  # 0 is on every grid
        if source is None or constant is not None:
            return False
        if source.op_type == DEQUANTISE and _equal(kept, scale_of(view, source)):
            dequantised = True
        elif source.op_type in SELECTING:
            waiting.append(source.input[0])
        elif source.op_type in JOINING:
            waiting.extend(source.input[JOINING[source.op_type] :])
        else:
            return False
    return dequantised


def _without_identity(view: GraphView, tensor: str) -> onnx.NodeProto | None:
    node = view.producer(tensor)
    while node is not None and node.op_type == "Identity":
        node = view.producer(node.input[0])
    return node


def _feeds_conv(view: GraphView, quantise: onnx.NodeProto) -> bool:
    readers = [n for dq in view.consumers(quantise.output[0]) for n in view.consumers(dq.output[0])]
    return any(node.op_type == "Conv" for node in readers)


def _check_residual_adds(view: GraphView, state_inputs: Sequence[str]) -> Iterator[Finding]:
    """Exactly the shortcut is quantised; the main path stays open for Conv + Add + ReLU fusion."""
    for add in view.of_type("Add"):
        if any(view.rank(name) != 4 or view.constant(name) is not None for name in add.input):
            continue
        makers = [view.made_by(name) for name in add.input]
        if makers == ["Conv", "Conv"] and not _is_split_conv(view, add, state_inputs):
            yield found("shortcut-float", label(add), "both branches come from a Conv in float")
        elif makers == [DEQUANTISE] * 2 and any(_quantises_conv(view, n) for n in add.input):
            yield found("residual-add", label(add), "both inputs have Q/DQ")
        elif "Conv" in makers and not {DEQUANTISE, "Conv"} >= set(makers):
            other = next(kind for kind in makers if kind != "Conv") or "a graph input"
            yield found("shortcut-float", label(add), f"shortcut comes in float from {other}")


def _is_split_conv(view: GraphView, add: onnx.NodeProto, state_inputs: Sequence[str]) -> bool:
    """Whether an Add joins two parts of one convolution, of which one reads a state."""
    states = set(state_inputs)
    for name in add.input:
        conv = view.producer(name)
        nodes = [] if conv is None else view.before([conv.input[0]], stop=("Conv",))
        if any(states & set(node.input) for node in nodes):
            return True
    return False


def _quantises_conv(view: GraphView, tensor: str) -> bool:
    """Whether a DQ's tensor is a convolution's output, quantised."""
    dequantise = view.producer(tensor)
    if dequantise is None or dequantise.op_type != DEQUANTISE:
        return False
    quantise = view.producer(dequantise.input[0])
    if quantise is None or quantise.op_type != QUANTISE:
        return False
    return view.made_by(quantise.input[0]) == "Conv"


def _check_quantised_once(view: GraphView) -> Iterator[Finding]:
    for node in _map_makers(view):
        count = [reader.op_type for reader in view.consumers(node.output[0])].count(QUANTISE)
        if count > 1:
            yield found("quantised-twice", label(node), f"is quantised {count} times")


@dataclass(frozen=True)
class FloatMap:
    """A feature map that crosses a block's border in float.

    Attributes:
        maker: Name of the node that makes it.
        reader: Name of the node that reads it.
    """

    maker: str
    reader: str


def float_maps(view: GraphView) -> list[FloatMap]:
    """Feature maps that cross a block's border in float, those of listed convolutions included.

    A block's output is quantised once and all that follows reads that one DQ, pooling too.
    """
    return [
        FloatMap(label(node), label(reader))
        for node in _map_makers(view)
        for reader in _border_readers(view, node)
        if reader.op_type != QUANTISE
    ]


def _check_float_maps(view: GraphView, float_convs: Collection[str]) -> Iterator[Finding]:
    for each in float_maps(view):
        if each.reader not in float_convs:
            yield found("float-map", each.maker, f"goes on in float to {each.reader}")


def _map_makers(view: GraphView) -> Iterator[onnx.NodeProto]:
    """Nodes whose output is a feature map that later blocks read."""
    for node in view.of_type(*ACTIVATIONS, "Add", "Conv"):
        if view.rank(node.output[0]) != MAP_RANK:
            continue
        if node.op_type == "Add" and not _joins_conv(view, node):
            continue
        readers = view.consumers(node.output[0])
        if len(readers) == 1 and readers[0].op_type in PASSING:
            continue  # the next one is looked at, or pools the same values
        yield node


def _border_readers(view: GraphView, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    readers = view.consumers(node.output[0])
    if node.op_type != "Conv":
        return readers
    # inside a block a convolution goes on to its activation, add or gate in float
    return [reader for reader in readers if reader.op_type in (*SELECTING, "Concat", "Conv")]


def _joins_conv(view: GraphView, add: onnx.NodeProto) -> bool:
    return any(view.made_by(name) == "Conv" for name in add.input)


def _equal(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    return one is not None and other is not None and np.array_equal(one.ravel(), other.ravel())


def _show(scale: NDArray[np.float32] | None) -> str:
    return "none" if scale is None else f"{float(scale.ravel()[0]):.6g}"
