"""The layer table of an engine: what runs on INT8, what does not, and why.

It is read from NVIDIA's build log (`export.engines.build_log`), and explained by the graph: what
the preflight finds at a convolution, and what the export kept in float on purpose. Written beside
an engine as `NAME.layers.json` for programs and `NAME.layers.md` for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from export.engines.build_log import EngineLayer, convs_by_precision, count_kernels, parse_layers
from export.report.verdict import kept_float_of
from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.files import whole_file, write_json
from runtime.plan import BuiltPlan

FLOAT_TYPES = {"Float": "FP32", "Half": "FP16"}
MERGED = "merged"
MAX_NAME = 60
MAX_NODES = 3
MAX_CELL = 240
LABEL = "__myl_"  # what TensorRT puts before the operators of generated code


@dataclass(frozen=True)
class LayerRow:
    """One layer of an engine.

    Attributes:
        name: The engine's name for it.
        kind: `correlation` (a convolution), `gemm`, `kgen` (generated pointwise code) …; `merged`
            for a convolution of the graph that has no layer of its own.
        runs: `INT8`, `FP16`, `FP32`, or `` for a layer without a kernel.
        reads: Data types of its inputs, each once.
        writes: Data types of its outputs, each once.
        conv: The graph's convolution that it is; empty for other layers.
        onnx_nodes: Nodes of the graph that it computes at least a part of.
        why: Why it does not run on INT8; empty for those that do.
    """

    name: str
    kind: str
    runs: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    conv: str
    onnx_nodes: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class LayerTable:
    """All layers of an engine.

    Attributes:
        engine: The plan's file name.
        precision: Which of the bundle's graphs it was built from.
        kernels: Kernels that one step launches.
        int8_convs: Convolutions that run on INT8.
        other_convs: Those that do not.
        rows: The layers in the order in which they run.
        remarks: What is missing in the table.
    """

    engine: str
    precision: Precision
    kernels: int
    int8_convs: tuple[str, ...]
    other_convs: tuple[str, ...]
    rows: tuple[LayerRow, ...]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as `layers.json` stores it."""
        return asdict(self)

    def __str__(self) -> str:
        """The table in Markdown, convolutions that are not on INT8 first."""
        convs = len(self.int8_convs) + len(self.other_convs)
        lines = [
            f"# Layers of {self.engine}",
            "",
            f"{self.kernels} kernels a step; {len(self.int8_convs)} of {convs} convolutions run on "
            "INT8.",
            *(f"\n{remark}" for remark in self.remarks),
            "",
            "## Convolutions that do not run on INT8",
            "",
        ]
        others = [row for row in self.rows if row.conv and row.runs != "INT8"]
        if others:
            lines += ["| convolution | runs in | why |", "|---|---|---|"]
            lines += [f"| {_cell(row.conv)} | {row.runs} | {_cell(row.why)} |" for row in others]
        else:
            lines.append("None.")
        lines += ["", "## All layers, in order", ""]
        lines += ["| | layer | of the graph | runs in | reads → writes | why not INT8 |"]
        lines += ["|---|---|---|---|---|---|"]
        for number, row in enumerate(self.rows, start=1):
            types = f"{' '.join(row.reads)} → {' '.join(row.writes)}"
            layer = f"{row.kind} {row.name.removeprefix(LABEL)}"
            nodes = ", ".join(row.onnx_nodes[:MAX_NODES])
            more = ", …" if len(row.onnx_nodes) > MAX_NODES else ""
            cells = [str(number), layer, f"{nodes}{more}", row.runs, types, row.why]
            cells = [_cell(text) for text in cells]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def layer_table(built: BuiltPlan, bundle: Bundle, precision: Precision, engine: str) -> LayerTable:
    """What became of a bundle's graph.

    On a device the graph cannot be read where `onnx` is not installed; then the reasons come from
    the log alone, and a remark says so.

    Args:
        built: What the builder gave, with its log.
        bundle: The bundle.
        precision: Which of its graphs was built.
        engine: The plan's file name.
    """
    layers = parse_layers(built.messages)
    path = bundle.graph_path(GRAPH_OF[precision])
    remarks = [] if layers else ["The build log has no layer table."]
    try:
        convs, findings = _graph_facts(path)
    except ModuleNotFoundError as err:
        remarks.append(f"Without {err.name} the reasons come from the build log alone.")
        convs, findings = None, {}
    kept = tuple(kept_float_of(bundle.folder)) if precision == "int8" else ()
    int8, others = convs_by_precision(layers, convs)
    reasons = _Reasons(precision, findings, kept)
    rows = [_row(layer, convs, reasons) for layer in layers]
    rows += [_merged_row(name, layers, reasons) for name in others if not _has_row(name, rows)]
    return LayerTable(
        engine, precision, count_kernels(layers), int8, others, tuple(rows), tuple(remarks)
    )


def layer_files(plan_path: Path) -> tuple[Path, Path]:
    """Where an engine's table lies: JSON and Markdown."""
    stem = plan_path.name.removesuffix(plan_path.suffix)
    return plan_path.with_name(f"{stem}.layers.json"), plan_path.with_name(f"{stem}.layers.md")


def write_layers(table: LayerTable, plan_path: Path) -> Path:
    """Write an engine's table beside it; returns the Markdown's path."""
    as_json, as_text = layer_files(plan_path)
    write_json(as_json, table.to_json())
    with whole_file(as_text) as part:
        part.write_text(str(table), encoding="utf-8")
    return as_text


@dataclass(frozen=True)
class _Reasons:
    """What is known about why a layer runs in float."""

    precision: Precision
    findings: Mapping[str, str]
    kept: Sequence[str]

    def of_conv(self, name: str, layer: EngineLayer | None) -> str:
        if self.precision != "int8":
            return f"the {self.precision} graph is not quantised"
        if name in self.kept:
            return "kept in float on purpose: the export measured that INT8 costs accuracy here"
        if name in self.findings:
            return self.findings[name]
        if layer is None:
            return ""
        data, weights = layer.inputs[:1] == ("Int8",), "Int8" in layer.constants
        if data and not weights:
            return "only its data are INT8: the weight has no Q/DQ, or along a wrong axis"
        if weights:
            return "only its weight is INT8: the data input has no Q/DQ"
        return "neither its data nor its weight are INT8"

    def of_other(self, layer: EngineLayer) -> str:
        if self.precision != "int8":
            return ""
        if _multiplies_matrices(layer):
            return "gates and classifier stay in float by design"
        if "Int8" in layer.outputs:
            return "pointwise: makes the INT8 input of what follows"
        if "Int8" in layer.inputs:
            return "pointwise: takes INT8, computes in float"
        if not layer.inputs:
            return "prepares constants"
        return "pointwise, pooling or state: stays in float by design"


def _row(layer: EngineLayer, convs: Sequence[str] | None, reasons: _Reasons) -> LayerRow:
    names = layer.conv_names(convs)
    conv = names[0] if names else ""
    row = LayerRow(
        name=layer.name,
        kind=layer.kind,
        runs=_runs(layer),
        reads=_once(layer.inputs),
        writes=_once(layer.outputs),
        conv=conv,
        onnx_nodes=layer.onnx_nodes,
        why="",
    )
    if row.runs in ("INT8", ""):
        return row
    return replace(row, why=reasons.of_conv(conv, layer) if conv else reasons.of_other(layer))


def _runs(layer: EngineLayer) -> str:
    """The precision of a layer's arithmetic."""
    if not layer.is_kernel:
        return ""
    if (layer.is_conv or _multiplies_matrices(layer)) and layer.runs_int8:
        return "INT8"
    types = {*layer.inputs, *layer.constants, *layer.outputs}
    found = [name for kind, name in FLOAT_TYPES.items() if kind in types]
    # pointwise code between INT8 tensors computes in float
    return found[0] if found else "FP32"


def _multiplies_matrices(layer: EngineLayer) -> bool:
    return "gemm" in layer.kind.lower() or "matrix" in layer.kind.lower()


def _merged_row(name: str, layers: Sequence[EngineLayer], reasons: _Reasons) -> LayerRow:
    """A convolution of the graph that no layer stands for."""
    homes = [layer for layer in layers if name in layer.onnx_nodes]
    why = reasons.of_conv(name, None)
    if homes:
        merged = f"merged into {homes[0].kind} {homes[0].name[:MAX_NAME]}"
        why = f"{why}; {merged}" if why else merged
    types = [_runs(layer) for layer in homes[:1]]
    return LayerRow(
        name=name,
        kind=MERGED,
        runs=types[0] if types else "",
        reads=_once(homes[0].inputs) if homes else (),
        writes=_once(homes[0].outputs) if homes else (),
        conv=name,
        onnx_nodes=(name,),
        why=why or "the build log does not name it",
    )


def _has_row(name: str, rows: Sequence[LayerRow]) -> bool:
    return any(row.conv == name for row in rows)


def _graph_facts(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of a graph's convolutions, and what the preflight finds at each.

    Raises:
        ModuleNotFoundError: `onnx` is not installed.
    """
    from export.checks.preflight import preflight
    from export.engines.build_log import conv_node_names

    convs = conv_node_names(path)
    found: dict[str, list[str]] = {}
    for finding in preflight(path):
        if finding.where in convs:
            found.setdefault(finding.where, []).append(finding.message)
    return convs, {name: "; ".join(texts) for name, texts in found.items()}


def _once(types: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(types))


def _cell(text: str) -> str:
    short = text if len(text) <= MAX_CELL else text[:MAX_CELL] + "…"
    return short.replace("|", "\\|").replace("\n", " ")
