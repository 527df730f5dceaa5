"""Build a bundle's engines for this device: `make engine`.

    python -m export.to_engine                                   # artifacts/latest/bundle
    python -m export.to_engine --bundle DIR --precision int8
    python -m export.to_engine --prebuild --streams 1 4          # build all of them, nothing else
    python -m export.to_engine --list                            # what is there, what fits
    python -m export.to_engine --compute-capability SM86 SM89    # RTX, without a GPU too

With TensorRT and a GPU it builds for that GPU, runs the golden check and measures a step; `auto`
does so for every precision and names the fastest that passes. With TensorRT-RTX it builds for
named GPUs and shows what NVIDIA's builder made of each graph. Beside each engine lies its layer
table, `.layers.md`: what runs on INT8, what does not, and why. Without an NVIDIA GPU and without
RTX it proves the bundle with ONNX Runtime. It needs no torch.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.engines.build_log import convs_by_precision, count_kernels, parse_layers
from export.engines.jobs import Job, Request, Target, jobs_of, targets_here
from export.engines.layer_table import layer_files, layer_table, write_layers
from export.engines.listing import list_engines
from runtime.artifacts import default_bundle
from runtime.build_progress import StderrBar
from runtime.bundle import GRAPH_OF, Bundle, Precision, load_bundle
from runtime.command import one_line, run_command, say
from runtime.engine import EngineKey, default_engine_dir, engine_for_bundle, engine_key
from runtime.errors import EngineError, SessionError
from runtime.nvidia import library_version, why_no_tensorrt
from runtime.plan import BuildSettings, BuiltPlan, capability_name, typings
from runtime.selftest import run_self_test
from runtime.sessions.base import StepSession
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.trt import TrtStepSession

WARMUP_STEPS = 20
TIMED_STEPS = 100
MAX_NAMED_CONVS = 5


def precisions_of(bundle: Bundle, wanted: str) -> tuple[Precision, ...]:
    """The precisions to build: all that the bundle has for `auto`, else the one.

    Raises:
        BundleError: The bundle has no such graph.
    """
    if wanted == "auto":
        return tuple(name for name, kind in GRAPH_OF.items() if kind in bundle.graphs)
    (precision,) = (name for name in GRAPH_OF if name == wanted)
    bundle.graph(GRAPH_OF[precision])
    return (precision,)


def build_all(request: Request, targets: Sequence[Target]) -> None:
    """Build all engines and nothing else: `--prebuild`.

    Raises:
        EngineError: Some could not be built; the others are.
    """
    jobs = jobs_of(request, targets)
    failures: list[str] = []
    for job in jobs:
        try:
            _build(request, job, len(targets))
        except EngineError as err:
            failures.append(f"{job}: {one_line(err)}")
            say(failures[-1])
    if failures:
        raise EngineError(f"{len(failures)} of {len(jobs)} engines not built: {failures[0]}")
    say(f"{len(jobs)} engines in {request.engine_dir}")


def build_and_prove(request: Request, targets: Sequence[Target]) -> None:
    """Build, and where an engine runs on this machine prove and measure it.

    Raises:
        EngineError: No engine could be built that passes the golden check.
        SessionError: The only engine does not run.
    """
    step_ms: dict[Job, float] = {}
    failures: list[str] = []
    for job in jobs_of(request, targets):
        try:
            plan_path = _build(request, job, len(targets))
            if job.target.is_here:
                step_ms[job] = _prove(request.bundle, job, plan_path)
        except (EngineError, SessionError) as err:
            if not job.target.is_here:
                raise
            failures.append(f"{job}: {one_line(err)}")
            say(failures[-1])
    if failures and not step_ms:
        raise EngineError("no engine works; " + "; ".join(failures))
    where = f"engines in {request.engine_dir}"
    if not step_ms:
        say(f"{where}; copy the bundle and run `make engine` on the device")
        return
    fastest = min(step_ms, key=lambda job: step_ms[job] / (job.num_streams or 1))
    say(
        f"{where}, fastest: {fastest.precision}; next: "
        f"python runtime/stream.py --camera 0 --precision {fastest.precision}"
    )


def list_all(request: Request, targets: Sequence[Target]) -> None:
    """Print every engine in the folder, and whether it fits this bundle and this machine."""
    wanted = [key for job in jobs_of(request, targets) for key in _keys(request, job)]
    engines = list_engines(request.engine_dir, wanted)
    for engine in engines:
        say(str(engine))
    fitting = sum(not engine.refusals for engine in engines)
    say(
        f"{len(engines)} engines in {request.engine_dir}, {fitting} fit the bundle and this machine"
    )


def verify_without_nvidia(request: Request) -> None:
    """Prove the bundle's graphs with ONNX Runtime.

    Raises:
        SessionError: A graph does not give its golden logits.
    """
    say("no TensorRT here: no engine is built; checking the bundle with ONNX Runtime instead")
    for precision in request.precisions:
        with OrtStepSession(request.bundle, precision, phases=2) as session:
            _self_test(request.bundle, session, precision)
    say(f"{request.bundle.folder} is good; copy it and run `make engine` on the device")


def _keys(request: Request, job: Job) -> list[EngineKey]:
    """What an engine of this job may have been built as."""
    settings = replace(request.settings, num_streams=job.num_streams)
    trt, device = job.target.trt, job.target.device
    key = engine_key(request.bundle, job.precision, trt, device, settings=settings)
    return [replace(key, strongly_typed=typed) for typed in typings(trt, settings.typing)]


def _build(request: Request, job: Job, num_targets: int) -> Path:
    trt = job.target.trt
    verdict = "from the cache"

    def describe(path: Path, built: BuiltPlan) -> None:
        nonlocal verdict
        verdict = built_verdict(built)
        write_layers(layer_table(built, request.bundle, job.precision, path.name), path)

    with StderrBar(f"building {job}") as bar:
        plan_path = engine_for_bundle(
            request.bundle,
            job.precision,
            request.engine_dir,
            trt=trt,
            device=job.target.device,
            settings=replace(request.settings, num_streams=job.num_streams),
            on_progress=bar,
            on_built=describe,
        )
    say(f"{job}, {library_version(trt)}: {verdict}; {plan_path.name}")
    if request.layers is not None:
        _copy_layers(request, job, plan_path, num_targets)
    return plan_path


def _copy_layers(request: Request, job: Job, plan_path: Path, num_targets: int) -> None:
    """Copy an engine's table to where the user wants it; several engines need several names."""
    if request.layers is None:
        return
    own_name = len(request.precisions) * len(request.streams) * num_targets == 1
    words = [job.precision, *([] if job.num_streams is None else [f"n{job.num_streams}"])]
    if num_targets > 1:
        words.append(capability_name(job.target.device.compute_capability).lower())
    stem = request.layers.stem if own_name else "-".join([request.layers.stem, *words])
    sources = layer_files(plan_path)
    if not all(source.is_file() for source in sources):  # the runtime builds without `export`
        say(
            f"warning: no layer table beside {plan_path}, `make engine` did not build it; to get "
            "one delete the engine and run this again"
        )
        return
    for source in sources:
        target = request.layers.with_name(stem + source.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        say(f"layer table: {target}")


def built_verdict(built: BuiltPlan) -> str:
    """What the builder made of a graph, on one line."""
    layers = parse_layers(built.messages)
    size = f"{len(built.plan) / 1e6:.1f} MB in {built.build_s:.1f} s"
    if not built.strongly_typed:
        size += ", weakly typed"
    if not layers:
        return f"{size}, no layer table"
    int8, others = convs_by_precision(layers)
    text = f"{size}, {count_kernels(layers)} kernels, "
    text += f"{len(int8)} of {len(int8) + len(others)} convolutions on INT8"
    if int8 and others:
        more = ", ..." if len(others) > MAX_NAMED_CONVS else ""
        text += f" (float: {', '.join(others[:MAX_NAMED_CONVS])}{more})"
    return text


def _prove(bundle: Bundle, job: Job, plan_path: Path) -> float:
    """Golden check and median step time in milliseconds."""
    kind = GRAPH_OF[job.precision]
    trt = job.target.trt
    with TrtStepSession(bundle, plan_path, graph_kind=kind, phases=2, trt=trt) as session:
        _self_test(bundle, session, job.precision)
        step_ms = median_step_ms(session, bundle)
        say(f"{session.description}: a step takes {step_ms:.2f} ms (median)")
    return step_ms


def median_step_ms(session: StepSession, bundle: Bundle) -> float:
    """Median duration of a step after a warm-up, in milliseconds."""
    rule = bundle.picture
    frames = np.zeros((session.num_streams, rule.height_px, rule.width_px, 3), np.uint8)
    reset = np.zeros((session.num_streams, 1), np.float32)
    times_ns = []
    for _ in range(WARMUP_STEPS + TIMED_STEPS):
        start_ns = time.monotonic_ns()
        session.step(0, frames, reset)
        times_ns.append(time.monotonic_ns() - start_ns)
    return statistics.median(times_ns[WARMUP_STEPS:]) / 1e6


def _self_test(bundle: Bundle, session: StepSession, precision: Precision) -> None:
    result = run_self_test(bundle, session, precision)
    say(f"golden check passed: {session.description}, SQNR {result.sqnr_db:.0f} dB")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    args = _parser().parse_args(argv)
    bundle = load_bundle(args.bundle or default_bundle())
    request = Request(
        bundle=bundle,
        precisions=precisions_of(bundle, args.precision),
        engine_dir=args.engine_dir or default_engine_dir(),
        settings=BuildSettings(workspace_mb=args.workspace_mb, typing=args.typing),
        streams=tuple(dict.fromkeys(args.streams or (None,))),
        layers=args.layers,
    )
    targets = targets_here(args.compute_capability)
    if args.list:
        list_all(request, targets)
    elif args.prebuild:
        if not targets:
            raise EngineError(f"nothing can be built here: {why_no_tensorrt()}")
        build_all(request, targets)
    elif targets:
        build_and_prove(request, targets)
    else:
        verify_without_nvidia(request)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.to_engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (artifacts/latest/bundle)")
    parser.add_argument("--precision", choices=("auto", *reversed(tuple(GRAPH_OF))), default="auto")
    parser.add_argument("--engine-dir", type=Path, help=f"({default_engine_dir()})")
    parser.add_argument(
        "--compute-capability", nargs="+", metavar="SM86", help="TensorRT-RTX: GPUs to build for"
    )
    parser.add_argument(
        "--streams", type=int, nargs="+", metavar="N", help="batch rows, an engine each (bundle's)"
    )
    parser.add_argument(
        "--workspace-mb",
        type=int,
        help="limit of scratch memory (a sixteenth of the memory, 256 ... 2048)",
    )
    parser.add_argument(
        "--typing",
        choices=("auto", "strong", "weak"),
        default="auto",
        help="auto: strong, and weak where TensorRT 8 or 10 fails at strong (%(default)s)",
    )
    parser.add_argument("--layers", type=Path, metavar="FILE", help="copy the layer table there")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--prebuild", action="store_true", help="build every engine, then end")
    group.add_argument("--list", action="store_true", help="show the engines and what fits")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
