"""Static checks of a half graph: feature maps in float16, vectors and states in float32.

TensorRT 11 takes every type from the graph, so a forgotten cast is a slow layer, not an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx
from onnx import TensorProto

from export.checks.named import Finding, found
from export.graph_view import GraphView, label
from runtime.bundle import StateSpec

VECTOR_RANK = 2
# What computes; casts and reshapes move a gate into half where it meets the map.
ARITHMETIC = (
    "Add", "Sub", "Mul", "Div", "Gemm", "MatMul", "Sigmoid", "Tanh", "Relu", "Softmax", "Pow",
)  # fmt: skip


def fp16_findings(
    view: GraphView, states: Sequence[StateSpec], float_convs: Collection[str]
) -> list[Finding]:
    """Everything that is wrong with a half graph's types; those of its states are checked before.

    Args:
        view: The graph.
        states: Its states.
        float_convs: Conv nodes that stay in float32 on purpose.
    """
    findings: list[Finding] = []
    for conv in view.of_type("Conv"):
        if conv.name not in float_convs:
            findings += _check_conv(view, conv)
    vectors = [spec for spec in states if len(spec.shape) == VECTOR_RANK]
    return findings + list(_check_state_math(view, vectors))


def _check_conv(view: GraphView, conv: onnx.NodeProto) -> Iterator[Finding]:
    kinds = {view.dtype(name) for name in conv.input if name}
    if kinds != {TensorProto.FLOAT16}:
        names = " and ".join(sorted(TensorProto.DataType.Name(kind) for kind in kinds))
        yield found("half-conv", label(conv), f"reads {names}")


def _check_state_math(view: GraphView, vectors: Sequence[StateSpec]) -> Iterator[Finding]:
    """What state vectors are made of and what is made of them, up to the convolutions."""
    ahead = view.after((spec.name_in for spec in vectors), stop=("Conv",))
    behind = view.before((spec.name_out for spec in vectors), stop=("Conv",))
    both = {id(node): node for node in (*ahead, *behind)}
    for node in both.values():
        if node.op_type not in ARITHMETIC or view.rank(node.output[0]) > VECTOR_RANK:
            continue
        if view.dtype(node.output[0]) == TensorProto.FLOAT16:
            yield found("half-state-math", label(node), f"{node.op_type} computes in float16")
