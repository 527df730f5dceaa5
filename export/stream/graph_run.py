"""A step graph in ONNX Runtime whose states and inner tensors can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph_view import DEQUANTISE, QUANTISE
from export.reference import reference_of
from runtime.bundle import FRAME_INPUT, RESET_INPUT, GraphSpec
from runtime.errors import ExportError

Values: TypeAlias = dict[str, NDArray[Any]]


class GraphRun:
    """A step graph for one stream, as fast as thousands of steps need it.

    ONNX Runtime may rewrite float as it likes: a quarter off a step of ResNet-50 at 224, and
    logits within 1e-6 of their range. In INT8 roundings would then fall elsewhere, which moved
    logits of trained models by up to 3 % of the range; there it may only fuse what gives the same
    numbers, and constant weights are made float once.

    Args:
        path: The ONNX file.
        graph: Its states.
        also: Further float tensors to give at every step.
        threads: Threads of one step; ONNX Runtime's choice where it is None.

    Raises:
        ExportError: An INT8 state without a scale.
    """

    def __init__(
        self,
        path: Path,
        graph: GraphSpec,
        also: Sequence[str] = (),
        *,
        threads: int | None = None,
    ) -> None:
        proto = onnx.load(path)
        for name in also:
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        is_int8 = any(node.op_type == QUANTISE for node in proto.graph.node)
        if is_int8:
            _weights_as_float(proto.graph)
        self._session = reference_of(
            proto.SerializeToString(), rewriting="exact" if is_int8 else "free", threads=threads
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self._states = graph.states
        self._scales = [
            1.0 if state.dtype == "float32" else _scale_of(proto.graph, state.name_out)
            for state in graph.states
        ]
        self._carried: Values = {s.name_in: np.zeros(s.shape, s.dtype) for s in graph.states}

    def step(self, frame: NDArray[np.uint8], reset: float) -> Values:
        """All outputs of one step, by name.

        Args:
            frame: Shape (H, W, 3), uint8, RGB.
            reset: 1 where the step starts from the zero state.
        """
        starts = np.full((1, 1), reset, np.float32)
        feeds = {FRAME_INPUT: frame[np.newaxis], RESET_INPUT: starts, **self._carried}
        values: Values = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        self._carried = {state.name_in: values[state.name_out] for state in self._states}
        return values

    def states(self, values: Values) -> list[NDArray[np.float64]]:
        """The states of a step as numbers: INT8 ones times their scale."""
        pairs = zip(self._states, self._scales, strict=True)
        return [values[state.name_out].astype(np.float64) * scale for state, scale in pairs]


def _weights_as_float(graph: onnx.GraphProto) -> None:
    """Replace constants that are dequantised by what they are in float: the same numbers."""
    constants = {each.name: each for each in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != DEQUANTISE or not set(node.input) <= set(constants):
            kept.append(node)
            continue
        steps, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        along = [-1 if at == axis else 1 for at in range(steps.ndim)] if scale.ndim else []
        offset = steps.astype(np.int32) - zero.reshape(along).astype(np.int32)
        value = offset.astype(np.float32) * scale.reshape(along)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _scale_of(graph: onnx.GraphProto, tensor: str) -> float:
    """The scale at which a QuantizeLinear makes a tensor."""
    for node in graph.node:
        if tensor in node.output and node.op_type == QUANTISE:
            for constant in graph.initializer:
                if constant.name == node.input[1]:
                    return float(numpy_helper.to_array(constant))
    raise ExportError(f"INT8 state {tensor} is made at no constant scale; export the bundle again")
