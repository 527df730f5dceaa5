"""Where Q/DQ pairs belong in a step graph: found by structure, never by node names.

- Every convolution: its data input and its weight.
- Every ReLU and max-pool output, once; pooling, gate product, shortcut and state read that one.
- A residual add: the shortcut's branch only (on both it blocks TensorRT's fusion).
- Shift states: stored as INT8 at exactly the scale of the convolution behind the shift.
- Nothing on PEM's vectors, gates, state math and the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from export.graph_view import GraphIndex
from runtime.bundle import StateSpec
from runtime.errors import ExportError

MAP_RANK = 4


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    Attributes:
        tensors: Tensors that get a pair which all their consumers read, in graph order.
        tied: Tensors whose scale is another's: values move without rounding again.
        shift_states: For each INT8 state input, the tensor whose scale it is stored at.
        convs: Names of all convolutions.
    """

    tensors: tuple[str, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    shift_states: Mapping[str, str] = field(default_factory=dict)
    convs: tuple[str, ...] = ()


def placement_of(graph: onnx.GraphProto, states: tuple[StateSpec, ...]) -> Placement:
    """Find the places.

    Args:
        graph: A float step graph.
        states: Its states.

    Returns:
        The placement.

    Raises:
        ExportError: A shift state that does not reach a convolution.
    """
    index = GraphIndex(graph)
    wanted = set()
    for node in index.nodes:
        if node.op_type in ("Relu", "Clip", "MaxPool"):
            wanted.add(node.output[0])
        elif node.op_type == "Conv":
            wanted.add(node.input[0])
        elif (branch := shortcut_of(node, index)) is not None:
            wanted.add(branch)
    order = [name for node in index.nodes for name in node.output if name in wanted]
    shifts = {
        state.name_in: _shift_concat(state, index)
        for state in states
        if len(state.shape) == MAP_RANK
    }
    return Placement(
        tensors=tuple(order),
        tied=_ties(index, wanted, shifts),
        shift_states=_state_scales(states, shifts, index, wanted),
        convs=tuple(node.name for node in index.nodes if node.op_type == "Conv"),
    )


def shortcut_of(node: onnx.NodeProto, index: GraphIndex) -> str | None:
    """The shortcut's tensor of a residual add; None for any other node.

    A residual add reads a convolution. Where both inputs are convolutions, the projection is the
    one whose own input the other branch is computed from.
    """
    if node.op_type != "Add":
        return None
    convs = [_made_by(index, name, "Conv") for name in node.input]
    first, second = convs
    if first is None and second is None:
        return None
    if first is None or second is None:
        return str(node.input[0] if first is None else node.input[1])
    first_is_shortcut = _is_ancestor(first.input[0], second.input[0], index)
    return str(node.input[0] if first_is_shortcut else node.input[1])


def _shift_concat(state: StateSpec, index: GraphIndex) -> str:
    """The concatenation that puts a past frame's channels before the present ones."""
    names = [state.name_in]
    while names:
        for node in index.consumers(names.pop()):
            if node.op_type == "Concat":
                return str(node.output[0])
            if node.op_type == "Where":
                names.append(node.output[0])
    raise ExportError(f"state {state.name_in} {state.shape} does not reach a shift; export again")


def _ties(index: GraphIndex, wanted: set[str], shifts: Mapping[str, str]) -> dict[str, str]:
    ties = {}
    for name in wanted:
        pool = _made_by(index, name, "MaxPool")
        if pool is not None and pool.input[0] in wanted:
            ties[name] = pool.input[0]
    for concat in shifts.values():
        joined = _made_by(index, concat, "Concat")
        cut = None if joined is None else _made_by(index, joined.input[1], "Slice")
        if concat in wanted and cut is not None and cut.input[0] in wanted:
            ties[concat] = cut.input[0]
    return ties


def _state_scales(
    states: tuple[StateSpec, ...], shifts: Mapping[str, str], index: GraphIndex, wanted: set[str]
) -> dict[str, str]:
    """The tensor whose grid a state's values lie on, or will lie on after the shift."""
    scales = {}
    for state in states:
        if state.name_in not in shifts:
            continue
        cut = _made_by(index, state.name_out, "Slice")
        source = None if cut is None else cut.input[0]
        tensor = source if source in wanted else shifts[state.name_in]
        if tensor not in wanted:
            raise ExportError(
                f"state {state.name_in} feeds {tensor}, which no convolution reads; export again"
            )
        scales[state.name_in] = str(tensor)
    return scales


def _made_by(index: GraphIndex, tensor: str, op_type: str) -> onnx.NodeProto | None:
    """The node that makes a tensor, if it is of that type."""
    return index.producer(tensor) if index.made_by(tensor) == op_type else None


def _is_ancestor(tensor: str, of: str, index: GraphIndex) -> bool:
    """Whether `of` is computed from `tensor`."""
    return tensor == of or any(tensor in node.input for node in index.before([of], stop=()))
