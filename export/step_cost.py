"""What streaming saves and what TDRL costs: step against clip, TDRL against plain, INT8, float.

    python -m export.step_cost --bundle artifacts/latest/bundle
    python -m export.step_cost --backbone resnet18 --size 112
    python -m export.step_cost --ratios resnet18:224 resnet50:224 --json step-graph.json
    python -m export.step_cost --sessions resnet18:112 --json sessions.json

Step against clip: both graphs run in ONNX Runtime on one thread in turn, step, clip, step, clip, …;
the ratio is taken pair by pair, so that a machine whose speed drifts does not matter. `--ratios`:
one step of TDRL and of the plain backbone, float and INT8, in ONNX Runtime and OpenVINO
(step_ratios.py); kernels in NVIDIA's build where `tensorrt_rtx` is installed. `--sessions`: the
runtime's sessions on a CPU against one another, on a bundle and these backbones (session_cost.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from export.step_engines import ENGINES, Engine
from runtime.artifacts import default_bundle
from runtime.bundle import CLIP_INPUT, FRAME_INPUT, RESET_INPUT, StateSpec, load_bundle
from runtime.command import run_command, say
from runtime.files import write_json
from runtime.machine import measured_on
from runtime.preprocess import PictureRule

PAIRS = 60
LIBRARIES = ("onnxruntime", "openvino", "onnx", "numpy", "torch", "tensorrt_rtx_cu13")
WARM_UP = 8
SEGMENTS = 8


@dataclass(frozen=True)
class StepCost:
    """Median times and their ratio.

    Attributes:
        name: What was measured.
        pairs: Pairs of runs.
        step_ms: Median time of one step, float32, one thread.
        clip_ms: Median time of one clip of T frames.
        ratio: Median over pairs of step ÷ clip.
        ratio_low: 10th percentile of the same.
        ratio_high: 90th percentile of the same.
    """

    name: str
    pairs: int
    step_ms: float
    clip_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def to_json(self) -> dict[str, Any]:
        """The numbers for a report."""
        return asdict(self)


def measure(
    name: str, step: Path, clip: Path, states: Sequence[StateSpec], *, pairs: int = PAIRS
) -> StepCost:
    """Time a step graph against a clip graph of the same model.

    Args:
        name: What it is, for people.
        step: The float step graph.
        clip: The clip graph.
        states: The step graph's states.
        pairs: Pairs of runs, >= 1.
    """
    run_step, run_clip = _step_runner(step, states), _clip_runner(clip)
    for _ in range(WARM_UP):
        run_step()
        run_clip()
    times = np.array([(_ms(run_step), _ms(run_clip)) for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    step_ms, clip_ms = np.median(times, axis=0)
    return StepCost(
        name, pairs, float(step_ms), float(clip_ms), float(middle), float(low), float(high)
    )


def measure_backbone(backbone: str, size_px: int, *, pairs: int = PAIRS) -> StepCost:
    """Time a backbone with PEM and TSM, 8 frames, random weights: cost does not depend on them.

    Args:
        backbone: Name of the backbone.
        size_px: Height and width of its input.
        pairs: Pairs of runs, >= 1.
    """
    from export.to_onnx import clip_onnx_from_model, step_onnx_from_model
    from train.model.tdrl import ModelConfig, Tdrl

    model = Tdrl(ModelConfig(backbone=backbone, num_classes=13)).eval()
    picture = PictureRule(height_px=size_px, width_px=size_px)
    with tempfile.TemporaryDirectory() as folder:
        step, clip = Path(folder) / "step.onnx", Path(folder) / "clip.onnx"
        states = step_onnx_from_model(model, picture, step)
        clip_onnx_from_model(model, picture, SEGMENTS, clip)
        return measure(f"{backbone} at {size_px}", step, clip, states, pairs=pairs)


def measure_ratios(
    cases: Sequence[tuple[str, int]], engines: Sequence[Engine], *, rounds: int
) -> dict[str, Any]:
    """Time TDRL against its plain backbone and INT8 against float; count NVIDIA's kernels.

    Args:
        cases: Backbones and sizes.
        engines: What runs them.
        rounds: Rounds, >= 1.

    Returns:
        The numbers for a report, tables for people (`markdown`) among them.

    Raises:
        ExportError: An engine is not installed, or NVIDIA's builder refuses a graph.
    """
    from export.step_ratios import (
        as_markdown,
        kernel_counts,
        kernels_as_markdown,
        step_ratios,
        write_graphs,
    )

    rows, kernels = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for backbone, size_px in cases:
            files = write_graphs(backbone, size_px, Path(folder))
            # first: it refuses graphs that minutes of timing would be wasted on
            counts = None if backbone in kernels else kernel_counts(files)
            if counts is not None:
                kernels[backbone] = counts
            rows += [step_ratios(backbone, size_px, each, files, rounds=rounds) for each in engines]
    tables = [as_markdown(rows), *([kernels_as_markdown(kernels)] if kernels else [])]
    return {
        "measured": measured_on(LIBRARIES),
        "rows": [row.to_json() for row in rows],
        "kernels": kernels,
        "markdown": "\n\n".join(tables),
    }


def measure_sessions(
    bundles: Sequence[Path], cases: Sequence[tuple[str, int]], *, rounds: int
) -> dict[str, Any]:
    """Time the runtime's sessions on a CPU against one another.

    Args:
        bundles: Bundle folders.
        cases: Backbones and sizes.
        rounds: Rounds, >= 1.

    Returns:
        The numbers for a report, a table for people (`markdown`) among them.

    Raises:
        BundleError: A bundle cannot be used.
        SessionError: An engine is not installed.
    """
    from export.session_cost import as_markdown, backbone_bundle, session_costs

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = [load_bundle(path) for path in bundles]
        made = [backbone_bundle(*case, Path(folder)) for case in cases]
        for bundle in (*loaded, *made):
            rows += session_costs(bundle, rounds=rounds)
    return {
        "measured": measured_on(LIBRARIES),
        "rows": [row.to_json() for row in rows],
        "markdown": as_markdown(rows),
    }


def _session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _step_runner(path: Path, states: Sequence[StateSpec]) -> Callable[[], object]:
    session = _session(path)
    shape = next(value.shape for value in session.get_inputs() if value.name == FRAME_INPUT)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, shape, dtype=np.uint8)
    reset = np.zeros((shape[0], 1), np.float32)
    carried = {state.name_in: np.zeros(state.shape, np.float32) for state in states}

    def run() -> None:
        found = session.run(None, {FRAME_INPUT: frame, RESET_INPUT: reset, **carried})
        carried.update(zip((state.name_in for state in states), found[1:], strict=True))

    return run


def _clip_runner(path: Path) -> Callable[[], object]:
    session = _session(path)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, session.get_inputs()[0].shape, dtype=np.uint8)
    return lambda: session.run(None, {CLIP_INPUT: clip})


def _ms(run: Callable[[], object]) -> float:
    started_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started_ns) / 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.step_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, help="bundle to measure (default: the newest)")
    parser.add_argument("--backbone", help="measure this backbone instead of a bundle")
    parser.add_argument("--size", type=int, default=224, help="its input's height and width")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs or rounds of runs")
    parser.add_argument(
        "--ratios",
        nargs="+",
        type=parse_case,
        metavar="BACKBONE:SIZE",
        help="TDRL against plain and INT8 against float, for these",
    )
    parser.add_argument(
        "--engine", nargs="+", choices=ENGINES, default=ENGINES, help="of --ratios (default: all)"
    )
    parser.add_argument(
        "--sessions",
        nargs="*",
        type=parse_case,
        metavar="BACKBONE:SIZE",
        help="the runtime's sessions against one another, on these or on --bundle, or on both",
    )
    parser.add_argument(
        "--json", type=Path, help="of --ratios and --sessions: write the numbers here too"
    )
    return parser


def parse_case(text: str) -> tuple[str, int]:
    """A backbone and a size.

    Example:
        >>> parse_case("resnet18:224")
        ('resnet18', 224)
    """
    backbone, _, size = text.partition(":")
    if not size.isdecimal() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"must be BACKBONE:SIZE, as resnet18:224, got {text!r}")
    return backbone, int(size)


def _print_tables(options: argparse.Namespace) -> None:
    if options.ratios:
        found = measure_ratios(options.ratios, options.engine, rounds=options.pairs)
    else:
        given = [] if options.bundle is None else [options.bundle]
        bundles = given if given or options.sessions else [default_bundle()]
        found = measure_sessions(bundles, options.sessions, rounds=options.pairs)
    if options.json is not None:
        write_json(options.json, found)
    say(found["markdown"])
    say(f"\n{found['measured']}")


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.step_cost`."""
    options = _parser().parse_args(argv)
    if options.pairs < 1:
        raise ValueError(f"--pairs must be >= 1, got {options.pairs}")
    if options.ratios or options.sessions is not None:
        _print_tables(options)
        return
    if options.backbone:
        cost = measure_backbone(options.backbone, options.size, pairs=options.pairs)
    else:
        bundle = load_bundle(options.bundle or default_bundle())
        graphs = (bundle.graph_path("step"), bundle.graph_path("clip"))
        cost = measure(bundle.name, *graphs, bundle.graph("step").states, pairs=options.pairs)
    say(json.dumps(cost.to_json(), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
