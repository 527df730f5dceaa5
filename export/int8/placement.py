"""Where Q/DQ pairs belong in a step graph: found by structure, never by node names.

- Every convolution: its data input and its weight.
- Every ReLU and max-pool output, once; pooling, gate product, shortcut and state read that one.
- A residual add: the shortcut's branch only (on both it blocks TensorRT's fusion).
- Shift states: stored as INT8 at exactly the scale of the convolution behind the shift.
- States of whole frames (TIM's): INT8 where the frame is rounded anyway, at that scale; float else,
  behind a gate: rounding there would be a second one.
- Nothing on PEM's vectors, gates, state math and the logits.
- A convolution that is kept in float reads what its producer gave, before any rounding; the state
  of the shift before it is then float too, unless it is cut from a tensor that is rounded anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
        convs: Names of the convolutions that become INT8.
        float_convs: Names of those that stay in float.
    """

    tensors: tuple[str, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    shift_states: Mapping[str, str] = field(default_factory=dict)
    convs: tuple[str, ...] = ()
    float_convs: tuple[str, ...] = ()


def placement_of(
    graph: onnx.GraphProto, states: tuple[StateSpec, ...], float_convs: Collection[str] = ()
) -> Placement:
    """Find the places.

    Args:
        graph: A float step graph.
        states: Its states.
        float_convs: Names of convolutions that stay in float.

    Returns:
        The placement.

    Raises:
        ExportError: A shift state that does not reach a convolution, or a name that is none's.
    """
    index = GraphIndex(graph)
    convs = [node.name for node in index.of_type("Conv")]
    if strangers := sorted(set(float_convs) - set(convs)):
        raise ExportError(f"no convolution is called {strangers[0]}; keep one of {convs} in float")
    wanted = _wanted(index, float_convs)
    order = [name for node in index.nodes for name in node.output if name in wanted]
    maps = [state for state in states if len(state.shape) == MAP_RANK]
    frames = {state.name_in: kept for state in maps if (kept := _kept_frame(state, index))}
    shifts = {
        state.name_in: _shift_concat(state, index) for state in maps if state.name_in not in frames
    }
    return Placement(
        tensors=tuple(order),
        tied=_ties(index, wanted, shifts),
        shift_states=_state_scales(states, shifts, index, wanted, float_convs)
        | {name: frame for name, frame in frames.items() if frame in wanted},
        convs=tuple(name for name in convs if name not in float_convs),
        float_convs=tuple(name for name in convs if name in float_convs),
    )


def _wanted(index: GraphIndex, float_convs: Collection[str]) -> set[str]:
    """Tensors that get a pair."""
    wanted = set()
    for node in index.nodes:
        if node.op_type in ("Relu", "Clip", "MaxPool"):
            if not _only_for(node.output[0], float_convs, index):
                wanted.add(node.output[0])
        elif node.op_type == "Conv" and node.name not in float_convs:
            wanted.add(node.input[0])
        elif (branch := shortcut_of(node, index)) is not None:
            wanted.add(branch)
    return wanted


def _only_for(tensor: str, float_convs: Collection[str], index: GraphIndex) -> bool:
    """Whether nothing but convolutions in float reads a tensor."""
    readers = index.consumers(tensor)
    return bool(readers) and all(reader.name in float_convs for reader in readers)


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


def _kept_frame(state: StateSpec, index: GraphIndex) -> str | None:
    """The tensor that a state of whole frames keeps (TIM's); None for any other state.

    Its next value is [present, newest past]: a part of it moves on as it is.
    """
    joined = _made_by(index, state.name_out, "Concat")
    cut = None if joined is None else _made_by(index, joined.input[1], "Split")
    restart = None if cut is None else _made_by(index, cut.input[0], "Where")
    if joined is None or restart is None or state.name_in not in restart.input:
        return None
    return str(joined.input[0])


def _shift_concat(state: StateSpec, index: GraphIndex) -> str:
    """What follows a past frame's channels put before the present ones: it, or its gate."""
    names = [state.name_in]
    while names:
        for node in index.consumers(names.pop()):
            if node.op_type == "Concat":
                return _gated(str(node.output[0]), index)
            if node.op_type == "Where":
                names.append(node.output[0])
    raise ExportError(f"state {state.name_in} {state.shape} does not reach a shift; export again")


def _gated(shifted: str, index: GraphIndex) -> str:
    """A shift's output behind the gate that follows it, if one does."""
    readers = index.consumers(shifted)
    only_gate = [reader.op_type for reader in readers] == ["Mul"]
    return str(readers[0].output[0]) if only_gate else shifted


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
    states: tuple[StateSpec, ...],
    shifts: Mapping[str, str],
    index: GraphIndex,
    wanted: set[str],
    float_convs: Collection[str],
) -> dict[str, str]:
    """The tensor whose grid a state's values lie on, or will lie on after the shift."""
    scales = {}
    for state in states:
        if state.name_in not in shifts:
            continue
        cut = _made_by(index, state.name_out, "Slice")
        source = None if cut is None else cut.input[0]
        tensor = source if source in wanted else shifts[state.name_in]
        if tensor not in wanted and _only_for(tensor, float_convs, index):
            continue  # it stays in float, as the convolution does
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
