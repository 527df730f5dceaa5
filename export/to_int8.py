"""Explicit INT8: Q/DQ pairs into a step graph, at calibrated scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.int8.placement import Placement, placement_of
from export.int8.round_weights import Rounded, nearest
from export.to_onnx import strip_metadata
from runtime.bundle import StateSpec
from runtime.errors import ExportError
from runtime.files import whole_file

LARGEST_INT8 = 127.0


@dataclass(frozen=True)
class Int8Step:
    """An INT8 step graph.

    Attributes:
        proto: The graph.
        states: Its states.
        placement: Where its Q/DQ pairs are.
        state_scales: Scale of each INT8 state, by its input.
    """

    proto: onnx.ModelProto
    states: tuple[StateSpec, ...]
    placement: Placement
    state_scales: Mapping[str, float]


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
    """Write the INT8 step graph with every weight rounded to its nearest step.

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
    made = int8_step(onnx.load(str(step)), states, thresholds)
    write_int8(made, path)
    return made.states


def int8_step(
    step: onnx.ModelProto,
    states: tuple[StateSpec, ...],
    thresholds: Mapping[str, float],
    *,
    rounded: Mapping[str, Rounded] | None = None,
    float_convs: Collection[str] = (),
) -> Int8Step:
    """The INT8 graph of a float step graph.

    Weights become INT8 (per output channel, symmetric), activations get Q/DQ pairs (per tensor,
    symmetric, zero point 0), shift states become INT8 inputs and outputs. Scales are float32.

    Args:
        step: The float step graph; it is left as it is.
        states: Its states.
        thresholds: Clipping threshold of every placed tensor, > 0.
        rounded: INT8 weights and scales of convolutions by node name; the nearest for the others.
        float_convs: Names of convolutions that stay in float.

    Raises:
        ExportError: A threshold is missing or not positive, or a name is no convolution's.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(step)
    placement = placement_of(proto.graph, states, float_convs)
    scales = scales_of(placement, thresholds)
    writer = _Writer(proto.graph, scales, placement)
    writer.quantise_tensors()
    writer.quantise_weights(rounded or {})
    specs = tuple(writer.quantise_state(state) for state in states)
    writer.finish()
    strip_metadata(proto)
    state_scales = {name: scales[tensor] for name, tensor in placement.shift_states.items()}
    return Int8Step(proto, specs, placement, state_scales)


def write_int8(made: Int8Step, path: Path) -> None:
    """Check an INT8 graph and write it, whole or not at all."""
    onnx.checker.check_model(made.proto, full_check=True)
    with whole_file(path) as part:
        onnx.save(made.proto, str(part))


def scales_of(placement: Placement, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Scale of every placed tensor; a tied one takes the other's.

    Raises:
        ExportError: A threshold is missing or not positive.
    """
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


class _Writer:
    """Edits one graph: pairs after their producers, consumers renamed."""

    def __init__(
        self, graph: onnx.GraphProto, scales: Mapping[str, float], placement: Placement
    ) -> None:
        self.graph = graph
        self.scales = scales
        self.placement = placement
        self.first: list[onnx.NodeProto] = []
        self.before: dict[str, list[onnx.NodeProto]] = {}  # before the node of a name
        self.after: dict[str, list[onnx.NodeProto]] = {}  # behind the node that makes a tensor
        self.constants: dict[str, onnx.TensorProto] = {}
        self.replaced: set[str] = set()
        self._constant("int8_zero", np.zeros((), np.int8))

    def quantise_tensors(self) -> None:
        """A pair behind every placed tensor; all its INT8 consumers read the dequantised one."""
        for name in self.placement.tensors:
            scale = self._scale(name)
            self._rename_consumers(name, f"{name}_dq")
            self.after[name] = [
                _node("QuantizeLinear", name, scale, "int8_zero", f"{name}_q"),
                _node("DequantizeLinear", f"{name}_q", scale, "int8_zero", f"{name}_dq"),
            ]

    def quantise_weights(self, rounded: Mapping[str, Rounded]) -> None:
        """INT8 initialisers with one DQ each, per output channel."""
        initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type != "Conv" or node.name in self.placement.float_convs:
                continue
            name = node.input[1]
            weight, scale = rounded.get(node.name) or nearest(
                numpy_helper.to_array(initializers[name])
            )
            self._constant(f"{name}_int8", weight)
            self._constant(f"{name}_scale", scale)
            zeros = self._constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
            dequantise = _node(
                "DequantizeLinear", f"{name}_int8", f"{name}_scale", zeros, f"{name}_dq", axis=0
            )
            self.before.setdefault(node.name, []).append(dequantise)
            node.input[1] = f"{name}_dq"
            self.replaced.add(name)

    def quantise_state(self, state: StateSpec) -> StateSpec:
        """A shift state as INT8 input and output; other states stay as they are."""
        shift_states = self.placement.shift_states
        if state.name_in not in shift_states:
            return state
        scale = self._scale(shift_states[state.name_in])
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
            if node.name in self.placement.float_convs:
                continue
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
