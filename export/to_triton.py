"""Write a bundle as a Triton model repository: the server keeps the states of each camera.

    python -m export.to_triton artifacts/latest/bundle --out repository
    python -m export.to_triton BUNDLE --out repository --precision int8 --sequences 16
    python -m export.to_triton BUNDLE --out repository --engine PLAN    # of `make engine`

    repository/README.md                what a client does, with an example
    repository/export.json              what it was made of
    repository/NAME_step/config.pbtxt   inputs, outputs, states
    repository/NAME_step/labels.txt
    repository/NAME_step/1/model.onnx   or model.plan

An ONNX file gets an open number of rows, so that cameras share a batch; the golden frames prove it
before anything is written. A plan keeps its one row. The folder is written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from export.bundle_folder import whole_folder
from export.proof.golden import ROWS, judge_run, run_golden
from export.triton.config import (
    LABELS_FILE,
    PLAN_SERVED,
    Served,
    config_text,
    labels_text,
    model_name,
    onnx_served,
)
from export.triton.open_rows import OpenRowsSession
from export.triton.readme import readme_text
from runtime.artifacts import default_bundle
from runtime.batch_rows import with_open_rows
from runtime.bundle import GRAPH_OF, Bundle, Precision, load_bundle, load_golden
from runtime.command import run_command, say
from runtime.engine import load_engine
from runtime.errors import BundleError, EngineError, ExportError
from runtime.files import write_json
from runtime.selftest import stored_logits

README, MANIFEST = "README.md", "export.json"
MADE_BY = "export.to_triton"
SEQUENCES = 8
PROVEN_ROWS = 2
TENSORRT = "tensorrt "  # and not `tensorrt_rtx`, which Triton has no backend for


@dataclass(frozen=True)
class Model:
    """What the server loads.

    Attributes:
        data: The file's bytes.
        precision: Which graph they came from.
        served: How they are served.
        needs: What the server must have for it, for people.
    """

    data: bytes
    precision: Precision
    served: Served
    needs: str


def write_repository(bundle: Bundle, model: Model, out: Path, sequences: int) -> Path:
    """Write the repository; an earlier one of this command is replaced.

    Args:
        bundle: The bundle.
        model: The model file, of `onnx_model` or `plan_model`.
        out: The repository's folder.
        sequences: Sequences that the server keeps at once.

    Returns:
        The model's folder in it.

    Raises:
        ExportError: The folder holds something else, or the states cannot be served.
        OSError: The folder cannot be written.
    """
    kind, name = GRAPH_OF[model.precision], model_name(bundle)
    config = config_text(bundle, kind, model.served, sequences)
    readme = readme_text(bundle, model.precision, model.served, sequences, model.needs)
    require_own(out)
    with whole_folder(out) as folder:
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / model.served.file).write_bytes(model.data)
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
        (folder / name / LABELS_FILE).write_text(labels_text(bundle), encoding="utf-8")
        (folder / README).write_text(readme, encoding="utf-8")
        write_json(
            folder / MANIFEST,
            {
                "made_by": MADE_BY,
                "model": name,
                "bundle": bundle.name,
                "precision": model.precision,
                "graph_sha256": bundle.sha256[bundle.graph(kind).file],
                "sampling": bundle.sampling.to_json(),
                "picture": bundle.picture.to_json(),
                "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        )
    return out / name


def require_own(out: Path) -> None:
    """Refuse a folder that this command did not write, or that got something else since.

    Raises:
        ExportError: It holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        own = {README, MANIFEST, manifest["model"]} if manifest["made_by"] == MADE_BY else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    others = sorted({path.name for path in out.iterdir()} - own) if out.is_dir() else [out.name]
    if others:
        raise ExportError(
            f"{out} holds {others[0]}, which is not of an earlier {MADE_BY}; choose another --out"
        )


def onnx_model(bundle: Bundle, precision: Precision, sequences: int) -> Model:
    """The bundle's step graph with an open number of rows, proven on the golden frames.

    Raises:
        BundleError: The bundle has no such graph, or no golden logits for it.
        ExportError: The graph does not take several rows, or mixes them.
    """
    kind = GRAPH_OF[precision]
    data = with_open_rows(bundle.graph_path(kind).read_bytes())
    golden = load_golden(bundle)
    with OpenRowsSession(data, bundle.graph(kind).states, PROVEN_ROWS) as session:
        run = run_golden(session, golden, ROWS)
    verdict = judge_run(run, stored_logits(bundle, golden, precision), precision)
    if not verdict.passed:
        raise ExportError(
            f"{bundle.graph_path(kind)} with {PROVEN_ROWS} rows does not give its golden logits: "
            f"SQNR {verdict.sqnr_db:.1f} dB, needed {verdict.lowest_db:g}; export the bundle again"
        )
    needs = "It needs Triton's onnxruntime backend."
    return Model(data, precision, onnx_served(sequences), needs)


def plan_model(bundle: Bundle, path: Path, precision: Precision | None) -> Model:
    """A plan from the engine cache, checked against its sidecar and the bundle.

    Args:
        bundle: The bundle that it must have been built from.
        path: The plan.
        precision: What it must have been built from; None takes what it was.

    Raises:
        EngineError: The plan cannot be trusted, or was built from another graph.
        ExportError: Triton cannot serve it.
    """
    engine = load_engine(path)
    key = engine.key
    if not key.library.startswith(TENSORRT):
        raise ExportError(
            f"{path} was built by {key.library}; Triton loads plans of TensorRT only: build one "
            "with `make engine` where `tensorrt` is installed"
        )
    if precision is not None and key.precision != precision:
        raise EngineError(f"{path} was built from the {key.precision} graph, not {precision}")
    if key.graph_sha256 != bundle.sha256[bundle.graph(GRAPH_OF[key.precision]).file]:
        raise EngineError(
            f"{path} was built from another bundle's {key.precision} graph, or an older one; "
            "run `make engine`"
        )
    if key.num_streams != 1:
        raise ExportError(
            f"{path} was built for {key.num_streams} streams; a plan's rows are fixed and a server "
            "has fewer cameras in a batch at times: build it with --streams 1"
        )
    needs = (
        f"It needs Triton's tensorrt backend with {key.library.replace('tensorrt', 'TensorRT')}"
        f" and the GPU {key.gpu} (compute capability {key.compute_capability}): a plan runs with "
        "exactly these."
    )
    return Model(engine.plan, key.precision, PLAN_SERVED, needs)


def require_streaming(bundle: Bundle) -> None:
    """Refuse a bundle whose model needs whole clips.

    Raises:
        BundleError: It has a form other than causal.
    """
    form = bundle.model.get("form", "causal")
    if form != "causal":
        raise BundleError(
            f"{bundle.folder} holds a {form} model, which needs whole clips; train it with "
            "form=causal to serve frames"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(argv)
    if args.sequences < 1:
        raise ValueError(f"--sequences must be >= 1, got {args.sequences}")
    bundle = load_bundle(args.bundle or default_bundle())
    require_streaming(bundle)
    require_own(args.out)
    if args.engine is None:
        model = onnx_model(bundle, args.precision or "float32", args.sequences)
    else:
        model = plan_model(bundle, args.engine, args.precision)
    folder = write_repository(bundle, model, args.out, args.sequences)
    say(f"{folder}: {model.precision}, {len(model.data) / 1e6:.1f} MB, {args.sequences} sequences")
    say(f"next: tritonserver --model-repository={args.out}; clients: {args.out / README}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.to_triton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", help="bundle folder (artifacts/latest/bundle)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the repository: new, empty, or an earlier one"
    )
    parser.add_argument("--precision", choices=tuple(GRAPH_OF), help="float32, or the engine's")
    parser.add_argument(
        "--engine", type=Path, metavar="PLAN", help="serve this TensorRT plan instead of ONNX"
    )
    parser.add_argument(
        "--sequences",
        type=int,
        default=SEQUENCES,
        help="cameras times phases at once, and rows of an ONNX batch (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
