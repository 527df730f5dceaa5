"""Static checks of a graph before NVIDIA's builder sees it; `python -m export.check` runs them.

Each check was seen failing, or worse, passing with wrong results, in a real builder. The builder's
own messages name internals; these name the fix. `export/checks/named.py` says what each looks for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnx
from onnx import TensorProto

from export.checks.fp16 import fp16_findings
from export.checks.int8 import int8_findings
from export.checks.named import Finding, found
from export.checks.step import states_by_name, step_findings
from export.graph_view import (
    DEQUANTISE,
    QUANTISE,
    GraphView,
    external_fault,
    label,
    load_graph,
)
from runtime.bundle import (
    FRAME_INPUT,
    RESET_INPUT,
    Precision,
    StateSpec,
)
from runtime.errors import ExportError

Target: TypeAlias = Literal["8.6", "10.3", "10.x", "11", "rtx"]


@dataclass(frozen=True)
class Reads:
    """What a TensorRT release reads; `ir_version` None: no limit is known."""

    opsets: range
    ir_version: int | None


# 8.6 and 10: what docs/operators.md of onnx-tensorrt says (10.0: 9 to 20, which holds for
# every 10; 10.15 and 11.2: 9 to 24). RTX: what 1.7.1 was seen to take.
TARGETS: dict[Target, Reads] = {
    "8.6": Reads(range(9, 18), 8),
    "10.3": Reads(range(9, 21), 10),
    "10.x": Reads(range(9, 21), 10),
    "11": Reads(range(9, 25), None),
    "rtx": Reads(range(9, 26), None),
}
OLDEST: Target = "8.6"  # what it reads, all read
# The first opset with per-channel Q/DQ.
QDQ_OPSET = 13
STANDARD_DOMAINS = ("", "ai.onnx")
LOCAL_PATH = re.compile(r"(/home/|/root/|/Users/|/tmp/|/opt/|[A-Z]:\\|site-packages|\w\.py\b)")
CONTROL_FLOW = ("If", "Loop", "Scan")
# Operators whose floating inputs must have one type.
ONE_TYPE = ("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Concat", "Max", "Min", "Pow")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
PROBE_STREAMS = 3
MAX_SHOWN = 20


def preflight(
    source: onnx.ModelProto | Path | GraphView,
    *,
    states: Sequence[StateSpec] | None = None,
    precision: Precision | None = None,
    float_convs: Collection[str] = (),
    target: Target = OLDEST,
    allow_external: bool = False,
) -> list[Finding]:
    """Check a graph statically.

    Args:
        source: A model, its file, or a view of it.
        states: The states it must have, in order; None takes them from the inputs' names.
        precision: What the graph must be; None takes it from its nodes.
        float_convs: Conv nodes that stay in float on purpose.
        target: The TensorRT that must read it.
        allow_external: Weights may be in other files.

    Returns:
        What was found, notes included; empty if nothing was.

    Raises:
        ExportError: The file is no ONNX model.
        FileNotFoundError: No such file.
    """
    view = source if isinstance(source, GraphView) else load_graph(source)
    findings = [*_check_versions(view, TARGETS[target]), *_check_external(view, allow_external)]
    for check in ANY_GRAPH:
        findings += check(view)
    invalid = list(_check_onnx(view))
    findings += invalid
    if any(finding.check == "onnx-valid" for finding in invalid):
        return findings  # the others rely on every node's inputs
    for check in VALID_GRAPH:
        findings += check(view)
    specs = states_by_name(view) if states is None else list(states)
    findings += step_findings(view, specs)
    precision = precision or precision_of(view)
    if precision == "int8":
        findings += int8_findings(view, specs, float_convs)
    else:
        findings += _check_no_qdq(view)
    if precision == "float16":
        findings += fp16_findings(view, specs, float_convs)
    elif precision == "float32":
        findings += _check_no_half(view)
    return findings + list(_check_listed(view, float_convs))


def require_clean(
    source: onnx.ModelProto | Path,
    *,
    states: Sequence[StateSpec] | None = None,
    precision: Precision | None = None,
    float_convs: Collection[str] = (),
) -> None:
    """`preflight`, and an error if it finds anything but notes: ours have no warnings either.

    Raises:
        ExportError: With everything that was found.
    """
    findings = preflight(source, states=states, precision=precision, float_convs=float_convs)
    findings = [finding for finding in findings if finding.severity != "info"]
    if findings:
        name = source if isinstance(source, Path) else source.graph.name or "the graph"
        shown = "; ".join(str(finding) for finding in findings[:MAX_SHOWN])
        raise ExportError(f"{name} fails {len(findings)} preflight checks: {shown}")


def precision_of(view: GraphView) -> Precision:
    """What a graph is: with Q/DQ, else with convolutions in half, else float32."""
    if view.of_type(QUANTISE, DEQUANTISE):
        return "int8"
    weights = [conv.input[1] for conv in view.of_type("Conv") if len(conv.input) > 1]
    halves = [name for name in weights if view.dtype(name) == TensorProto.FLOAT16]
    return "float16" if halves else "float32"


def _check_versions(view: GraphView, reads: Reads) -> Iterator[Finding]:
    version = view.model.ir_version
    if reads.ir_version is not None and version > reads.ir_version:
        yield found("ir-version", str(version), f"must be <= {reads.ir_version} for this target")
    has_qdq = bool(view.of_type(QUANTISE, DEQUANTISE))
    first = QDQ_OPSET if has_qdq else reads.opsets[0]
    for opset in view.model.opset_import:
        if opset.domain not in STANDARD_DOMAINS:
            yield found("custom-domain", opset.domain, "is not ONNX's own")
        elif not first <= opset.version <= reads.opsets[-1]:
            range_text = f"must be {first} ... {reads.opsets[-1]} for this target"
            yield found("opset", str(opset.version), range_text)


def _check_external(view: GraphView, allowed: bool) -> Iterator[Finding]:
    folder = None if view.path is None else view.path.parent
    external = [
        each for each in view.model.graph.initializer if each.data_location == TensorProto.EXTERNAL
    ]
    faults = {each.name: external_fault(each, folder) for each in external} if folder else {}
    for name, fault in faults.items():
        if fault:
            yield found("external-missing", name, fault)
    if external and not allowed:
        yield found(
            "external-data", external[0].name, f"{len(external)} tensors are in another file"
        )


def _check_onnx(view: GraphView) -> Iterator[Finding]:
    name = view.model.graph.name or "graph"
    try:
        # by path, so that weights in other files are found and large ones are not copied
        onnx.checker.check_model(view.model if view.path is None else str(view.path))
    except (onnx.checker.ValidationError, ValueError) as err:
        # a model in memory has no folder, and a missing file has its own finding
        if any(t.data_location == TensorProto.EXTERNAL for t in view.model.graph.initializer):
            return
        yield found("onnx-valid", name, _brief(err))
        return
    if view.inference_error:
        yield found("shape-inference", name, _brief(view.inference_error))


def _check_shapes(view: GraphView) -> Iterator[Finding]:
    if view.inference_error:
        return  # no shape is known then
    names = {name for node in view.nodes for name in node.output if name}
    for name in sorted(names | view.inputs.keys()):
        facts = view.tensors.get(name)
        if facts is None or facts.shape is None or any(size < 1 for size in facts.shape):
            shape = None if facts is None else facts.shape
            yield found("static-shape", name, f"shape is {shape}")


def _check_names(view: GraphView) -> Iterator[Finding]:
    tensors = Counter([*view.inputs, *view.outputs])
    for name in (name for name, count in tensors.items() if count > 1):
        yield found("io-names", name, "is input and output")
    nodes = Counter(node.name for node in view.nodes if node.name)
    for name in (name for name, count in nodes.items() if count > 1):
        yield found("node-names", name, f"{nodes[name]} nodes have this name")
    for conv in view.of_type("Conv"):
        if not conv.name:
            yield found("node-names", label(conv), "Conv without a name")


def _check_control_flow(view: GraphView) -> Iterator[Finding]:
    for node in view.of_type(*CONTROL_FLOW):
        yield found("control-flow", label(node), f"is {node.op_type}")
    for function in view.model.functions:
        yield found("control-flow", function.name, "is a local function")


def _check_uint8(view: GraphView) -> Iterator[Finding]:
    for name, facts in view.tensors.items():
        if facts.dtype != TensorProto.UINT8 or view.is_constant(name):
            continue
        for node in view.consumers(name):
            if node.op_type not in ("Cast", DEQUANTISE):
                yield found("uint8-cast", label(node), f"{node.op_type} reads uint8")


def _check_float_types(view: GraphView) -> Iterator[Finding]:
    for node in view.of_type(*ONE_TYPE):
        kinds = {view.dtype(name) for name in node.input if view.dtype(name) in FLOATS}
        if len(kinds) > 1:
            names = " and ".join(sorted(TensorProto.DataType.Name(kind) for kind in kinds))
            yield found("mixed-float", label(node), f"{node.op_type} reads {names}")


def _check_metadata(view: GraphView) -> Iterator[Finding]:
    graph = view.model.graph
    holders: list[tuple[str, Any]] = [("model", view.model), ("graph", graph)]
    holders += [(label(node), node) for node in view.nodes]
    for where, holder in holders:
        texts = [holder.doc_string, *(p.value for p in getattr(holder, "metadata_props", ()))]
        leak = next((m for m in map(LOCAL_PATH.search, texts) if m is not None), None)
        if leak is not None:
            yield found("local-path", where, f"holds a local path (…{leak[0]}…)")


def _check_batch(view: GraphView) -> Iterator[Finding]:
    """No node holds the batch size: a device stamps N rows onto the inputs before it builds."""
    if FRAME_INPUT not in view.inputs or RESET_INPUT not in view.inputs:
        return
    if view.inference_error:
        return
    probe = view.without_weights()
    del probe.graph.value_info[:]
    for info in probe.graph.input:
        if info.name in view.inputs and info.type.tensor_type.shape.dim:
            info.type.tensor_type.shape.dim[0].dim_value = PROBE_STREAMS
    for info in probe.graph.output:
        info.type.tensor_type.ClearField("shape")
    # weights that became inputs stay as they are: their names are not among view.inputs
    stamped = GraphView(probe)
    if stamped.inference_error:
        yield found(
            "batch-size", "graph", f"with {PROBE_STREAMS} rows: {_brief(stamped.inference_error)}"
        )
        return
    yield from _fixed_rows(stamped)


def _fixed_rows(stamped: GraphView) -> Iterator[Finding]:
    for node in stamped.of_type("Reshape"):
        before, after = (stamped.tensors.get(name) for name in (node.input[0], node.output[0]))
        if before and after and before.num_elements != after.num_elements:
            yield found("batch-size", label(node), "its shape holds the batch size")
    inferred = onnx.shape_inference.infer_shapes(stamped.model, data_prop=True)
    for info in inferred.graph.output:
        dims = info.type.tensor_type.shape.dim
        rows = dims[0].dim_value if dims else PROBE_STREAMS  # no shape: another check's finding
        if rows != PROBE_STREAMS:
            yield found(
                "batch-size",
                info.name,
                f"has {rows} rows for {PROBE_STREAMS} streams: a Reshape, Expand or constant on "
                "the way holds the batch size",
            )


ANY_GRAPH: tuple[Callable[[GraphView], Iterator[Finding]], ...] = (
    _check_names,
    _check_control_flow,
    _check_metadata,
)
VALID_GRAPH: tuple[Callable[[GraphView], Iterator[Finding]], ...] = (
    _check_shapes,
    _check_uint8,
    _check_float_types,
    _check_batch,
)


def _check_no_qdq(view: GraphView) -> Iterator[Finding]:
    nodes = view.of_type(QUANTISE, DEQUANTISE)
    if nodes:
        yield found("unexpected-qdq", label(nodes[0]), f"{len(nodes)} Q/DQ nodes in a float graph")


def _check_no_half(view: GraphView) -> Iterator[Finding]:
    halves = [name for name, facts in view.tensors.items() if facts.dtype == TensorProto.FLOAT16]
    if halves:
        yield found("unexpected-half", halves[0], f"{len(halves)} float16 tensors")


def _check_listed(view: GraphView, float_convs: Collection[str]) -> Iterator[Finding]:
    for name in sorted(set(float_convs) - {conv.name for conv in view.of_type("Conv")}):
        yield found("kept-float", name, "is listed to stay in float, and no Conv has this name")


def _brief(err: object) -> str:
    return " ".join(str(err).split())[:300]
