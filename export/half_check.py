"""Does the half graph say what the float graph says? On a CPU, with the rounding of a GPU.

ONNX Runtime computes halves in float32 on a CPU and drops the roundings between operators, whatever
its optimisation level: 300 · 300 in float16 gives 90000 there and infinity on a GPU. The rounded
graph is the half graph in float32 with every rounding written out as a pair of casts. Not in it:
how a kernel adds up inside one operator, which differs from GPU to GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.decibels import bounded_db
from export.graph_view import GraphView, attribute
from runtime.bundle import Bundle, GraphSpec
from runtime.errors import GateError
from runtime.files import whole_file
from runtime.selftest import LOWEST_SQNR_DB
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession

ALLOWED_DISAGREEMENT = 0.01
# they give numbers that they were given: nothing to round
EXACT = frozenset({"Clip", "Concat", "MaxPool", "Pad", "Relu", "Slice", "Split", "Unsqueeze"})


@dataclass(frozen=True)
class HalfCheck:
    """The half graph beside the float one on held-out clips.

    Attributes:
        count: Clips n.
        changed: Clips with another top-1.
        top1_float: Top-1 of the float graph, 0..1.
        top1_half: Top-1 of the half graph, 0..1.
        sqnr_db: SQNR of the clips' logits, decibels, in ±999; -999 where one is no number.
    """

    count: int
    changed: int
    top1_float: float
    top1_half: float
    sqnr_db: float

    @property
    def agreement(self) -> float:
        """Share of clips with the same top-1, 0..1."""
        return 1 - self.changed / self.count

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {**asdict(self), "agreement": self.agreement}


def half_check(logits_float: Logits, logits_half: Logits, label: NDArray[np.int64]) -> HalfCheck:
    """Compare two graphs on the same clips.

    Args:
        logits_float: Consensus logits, shape (B, K).
        logits_half: The half graph's, with its roundings, same shape.
        label: Classes, shape (B,).

    Raises:
        ValueError: No clips, or shapes differ.
    """
    if logits_float.shape != logits_half.shape or len(label) != len(logits_float) or not len(label):
        raise ValueError(
            "want the same clips, at least one, got logits "
            f"{logits_float.shape}, {logits_half.shape} and {len(label)} labels"
        )
    of_float, of_half = logits_float.argmax(1), logits_half.argmax(1)
    return HalfCheck(
        count=len(label),
        changed=int((of_float != of_half).sum()),
        top1_float=float((of_float == label).mean()),
        top1_half=float((of_half == label).mean()),
        sqnr_db=bounded_db(logits_half, logits_float),
    )


def require_half_pass(check: HalfCheck) -> None:
    """Fail where the half graph is not good enough to ship.

    Under a hundred clips, where one is more than the allowed share, one may change.

    Raises:
        GateError: Too many clips change their top-1, or the logits are so far from float that a
            device's engine would not pass its golden check.
    """
    least_db = LOWEST_SQNR_DB["float16"]
    if check.changed > max(1.0, ALLOWED_DISAGREEMENT * check.count):
        fault = (
            f"graph agrees with float on {check.agreement:.2%} of {check.count} clips, needed 99 %"
        )
    elif check.sqnr_db < least_db:
        fault = (
            f"graph's logits have SQNR {check.sqnr_db:.1f} dB against float, needed {least_db:g}"
        )
    else:
        return
    raise GateError(
        f"the float16 {fault}; feature maps may leave float16's range (65504): train "
        "longer or with more weight decay, or leave that graph out (--no-float16)"
    )


@contextmanager
def rounded_session(bundle: Bundle) -> Iterator[OrtStepSession]:
    """The bundle's half graph with its roundings, in ONNX Runtime; the file goes afterwards."""
    spec = GraphSpec("rounded.onnx", bundle.graph("step_fp16").states)
    path = bundle.folder / spec.file
    rounded = rounded_graph(onnx.load(str(bundle.graph_path("step_fp16"))))
    try:
        with whole_file(path) as part:
            onnx.save(rounded, str(part))
        other = replace(bundle, graphs={**bundle.graphs, "step_fp16": spec})
        with OrtStepSession(other, "float16", optimise=False) as session:
            yield session
    finally:
        path.unlink(missing_ok=True)


def rounded_graph(half: onnx.ModelProto) -> onnx.ModelProto:
    """The half graph in float32, with a pair of casts wherever it rounds.

    Args:
        half: A step graph of `export.to_fp16`.
    """
    types = {name: facts.dtype for name, facts in GraphView(half).tensors.items()}
    rounded = onnx.ModelProto()
    rounded.CopyFrom(half)
    graph = rounded.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(_widened(tensor))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if types.get(node.output[0]) != TensorProto.FLOAT16:
            continue
        if node.op_type == "Constant":
            node.attribute[0].t.CopyFrom(_widened(attribute(node, "value")))
        elif node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
        if node.op_type not in EXACT | {"Constant"}:
            nodes += _round_output(node)
    for field in ("node", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    onnx.checker.check_model(rounded, full_check=True)
    return rounded


def _round_output(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Casts from the node's output, renamed, to float16 and back under its old name."""
    (name,) = node.output
    exact, narrow = f"{name}/exact", f"{name}/half"
    node.output[0] = exact
    return [
        helper.make_node("Cast", [exact], [narrow], narrow, to=TensorProto.FLOAT16),
        helper.make_node("Cast", [narrow], [name], f"{name}/wide", to=TensorProto.FLOAT),
    ]


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
