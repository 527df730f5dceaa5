"""Static checks of what makes a graph a step graph: its inputs, outputs, states and their reset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from onnx import TensorProto

from export.checks.named import Finding, found
from export.graph_view import DEQUANTISE, GraphView, label
from runtime.bundle import CLIP_INPUT, FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec

STATE_IN = re.compile(r"state_in_\d+")
STATE_OUT = re.compile(r"state_out_\d+")
# What gives the values of its input in another type.
SAME_VALUE = (DEQUANTISE, "Cast", "Identity")


def states_by_name(view: GraphView) -> list[StateSpec]:
    """The states that a graph's input names promise, in order of their names."""
    names = sorted(name for name in view.inputs if STATE_IN.fullmatch(name))
    specs = []
    for name in names:
        facts = view.inputs[name]
        is_int8 = facts.dtype == TensorProto.INT8
        name_out = name.replace("_in_", "_out_")
        specs.append(StateSpec(name, name_out, facts.shape or (), "int8" if is_int8 else "float32"))
    return specs


def step_findings(view: GraphView, states: Sequence[StateSpec]) -> Iterator[Finding]:
    """Everything that is wrong with a step graph's inputs, outputs and states.

    Args:
        view: The graph.
        states: The states it must have, in order.
    """
    outputs = [name for name in view.outputs if STATE_OUT.fullmatch(name)]
    if CLIP_INPUT in view.inputs:
        return
    if FRAME_INPUT not in view.inputs and not states and not outputs:
        yield found("not-a-step-graph", view.model.graph.name or "graph", "has no frame or states")
        return
    yield from _check_io(view)
    yield from _check_states(view, states, outputs)


def _check_io(view: GraphView) -> Iterator[Finding]:
    wanted = (
        (FRAME_INPUT, view.inputs, TensorProto.UINT8, (None, None, None, 3)),
        (RESET_INPUT, view.inputs, TensorProto.FLOAT, (None, 1)),
        (LOGITS_OUTPUT, view.outputs, TensorProto.FLOAT, (None, None)),
    )
    for name, tensors, dtype, sizes in wanted:
        if name not in tensors:
            yield found("step-io", name, "is missing")
            continue
        facts = tensors[name]
        shape = facts.shape or ()
        fits = len(shape) == len(sizes) and all(
            size in (None, given) for size, given in zip(sizes, shape, strict=True)
        )
        if facts.dtype != dtype or not fits:
            found_type = TensorProto.DataType.Name(facts.dtype)
            yield found("step-io", name, f"is {found_type} {shape}")


def _check_states(
    view: GraphView, states: Sequence[StateSpec], outputs: Sequence[str]
) -> Iterator[Finding]:
    wanted_in = {spec.name_in for spec in states}
    wanted_out = {spec.name_out for spec in states}
    for name in sorted({n for n in view.inputs if STATE_IN.fullmatch(n)} - wanted_in):
        yield found("state-pairs", name, "is not in the bundle's list of states")
    for name in sorted(set(outputs) - wanted_out):
        yield found("state-pairs", name, "has no state input of its number")
    if [spec.name_in for spec in states] != sorted(wanted_in):
        yield found("state-order", "states", "their names do not sort in their order")
    for spec in states:
        yield from _check_state(view, spec)
        if RESET_INPUT in view.inputs:
            yield from _check_reset(view, spec)


def _check_state(view: GraphView, spec: StateSpec) -> Iterator[Finding]:
    dtype = TensorProto.INT8 if spec.dtype == "int8" else TensorProto.FLOAT
    for name, tensors in ((spec.name_in, view.inputs), (spec.name_out, view.outputs)):
        if name not in tensors:
            yield found("state-pairs", name, "is missing")
        elif (tensors[name].dtype, tensors[name].shape) != (dtype, spec.shape):
            found_type = TensorProto.DataType.Name(tensors[name].dtype)
            yield found(
                "state-types",
                name,
                f"is {found_type} {tensors[name].shape}, must be {spec.dtype} {spec.shape} like "
                "its other end",
            )


def _check_reset(view: GraphView, spec: StateSpec) -> Iterator[Finding]:
    """`Where(reset > 0.5, 0, state)` is all that may read a state."""
    readers = view.consumers(spec.name_in)
    while len(readers) == 1 and readers[0].op_type in SAME_VALUE:
        readers = view.consumers(readers[0].output[0])
    for node in readers:
        if node.op_type != "Where" or not _is_zero(view, node.input[1]):
            yield found("state-reset", spec.name_in, f"{label(node)} reads it without a reset")
        elif not _is_start(view, node.input[0]):
            yield found("state-reset", spec.name_in, f"{label(node)} does not ask `reset` > 0.5")
    if not readers:
        yield found("state-reset", spec.name_in, "is not read")


def _is_zero(view: GraphView, tensor: str) -> bool:
    node = view.producer(tensor)
    while node is not None and node.op_type in SAME_VALUE:
        tensor = node.input[0]
        node = view.producer(tensor)
    value = view.constant(tensor)
    return value is not None and not value.any()


def _is_start(view: GraphView, tensor: str) -> bool:
    """Whether a condition is `reset` > 0.5, given more axes or not."""
    compared = [node for node in view.before([tensor], stop=()) if node.op_type == "Greater"]
    return len(compared) == 1 and compared[0].input[0] == RESET_INPUT
