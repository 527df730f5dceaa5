"""Explicit INT8: Q/DQ pairs into a step graph, at calibrated scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.placement import Placement, placement_of
from export.to_onnx import strip_metadata
from runtime.bundle import StateSpec
from runtime.errors import ExportError
from runtime.files import whole_file

LARGEST_INT8 = 127.0
SMALLEST_WEIGHT = 1e-30


def observed_from_step(step: Path, states: tuple[StateSpec, ...], path: Path) -> Placement:
    """Write a step graph that also gives every tensor which gets a Q/DQ pair.

    Args:
        step: The float step graph.
        states: Its states.
        path: The new ONNX file.

    Returns:
        The placement the graph observes.

    Raises:
        ExportError: The graph is no step graph.
    """
    proto = onnx.load(str(step))
    placement = placement_of(proto.graph, states)
    present = {value.name for value in proto.graph.output}
    for name in placement.tensors:
        if name not in present:
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    with whole_file(path) as part:
        onnx.save(proto, str(part))
    return placement


def int8_onnx_from_step(
    step: Path, states: tuple[StateSpec, ...], thresholds: Mapping[str, float], path: Path
) -> tuple[StateSpec, ...]:
    """Write the INT8 step graph.

    Weights become INT8 (per output channel, symmetric), activations get Q/DQ pairs (per tensor,
    symmetric, zero point 0), shift states become INT8 inputs and outputs. Scales are float32.

    Args:
        step: The float step graph.
        states: Its states.
        thresholds: Clipping threshold of every placed tensor, > 0.
        path: The INT8 ONNX file; whole or not at all.

    Returns:
        The INT8 graph's states.

    Raises:
        ExportError: A threshold is missing or not positive.
    """
    proto = onnx.load(str(step))
    placement = placement_of(proto.graph, states)
    writer = _Writer(proto.graph, _scales(placement, thresholds))
    writer.quantise_tensors(placement)
    writer.quantise_weights()
    specs = tuple(writer.quantise_state(state, placement) for state in states)
    writer.finish()
    strip_metadata(proto)
    onnx.checker.check_model(proto, full_check=True)
    with whole_file(path) as part:
        onnx.save(proto, str(part))
    return specs


def _scales(placement: Placement, thresholds: Mapping[str, float]) -> dict[str, float]:
    scales: dict[str, float] = {}
    for name in placement.tensors:
        source = name
        while source in placement.tied:
            source = placement.tied[source]
        threshold = thresholds.get(source, 0.0)
        if not (np.isfinite(threshold) and threshold > 0):
            raise ExportError(f"tensor {source} has threshold {threshold}, want > 0; calibrate it")
        scales[name] = threshold / LARGEST_INT8
    return scales


def quantised_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as INT8, per output channel.

    Args:
        weight: Shape (C_out, ...), float32.

    Returns:
        The INT8 weights, same shape, in [-127, 127], and the scales, shape (C_out,), float32.
    """
    largest = np.abs(weight).reshape(weight.shape[0], -1).max(1)
    # a dead channel: its scale would be 0, or too small for float32
    scale = (np.where(largest > SMALLEST_WEIGHT, largest, 1.0) / LARGEST_INT8).astype(np.float32)
    steps = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(steps, -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scale


class _Writer:
    """Edits one graph: pairs after their producers, consumers renamed."""

    def __init__(self, graph: onnx.GraphProto, scales: Mapping[str, float]) -> None:
        self.graph = graph
        self.scales = scales
        self.first: list[onnx.NodeProto] = []
        self.before: dict[str, list[onnx.NodeProto]] = {}  # before the node of a name
        self.after: dict[str, list[onnx.NodeProto]] = {}  # behind the node that makes a tensor
        self.constants: dict[str, onnx.TensorProto] = {}
        self.replaced: set[str] = set()
        self._constant("int8_zero", np.zeros((), np.int8))

    def quantise_tensors(self, placement: Placement) -> None:
        """A pair behind every placed tensor; all its consumers read the dequantised one."""
        for name in placement.tensors:
            scale = self._scale(name)
            self._rename_consumers(name, f"{name}_dq")
            self.after[name] = [
                _node("QuantizeLinear", name, scale, "int8_zero", f"{name}_q"),
                _node("DequantizeLinear", f"{name}_q", scale, "int8_zero", f"{name}_dq"),
            ]

    def quantise_weights(self) -> None:
        """INT8 initialisers with one DQ each, per output channel."""
        initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type != "Conv":
                continue
            name = node.input[1]
            weight, scale = quantised_weight(numpy_helper.to_array(initializers[name]))
            self._constant(f"{name}_int8", weight)
            self._constant(f"{name}_scale", scale)
            zeros = self._constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
            dequantise = _node(
                "DequantizeLinear", f"{name}_int8", f"{name}_scale", zeros, f"{name}_dq", axis=0
            )
            self.before.setdefault(node.name, []).append(dequantise)
            node.input[1] = f"{name}_dq"
            self.replaced.add(name)

    def quantise_state(self, state: StateSpec, placement: Placement) -> StateSpec:
        """A shift state as INT8 input and output; other states stay as they are."""
        if state.name_in not in placement.shift_states:
            return state
        scale = self._scale(placement.shift_states[state.name_in])
        self._rename_consumers(state.name_in, f"{state.name_in}_dq")
        self.first.append(
            _node("DequantizeLinear", state.name_in, scale, "int8_zero", f"{state.name_in}_dq")
        )
        producer = next(node for node in self.graph.node if state.name_out in node.output)
        inner = f"{state.name_out}_float"
        producer.output[list(producer.output).index(state.name_out)] = inner
        self.after[inner] = [_node("QuantizeLinear", inner, scale, "int8_zero", state.name_out)]
        for value in (*self.graph.input, *self.graph.output):
            if value.name in (state.name_in, state.name_out):
                value.type.tensor_type.elem_type = TensorProto.INT8
        return replace(state, dtype="int8")

    def finish(self) -> None:
        """Put the nodes and constants together."""
        nodes = list(self.first)
        for node in self.graph.node:
            nodes += [*self.before.get(node.name, []), node]
            nodes += [pair for name in node.output for pair in self.after.get(name, [])]
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in self.replaced]
        for field in ("node", "initializer", "value_info"):
            self.graph.ClearField(field)
        self.graph.node.extend(nodes)
        self.graph.initializer.extend([*kept, *self.constants.values()])

    def _rename_consumers(self, name: str, new: str) -> None:
        for node in self.graph.node:
            for position, given in enumerate(node.input):
                if given == name:
                    node.input[position] = new

    def _scale(self, tensor: str) -> str:
        return self._constant(f"{tensor}_scale", np.float32(self.scales[tensor]))

    def _constant(self, name: str, value: NDArray[np.generic] | np.float32) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _node(
    op_type: str, data: str, scale: str, zero: str, out: str, *, axis: int | None = None
) -> onnx.NodeProto:
    node = helper.make_node(op_type, [data, scale, zero], [out], name=f"{out}_node")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node
