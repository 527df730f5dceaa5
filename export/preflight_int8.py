"""Static checks of quantised graphs: where Q/DQ must be, where it must not, and with what scales.

NVIDIA's builder accepts many of these faults without a word and runs the layer in float.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph_view import DEQUANTISE, QUANTISE, Finding, GraphView, attribute, label, scale_of
from runtime.bundle import StateSpec

ACTIVATIONS = ("Relu", "Clip")
POOLING = ("ReduceMean", "GlobalAveragePool")
# What gives a part of its input as it is.
SELECTING = ("Slice", "Split", "Identity")
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
    findings += _check_int8_constants(view)
    findings += _check_float_states(view, [spec for spec in states if spec.dtype == "float32"])
    for spec in states:
        if spec.dtype == "int8":
            findings += _check_int8_state(view, spec)
    findings += _check_residual_adds(view, [spec.name_in for spec in states])
    findings += _check_activations(view, float_convs)
    return findings


def _check_conv(view: GraphView, conv: onnx.NodeProto) -> Iterator[Finding]:
    if view.made_by(conv.input[0]) != DEQUANTISE:
        yield Finding(
            "conv data", label(conv), "data input has no Q/DQ, it runs in float; quantise it"
        )
    weight = view.producer(conv.input[1])
    if weight is None or weight.op_type != DEQUANTISE:
        yield Finding("conv weight", label(conv), "weight has no DQ, it runs in float; quantise it")
        return
    channels = _out_channels(view, conv)
    axis = attribute(weight, "axis", 1)
    scale = scale_of(view, weight)
    if scale is None or scale.shape != (channels,):
        shape = None if scale is None else scale.shape
        yield Finding(
            "weight scale",
            label(conv),
            f"weight scale has shape {shape}, must be ({channels},): one for each output channel",
        )
    elif axis not in (0, -4):
        yield Finding(
            "weight axis",
            label(conv),
            f"weight is quantised along axis {axis}, it runs in float; use axis 0",
        )


def _out_channels(view: GraphView, conv: onnx.NodeProto) -> int:
    facts = view.tensors.get(conv.input[1])
    return -1 if facts is None or not facts.shape else facts.shape[0]


def _check_zero_point(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    source = view.tensors.get(node.input[0])
    if node.op_type == DEQUANTISE and source is not None and source.dtype == TensorProto.INT32:
        yield Finding("INT32", label(node), "dequantises INT32; leave biases in float")
        return
    zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        yield Finding(
            "zero point", label(node), "is missing or computed, it means UINT8; use INT8 0"
        )
    elif zero.dtype != np.int8:
        yield Finding("zero point", label(node), f"is {zero.dtype}, must be int8; quantise to INT8")
    elif np.any(zero):
        yield Finding("zero point", label(node), "is not 0; quantise symmetrically")


def _check_scale(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    scale = scale_of(view, node)
    if scale is None:
        yield Finding("scale", label(node), "is computed; it must be a constant")
    elif scale.dtype != np.float32:
        yield Finding(
            "scale", label(node), f"is {scale.dtype}, must be float32: others fail on Orin"
        )
    elif not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield Finding(
            "scale",
            label(node),
            f"must be finite and > 0, got {scale.min()}; calibrate with frames that move it",
        )
    elif scale.size > 1 and not _is_weight(view, node):
        yield Finding("scale", label(node), "activations take one scale for the whole tensor")


def _is_weight(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a Q or DQ node's data are constant."""
    source = view.producer(node.input[0])
    if source is not None and source.op_type == QUANTISE:
        return view.constant(source.input[0]) is not None
    return view.constant(node.input[0]) is not None


def _check_int8_constants(view: GraphView) -> Iterator[Finding]:
    """NVIDIA: a quantised constant is only allowed before DQ."""
    for name, facts in view.tensors.items():
        if facts.dtype != TensorProto.INT8 or view.constant(name) is None:
            continue
        for node in view.consumers(name):
            if node.op_type not in (QUANTISE, DEQUANTISE):
                yield Finding(
                    "INT8 constant",
                    label(node),
                    f"{node.op_type} reads an INT8 constant; dequantise first, then {node.op_type}",
                )


def _check_float_states(view: GraphView, states: Sequence[StateSpec]) -> Iterator[Finding]:
    """A state that is quantised on its way decays: 6-25 dB instead of 52."""
    ahead = view.after((spec.name_in for spec in states), stop=("Conv",))
    behind = {id(n) for n in view.before((spec.name_out for spec in states), stop=("Conv",))}
    for node in ahead:
        if node.op_type in (QUANTISE, DEQUANTISE) and id(node) in behind:
            yield Finding(
                "state path",
                label(node),
                "is on a way from a float state to a float state; keep state math in float",
            )


def _check_int8_state(view: GraphView, spec: StateSpec) -> Iterator[Finding]:
    readers = view.consumers(spec.name_in)
    if [node.op_type for node in readers] != [DEQUANTISE]:
        yield Finding("INT8 state", spec.name_in, "must be read by one DQ and nothing else")
        return
    reader = readers[0]
    writer = _without_identity(view, spec.name_out)
    if writer is None or writer.op_type != QUANTISE:
        yield Finding("INT8 state", spec.name_out, "must be written by a Q")
        return
    kept = scale_of(view, reader)
    if not _equal(kept, scale_of(view, writer)):
        yield Finding(
            "INT8 state",
            spec.name_out,
            f"is written with scale {_show(scale_of(view, writer))} and read with {_show(kept)}; "
            "use one scale for both",
        )
    if _moves_only(view, writer, kept):
        return
    for quantise in view.after(reader.output, stop=("Conv", QUANTISE)):
        if quantise.op_type != QUANTISE or not _feeds_conv(view, quantise):
            continue
        if not _equal(kept, scale_of(view, quantise)):
            yield Finding(
                "INT8 state",
                spec.name_in,
                f"has scale {_show(kept)}, the following convolution's input "
                f"{_show(scale_of(view, quantise))} ({label(quantise)}); use the convolution's",
            )


def _moves_only(view: GraphView, writer: onnx.NodeProto, kept: NDArray[np.float32] | None) -> bool:
    """Whether a Q writes a part of a tensor that came out of a DQ on the same grid: no rounding."""
    source = view.producer(writer.input[0])
    while source is not None and source.op_type in SELECTING:
        source = view.producer(source.input[0])
    return (
        source is not None and source.op_type == DEQUANTISE and _equal(kept, scale_of(view, source))
    )


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
            yield Finding("residual add", label(add), "shortcut has no Q/DQ; quantise that branch")
        elif makers == [DEQUANTISE] * 2 and any(_quantises_conv(view, n) for n in add.input):
            yield Finding(
                "residual add",
                label(add),
                "both inputs have Q/DQ, which blocks Conv+Add+ReLU fusion; keep the shortcut's",
            )
        elif "Conv" in makers and not {DEQUANTISE, "Conv"} >= set(makers):
            other = next(kind for kind in makers if kind != "Conv") or "a graph input"
            yield Finding(
                "residual add", label(add), f"shortcut comes in float from {other}; quantise it"
            )


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
    quantise = None if dequantise is None else view.producer(dequantise.input[0])
    return quantise is not None and view.made_by(quantise.input[0]) == "Conv"


def _check_activations(view: GraphView, float_convs: Collection[str]) -> Iterator[Finding]:
    """A block's output is quantised once; all that follows reads that one DQ."""
    for node in view.of_type(*ACTIVATIONS, "Add"):
        tensor = node.output[0]
        if view.rank(tensor) != 4 or (node.op_type == "Add" and not _joins_conv(view, node)):
            continue
        readers = view.consumers(tensor)
        kinds = [reader.op_type for reader in readers]
        if len(kinds) == 1 and kinds[0] in PASSING:
            continue  # the next one is looked at, or pools the same values
        if kinds.count(QUANTISE) > 1:
            yield Finding(
                "block output",
                label(node),
                f"is quantised {kinds.count(QUANTISE)} times; quantise once and share the DQ",
            )
        for reader in readers:
            if not _may_read_float(reader, float_convs):
                yield Finding(
                    "block output",
                    label(node),
                    f"goes on in float to {label(reader)}; let it read the DQ",
                )


def _joins_conv(view: GraphView, add: onnx.NodeProto) -> bool:
    return any(view.made_by(name) == "Conv" for name in add.input)


def _may_read_float(reader: onnx.NodeProto, float_convs: Collection[str]) -> bool:
    return reader.op_type in (QUANTISE, *POOLING) or reader.name in float_convs


def _equal(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    return one is not None and other is not None and np.array_equal(one.ravel(), other.ravel())


def _show(scale: NDArray[np.float32] | None) -> str:
    return "none" if scale is None else f"{float(scale.ravel()[0]):.6g}"
