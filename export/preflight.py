"""Static checks of a graph before NVIDIA's builder sees it.

    python -m export.preflight artifacts/latest/bundle/step.int8.onnx

Each check was seen failing, or worse, passing with wrong results, in a real builder
(docs/measurements). The builder's own messages name internals; these name the fix.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from export.graph_view import DEQUANTISE, QUANTISE, Finding, GraphView, label, load_graph
from export.preflight_int8 import int8_findings
from runtime.bundle import FRAME_INPUT, RESET_INPUT, StateSpec
from runtime.command import run_command
from runtime.errors import ExportError

# TensorRT 8.6 parses opset 17; per-channel Q/DQ needs 13.
OPSETS = range(13, 18)
MAX_IR_VERSION = 8
STATE_IN = re.compile(r"state_in_\d+")
LOCAL_PATH = re.compile(r"(/home/|/root/|/Users/|/tmp/|/opt/|[A-Z]:\\|site-packages|\w\.py\b)")
PROBE_STREAMS = 3
MAX_SHOWN = 20


def preflight(
    source: onnx.ModelProto | Path,
    *,
    states: Sequence[StateSpec] | None = None,
    quantised: bool | None = None,
    float_convs: Collection[str] = (),
) -> list[Finding]:
    """Check a graph statically.

    Args:
        source: A model, or its file.
        states: The states it must have, in order; None takes them from the inputs' names.
        quantised: Whether it must be an INT8 graph; None looks for Q/DQ nodes.
        float_convs: Conv nodes that stay in float on purpose.

    Returns:
        What is wrong; empty if nothing is.

    Raises:
        ExportError: The file is no ONNX model.
    """
    view = load_graph(source)
    specs = states_by_name(view) if states is None else list(states)
    findings = [finding for check in GENERAL_CHECKS for finding in check(view)]
    findings += _check_states(view, specs)
    has_qdq = bool(view.of_type(QUANTISE, DEQUANTISE))
    if has_qdq if quantised is None else quantised:
        findings += int8_findings(view, specs, float_convs)
    elif has_qdq:
        where = label(view.of_type(QUANTISE, DEQUANTISE)[0])
        findings.append(Finding("float graph", where, "has Q/DQ nodes; export the float graph"))
    return findings


def require_clean(
    source: onnx.ModelProto | Path,
    *,
    states: Sequence[StateSpec] | None = None,
    quantised: bool | None = None,
    float_convs: Collection[str] = (),
) -> None:
    """`preflight`, and an error if it finds anything.

    Raises:
        ExportError: With everything that was found.
    """
    findings = preflight(source, states=states, quantised=quantised, float_convs=float_convs)
    if findings:
        name = source if isinstance(source, Path) else source.graph.name or "the graph"
        shown = "; ".join(str(finding) for finding in findings[:MAX_SHOWN])
        raise ExportError(f"{name} fails {len(findings)} preflight checks: {shown}")


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


def _check_onnx(view: GraphView) -> Iterator[Finding]:
    try:
        onnx.checker.check_model(view.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as err:
        yield Finding("onnx checker", view.model.graph.name, f"{_brief(err)}; export it again")


def _check_versions(view: GraphView) -> Iterator[Finding]:
    if view.model.ir_version > MAX_IR_VERSION:
        yield Finding(
            "IR version",
            str(view.model.ir_version),
            f"must be <= {MAX_IR_VERSION} for JetPack 6; set ir_version when saving",
        )
    for opset in view.model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield Finding("domain", opset.domain, "TensorRT knows standard operators only")
        elif opset.version not in OPSETS:
            yield Finding(
                "opset",
                str(opset.version),
                f"must be {OPSETS[0]} ... {OPSETS[-1]}; pass opset_version={OPSETS[-1]} and "
                "dynamo=False to torch.onnx.export",
            )


def _check_shapes(view: GraphView) -> Iterator[Finding]:
    if view.inference_error:
        yield Finding("shape inference", view.model.graph.name, _brief(view.inference_error))
    names = {name for node in view.nodes for name in node.output if name}
    for name in sorted(names | view.inputs.keys()):
        facts = view.tensors.get(name)
        if facts is None or facts.shape is None or any(size < 1 for size in facts.shape):
            shape = None if facts is None else facts.shape
            yield Finding("static shape", name, f"shape is {shape}; export without dynamic axes")


def _check_names(view: GraphView) -> Iterator[Finding]:
    tensors = Counter([*view.inputs, *view.outputs])
    for name in (name for name, count in tensors.items() if count > 1):
        yield Finding(
            "I/O names", name, "is input and output; TensorRT would rename the input: rename one"
        )
    nodes = Counter(node.name for node in view.nodes if node.name)
    for name in (name for name, count in nodes.items() if count > 1):
        yield Finding("node names", name, "several nodes have this name; make it unique")
    for conv in view.of_type("Conv"):
        if not conv.name:
            yield Finding("node names", label(conv), "Conv without a name; build logs need one")


def _check_uint8(view: GraphView) -> Iterator[Finding]:
    for name, facts in view.tensors.items():
        if facts.dtype != TensorProto.UINT8 or view.constant(name) is not None:
            continue
        for node in view.consumers(name):
            if node.op_type not in ("Cast", DEQUANTISE):
                yield Finding(
                    "uint8", label(node), f"{node.op_type} reads uint8; put the Cast before it"
                )


def _check_metadata(view: GraphView) -> Iterator[Finding]:
    graph = view.model.graph
    holders: list[tuple[str, Any]] = [("model", view.model), ("graph", graph)]
    holders += [(label(node), node) for node in view.nodes]
    for where, holder in holders:
        texts = [holder.doc_string, *(p.value for p in getattr(holder, "metadata_props", ()))]
        leak = next((m for m in map(LOCAL_PATH.search, texts) if m is not None), None)
        if leak is not None:
            yield Finding(
                "metadata",
                where,
                f"holds a local path (…{leak[0]}…); strip doc_string and metadata_props",
            )


def _check_external_data(view: GraphView) -> Iterator[Finding]:
    for each in view.model.graph.initializer:
        if each.data_location == TensorProto.EXTERNAL:
            yield Finding(
                "external data", each.name, "is in another file; save with external_data=False"
            )


def _check_batch(view: GraphView) -> Iterator[Finding]:
    """No node holds the batch size: a device stamps N rows onto the inputs before it builds."""
    if FRAME_INPUT not in view.inputs or RESET_INPUT not in view.inputs:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(view.model)
    del probe.graph.value_info[:]
    for info in probe.graph.input:
        if info.name in view.inputs and info.type.tensor_type.shape.dim:
            info.type.tensor_type.shape.dim[0].dim_value = PROBE_STREAMS
    for info in probe.graph.output:
        info.type.tensor_type.ClearField("shape")
    stamped = GraphView(probe)
    if stamped.inference_error:
        yield Finding(
            "batch", "graph", f"with {PROBE_STREAMS} rows: {_brief(stamped.inference_error)}"
        )
        return
    yield from _fixed_rows(stamped)


def _fixed_rows(stamped: GraphView) -> Iterator[Finding]:
    for node in stamped.of_type("Reshape"):
        before, after = (stamped.tensors.get(name) for name in (node.input[0], node.output[0]))
        if before and after and before.num_elements != after.num_elements:
            yield Finding(
                "batch", label(node), "its shape holds the batch size; write 0 or -1 for the rows"
            )
    inferred = onnx.shape_inference.infer_shapes(stamped.model, data_prop=True)
    for info in inferred.graph.output:
        dims = info.type.tensor_type.shape.dim
        rows = dims[0].dim_value if dims else 0
        if rows != PROBE_STREAMS:
            yield Finding(
                "batch",
                info.name,
                f"has {rows} rows for {PROBE_STREAMS} streams; a Reshape, Expand or constant on "
                "the way holds the batch size: write 0 or -1 there",
            )


GENERAL_CHECKS: tuple[Callable[[GraphView], Iterator[Finding]], ...] = (
    _check_versions,
    _check_onnx,
    _check_shapes,
    _check_names,
    _check_uint8,
    _check_metadata,
    _check_external_data,
    _check_batch,
)


def _check_states(view: GraphView, states: Sequence[StateSpec]) -> Iterator[Finding]:
    wanted_in = {spec.name_in for spec in states}
    wanted_out = {spec.name_out for spec in states}
    for name in sorted({n for n in view.inputs if STATE_IN.fullmatch(n)} - wanted_in):
        yield Finding("states", name, "is not in the list of states; bundle.json must have it")
    for name in sorted({n for n in view.outputs if n.startswith("state_out_")} - wanted_out):
        yield Finding("states", name, "has no state input of its number; remove one or add one")
    if [spec.name_in for spec in states] != sorted(wanted_in):
        yield Finding("states", "order", "names must sort in order: pad numbers with zeros")
    for spec in states:
        yield from _check_state(view, spec)


def _check_state(view: GraphView, spec: StateSpec) -> Iterator[Finding]:
    dtype = TensorProto.INT8 if spec.dtype == "int8" else TensorProto.FLOAT
    for name, tensors in ((spec.name_in, view.inputs), (spec.name_out, view.outputs)):
        if name not in tensors:
            yield Finding("states", name, "is missing; every state needs an input and an output")
        elif (tensors[name].dtype, tensors[name].shape) != (dtype, spec.shape):
            found = TensorProto.DataType.Name(tensors[name].dtype)
            yield Finding(
                "states",
                name,
                f"is {found} {tensors[name].shape}, must be {spec.dtype} {spec.shape} like its "
                "other end",
            )


def _brief(err: object) -> str:
    return " ".join(str(err).split())[:300]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    parser = argparse.ArgumentParser(
        prog="python -m export.preflight",
        description="Check an ONNX graph before NVIDIA's builder sees it.",
        epilog="example: python -m export.preflight artifacts/latest/bundle/step.int8.onnx",
    )
    parser.add_argument("graph", type=Path, help="an ONNX file")
    parser.add_argument(
        "--float-conv",
        action="append",
        default=[],
        metavar="NODE",
        help="a Conv node that stays in float on purpose; may be repeated",
    )
    args = parser.parse_args(argv)
    findings = preflight(args.graph, float_convs=args.float_conv)
    for finding in findings:
        print(finding)  # noqa: T201  the command's result
    if findings:
        raise ExportError(f"{args.graph} fails {len(findings)} checks")
    print(f"{args.graph}: nothing found; next: make engine")  # noqa: T201  the command's result
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
