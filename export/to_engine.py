"""Build a bundle's engines for this device: `make engine`.

    python -m export.to_engine                                   # artifacts/latest/bundle
    python -m export.to_engine --bundle DIR --precision int8
    python -m export.to_engine --compute-capability SM86 SM89    # RTX, without a GPU too

With TensorRT and a GPU it builds for that GPU, runs the golden check and measures a step; `auto`
does so for every precision and names the fastest that passes. With TensorRT-RTX it builds for
named GPUs and shows what NVIDIA's builder made of each graph. With neither it proves the bundle
with ONNX Runtime. It needs no torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from export.build_log import convs_by_precision, count_kernels, parse_layers
from runtime.artifacts import default_bundle
from runtime.build_progress import StderrBar
from runtime.bundle import GRAPH_OF, Bundle, Precision, load_bundle
from runtime.command import one_line, run_command
from runtime.engine import ANY_GPU, default_engine_dir, engine_for_bundle
from runtime.errors import EngineError, SessionError
from runtime.nvidia import find_tensorrt, is_rtx, library_version
from runtime.plan import BuildSettings, BuiltPlan, capability_name
from runtime.selftest import run_self_test
from runtime.sessions.base import StepSession
from runtime.sessions.cuda_memory import DeviceInfo, cuda_device
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.trt import TrtStepSession

DEFAULT_CAPABILITIES = ("SM86",)  # what TensorRT itself loads for Orin
WARMUP_STEPS = 20
TIMED_STEPS = 100
MAX_NAMED_CONVS = 5


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        bundle: The bundle.
        precisions: Which of its graphs.
        engine_dir: Where engines go.
        settings: Limits, typing and batch rows.
    """

    bundle: Bundle
    precisions: tuple[Precision, ...]
    engine_dir: Path
    settings: BuildSettings


def precisions_of(bundle: Bundle, wanted: str) -> tuple[Precision, ...]:
    """The precisions to build: all that the bundle has for `auto`, else the one.

    Raises:
        BundleError: The bundle has no such graph.
    """
    if wanted == "auto":
        return tuple(name for name, kind in GRAPH_OF.items() if kind in bundle.graphs)
    precision: Precision = "int8" if wanted == "int8" else "float32"
    bundle.graph(GRAPH_OF[precision])
    return (precision,)


def build_here(request: Request, trt: ModuleType, device: DeviceInfo) -> None:
    """Build for the GPU of this machine, prove each engine and measure it.

    Raises:
        EngineError: No engine could be built that passes the golden check.
    """
    step_ms: dict[Precision, float] = {}
    failures: list[str] = []
    for precision in request.precisions:
        try:
            step_ms[precision] = _build_and_measure(request, precision, trt, device)
        except (EngineError, SessionError) as err:
            failures.append(f"{precision}: {one_line(err)}")
            _say(failures[-1])
    if not step_ms:
        raise EngineError("no engine works; " + "; ".join(failures))
    fastest = min(step_ms, key=lambda name: step_ms[name])
    _say(
        f"engines in {request.engine_dir}, fastest: {fastest}; next: "
        f"python runtime/stream.py --camera 0 --precision {fastest}"
    )


def build_for(
    request: Request, trt: ModuleType, capabilities: Sequence[str], device: DeviceInfo | None
) -> None:
    """Build with RTX for named compute capabilities; prove those that run on this machine."""
    for capability in capabilities:
        name = capability_name(capability)
        target = DeviceInfo(ANY_GPU, f"{name[2:-1]}.{name[-1]}")
        for precision in request.precisions:
            plan_path = _build(request, precision, trt, target)
            if device is not None and device.compute_capability == target.compute_capability:
                _prove(request.bundle, precision, plan_path, trt)
    _say(f"engines in {request.engine_dir}; copy the bundle and run `make engine` on the device")


def verify_without_nvidia(request: Request) -> None:
    """Prove the bundle's graphs with ONNX Runtime.

    Raises:
        SessionError: A graph does not give its golden logits.
    """
    _say("no TensorRT here: no engine is built; checking the bundle with ONNX Runtime instead")
    for precision in request.precisions:
        with OrtStepSession(request.bundle, precision, phases=2) as session:
            _self_test(request.bundle, session, precision)
    _say(f"{request.bundle.folder} is good; copy it and run `make engine` on the device")


def _build_and_measure(
    request: Request, precision: Precision, trt: ModuleType, device: DeviceInfo
) -> float:
    plan_path = _build(request, precision, trt, device)
    return _prove(request.bundle, precision, plan_path, trt)


def _build(request: Request, precision: Precision, trt: ModuleType, device: DeviceInfo) -> Path:
    built: list[BuiltPlan] = []
    title = f"{precision} for {device.name} {capability_name(device.compute_capability)}"
    with StderrBar(f"building {title}") as bar:
        plan_path = engine_for_bundle(
            request.bundle,
            precision,
            request.engine_dir,
            trt=trt,
            device=device,
            settings=request.settings,
            on_progress=bar,
            on_built=built.append,
        )
    verdict = built_verdict(built[0]) if built else "from the cache"
    _say(f"{title}, {library_version(trt)}: {verdict}; {plan_path.name}")
    return plan_path


def built_verdict(built: BuiltPlan) -> str:
    """What the builder made of a graph, on one line."""
    layers = parse_layers(built.messages)
    size = f"{len(built.plan) / 1e6:.1f} MB in {built.build_s:.1f} s"
    if not layers:
        return f"{size}, no layer table"
    int8, others = convs_by_precision(layers)
    text = f"{size}, {count_kernels(layers)} kernels, "
    text += f"{len(int8)} of {len(int8) + len(others)} convolutions on INT8"
    if int8 and others:
        more = ", ..." if len(others) > MAX_NAMED_CONVS else ""
        text += f" (float: {', '.join(others[:MAX_NAMED_CONVS])}{more})"
    return text


def _prove(bundle: Bundle, precision: Precision, plan_path: Path, trt: ModuleType) -> float:
    """Golden check and median step time in milliseconds."""
    kind = GRAPH_OF[precision]
    with TrtStepSession(bundle, plan_path, graph_kind=kind, phases=2, trt=trt) as session:
        _self_test(bundle, session, precision)
        step_ms = median_step_ms(session, bundle)
        _say(f"{session.description}: a step takes {step_ms:.2f} ms (median)")
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
    _say(f"golden check passed: {session.description}, SQNR {result.sqnr_db:.0f} dB")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the command's result


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its status."""
    args = _parser().parse_args(argv)
    bundle = load_bundle(args.bundle or default_bundle())
    request = Request(
        bundle=bundle,
        precisions=precisions_of(bundle, args.precision),
        engine_dir=args.engine_dir or default_engine_dir(),
        settings=BuildSettings(
            workspace_mb=args.workspace_mb,
            strongly_typed=args.typing == "strong",
            num_streams=args.streams,
        ),
    )
    device = cuda_device()
    trt = find_tensorrt(("tensorrt_rtx",) if device is None else ("tensorrt", "tensorrt_rtx"))
    if trt is None:
        verify_without_nvidia(request)
    elif is_rtx(trt):
        own = () if device is None else (device.compute_capability,)
        build_for(request, trt, args.compute_capability or own or DEFAULT_CAPABILITIES, device)
    elif device is not None:
        build_here(request, trt, device)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.to_engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, help="bundle folder (artifacts/latest/bundle)")
    parser.add_argument("--precision", choices=("auto", "int8", "float32"), default="auto")
    parser.add_argument("--engine-dir", type=Path, help=f"({default_engine_dir()})")
    parser.add_argument(
        "--compute-capability", nargs="+", metavar="SM86", help="TensorRT-RTX: GPUs to build for"
    )
    parser.add_argument(
        "--workspace-mb", type=int, default=512, help="limit of scratch memory (%(default)s)"
    )
    parser.add_argument("--streams", type=int, help="batch rows N (the bundle's)")
    parser.add_argument(
        "--typing",
        choices=("strong", "weak"),
        default="strong",
        help="weak: fallback for TensorRT 8 and 10 (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
