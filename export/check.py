"""Check ONNX graphs before NVIDIA's builder sees them: any file, or all graphs of a bundle.

    python -m export.check artifacts/latest/bundle
    python -m export.check step.int8.onnx --target 10.3 --build
    python -m export.check other.onnx --json
    python -m export.check --list

Errors end it with status 1, warnings only with --strict. With TensorRT-RTX installed, --build asks
NVIDIA's builder too, and tells in which precision each convolution runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import onnx
from onnx.external_data_helper import uses_external_data

from export.checks.int8 import float_maps
from export.checks.named import explained, markdown
from export.checks.preflight import (
    OLDEST,
    TARGETS,
    Target,
    precision_of,
    preflight,
)
from export.checks.report import MAX_SHOWN, Report, plural, report_lines
from export.checks.step import states_by_name
from export.engines.build_log import BuildCheck, nvidia_build_check
from export.graph_view import GraphView, load_graph
from export.report.verdict import kept_float_of
from runtime.bundle import (
    GRAPH_OF,
    MANIFEST,
    Bundle,
    GraphKind,
    Precision,
    StateSpec,
    load_bundle,
)
from runtime.command import one_line, run_command, say
from runtime.errors import EngineError, ExportError
from runtime.nvidia import find_tensorrt

NO_REASON = "no reason given"


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to check.

    Attributes:
        target: The TensorRT that must read the graphs.
        float_convs: Convolutions that stay in float on purpose, with the reason.
        allow_external: Weights may be in other files.
        build: Ask NVIDIA's builder too.
    """

    target: Target = OLDEST
    float_convs: Mapping[str, str] = field(default_factory=dict)
    allow_external: bool = False
    build: bool = False


def check_file(path: Path, request: Request) -> Report:
    """Check one ONNX file, anyone's.

    Raises:
        ExportError: The file is no ONNX model.
        FileNotFoundError: No such file.
    """
    return _report(load_graph(path), path, request)


def check_bundle(folder: Path, request: Request) -> list[Report]:
    """Check all graphs of a bundle, against what its manifest says of them.

    Raises:
        BundleError: The bundle cannot be used, or a file is not the one it was made with.
        ExportError: A graph is no ONNX model.
    """
    bundle = load_bundle(folder)
    request = replace(request, float_convs={**kept_float_of(folder), **request.float_convs})
    return [_check_member(bundle, kind, request) for kind in bundle.graphs]


def _check_member(bundle: Bundle, kind: GraphKind, request: Request) -> Report:
    path, states = bundle.graph_path(kind), bundle.graph(kind).states
    return _report(load_graph(path), path, request, states, _precision_of_kind(kind))


def _precision_of_kind(kind: GraphKind) -> Precision:
    return next((name for name, of in GRAPH_OF.items() if of == kind), "float32")


def _report(
    view: GraphView,
    path: Path,
    request: Request,
    states: Sequence[StateSpec] | None = None,
    precision: Precision | None = None,
) -> Report:
    precision = precision or precision_of(view)
    # a bundle's list is of its INT8 graph
    listed = request.float_convs if precision == "int8" or states is None else {}
    findings = preflight(
        view,
        states=states,
        precision=precision,
        float_convs=listed,
        target=request.target,
        allow_external=request.allow_external,
    )
    invalid = any(finding.check == "onnx-valid" for finding in findings)
    maps = float_maps(view) if precision == "int8" and not invalid else []
    built, refusal = _ask_builder(view, path) if request.build else (None, "")
    return Report(
        path=path,
        precision=precision,
        facts=_facts(view),
        findings=tuple(findings),
        maps=tuple(maps),
        listed=listed,
        built=built,
        refusal=refusal,
    )


def _facts(view: GraphView) -> dict[str, int]:
    standard = (each.version for each in view.model.opset_import if not each.domain)
    return {
        "opset": max(standard, default=0),
        "ir_version": view.model.ir_version,
        "nodes": len(view.nodes),
        "convolutions": len(view.of_type("Conv")),
        "states": len(states_by_name(view)),
    }


def _ask_builder(view: GraphView, path: Path) -> tuple[BuildCheck | None, str]:
    try:
        if not any(uses_external_data(each) for each in view.model.graph.initializer):
            return nvidia_build_check(path), ""
        # the builder is given bytes, which know no other file
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / path.name
            onnx.save(onnx.load(path), whole)
            return nvidia_build_check(whole), ""
    except (EngineError, ExportError, onnx.checker.ValidationError) as err:
        return None, one_line(err)


def _listed_convs(texts: Sequence[str]) -> dict[str, str]:
    listed = {}
    for text in texts:
        name, _, reason = text.partition("=")
        listed[name] = reason or NO_REASON
    return listed


def _checked(path: Path, request: Request) -> list[Report]:
    if not path.is_dir():
        return [check_file(path, request)]
    if not (path / MANIFEST).is_file():
        raise ExportError(f"{path} is no bundle, it has no {MANIFEST}; give an ONNX file in it")
    return check_bundle(path, request)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, nargs="?", help="an ONNX file or a bundle folder")
    parser.add_argument(
        "--target",
        choices=get_args(Target),
        default=OLDEST,
        help="TensorRT that must read it: 8.6 (the default: what it reads, all read), 10.3 "
        "(JetPack 6.1), 10.x (any 10), 11, or rtx",
    )
    parser.add_argument(
        "--float-conv",
        action="append",
        default=[],
        metavar="NODE=REASON",
        help="a convolution that stays in float on purpose; may be repeated",
    )
    parser.add_argument(
        "--external-data", action="store_true", help="weights may be in another file"
    )
    parser.add_argument(
        "--build", action="store_true", help="ask NVIDIA's builder too (needs tensorrt_rtx)"
    )
    parser.add_argument("--strict", action="store_true", help="warnings end it with status 1 too")
    parser.add_argument("--all", action="store_true", help="write every finding out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--list", action="store_true", help="explain every check, and end")
    parser.add_argument("--markdown", action="store_true", help="with --list: as a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        say(markdown() if args.markdown else explained())
        return 0
    if args.path is None:
        parser.error("give an ONNX file or a bundle folder, or --list")
    if args.build and find_tensorrt(("tensorrt_rtx",)) is None:
        raise ExportError(
            "--build needs TensorRT-RTX; pip install 'tdrl-edge[rtx]' (x86-64, proprietary)"
        )
    request = Request(
        target=args.target,
        float_convs=_listed_convs(args.float_conv),
        allow_external=args.external_data,
        build=args.build,
    )
    reports = _checked(args.path, request)
    if args.json:
        say(json.dumps({"target": args.target, "graphs": [r.to_json() for r in reports]}, indent=2))
    else:
        for report in reports:
            say("\n".join(report_lines(report, sys.maxsize if args.all else MAX_SHOWN)))
    _require_fine(args.path, reports, args.strict)
    if not args.json:
        opsets = TARGETS[request.target].opsets
        say(f"nothing stands against TensorRT {args.target} (opset up to {opsets[-1]})")
    return 0


def _require_fine(path: Path, reports: Sequence[Report], strict: bool) -> None:
    errors = sum(report.count("error") for report in reports)
    warnings = sum(report.count("warning") for report in reports)
    if errors or (strict and warnings):
        raise ExportError(
            f"{path} has {plural(errors, 'error')} and {plural(warnings, 'warning')}; each says "
            "what to do, `python -m export.check --list` why"
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
