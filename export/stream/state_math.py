"""PEM's state math in float64, fed by what the INT8 graph pools: what INT8 does to the math alone.

The INT8 graph's error has two parts: its backbone pools other numbers, and its state math could
lose digits, most of all where a quantiser touches it. The first is the backbone's and is seen in
the logits. For the second the float graph's own recurrence, from the pooled vectors to the next
state, is cut out, computed in float64, and carried along beside the INT8 graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph_view import GraphIndex
from runtime.bundle import RESET_INPUT, StateSpec

POOLS = ("ReduceMean", "GlobalAveragePool")
VECTOR_RANK = 2


class ExactStateMath:
    """The recurrence of the packed vectors in float64, with a state of its own.

    Args:
        graph: The cut-out recurrence.
        states: The step graph's states.
        number: Which of them holds the vectors.

    Attributes:
        number: As given.
        pooled: Tensors of the step graph that it reads at every step.
    """

    def __init__(self, graph: onnx.ModelProto, states: Sequence[StateSpec], number: int) -> None:
        self.number = number
        state = states[number]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session: Any = ort.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {value.name for value in graph.graph.input}
        self._reads_reset = RESET_INPUT in given
        self.pooled = tuple(sorted(given - {RESET_INPUT, state.name_in}))
        self._state = state
        self._carried = np.zeros(state.shape)

    def step(self, values: Mapping[str, NDArray[np.float32]], reset: float) -> NDArray[np.float64]:
        """The next state, shape (1, V).

        Args:
            values: The INT8 graph's pooled vectors of this step, by name.
            reset: 1 where the step starts from the zero state.
        """
        feeds = {name: values[name].astype(np.float64) for name in self.pooled}
        feeds[self._state.name_in] = self._carried
        if self._reads_reset:
            feeds[RESET_INPUT] = np.full((1, 1), reset)
        self._carried = self._session.run([self._state.name_out], feeds)[0]
        return self._carried


def exact_state_math(step: onnx.ModelProto, states: Sequence[StateSpec]) -> ExactStateMath | None:
    """Cut the vectors' recurrence out of a float step graph.

    Args:
        step: The float step graph.
        states: Its states; the vectors of all blocks are packed into one of them.

    Returns:
        The recurrence; None where the graph keeps no vectors, or they are not computed from pooled
        features and the last state alone.
    """
    numbers = [i for i, each in enumerate(states) if len(each.shape) == VECTOR_RANK]
    if len(numbers) != 1:
        return None
    state = states[numbers[0]]
    index = GraphIndex(step.graph)
    found = index.before([state.name_out], stop=POOLS)
    pooled = {name for node in found if node.op_type in POOLS for name in node.output}
    nodes = [node for node in index.nodes if node in found and node.op_type not in POOLS]
    graph = _in_float64(step, nodes, [*sorted(pooled), state.name_in, RESET_INPUT], state)
    return None if graph is None else ExactStateMath(graph, states, numbers[0])


def _in_float64(
    step: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], given: Sequence[str], state: StateSpec
) -> onnx.ModelProto | None:
    """The nodes as a model of its own; None where they read anything but `given`."""
    read = {name for node in nodes for name in node.input if name}
    kept = [tensor for tensor in step.graph.initializer if tensor.name in read]
    made = {name for node in nodes for name in node.output}
    inputs = [name for name in given if name in read]
    if not made or read - made - set(inputs) - {tensor.name for tensor in kept}:
        return None
    graph = helper.make_graph(
        [_wider_node(node) for node in nodes],
        "state_math",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in inputs],
        [helper.make_tensor_value_info(state.name_out, TensorProto.DOUBLE, list(state.shape))],
        [_wider(tensor) for tensor in kept],
    )
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def _wider_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_wider(attribute.t))
    return copy


def _wider(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
