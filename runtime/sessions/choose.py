"""Which engine runs a bundle on this machine, in which precision, and why."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.errors import SessionError
from runtime.nvidia import find_tensorrt, why_no_tensorrt
from runtime.sampling import default_phases
from runtime.sessions.base import StepSession
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession, has_openvino

Backend: TypeAlias = Literal["ort", "openvino", "tensorrt", "tensorrt_rtx"]

BACKENDS: tuple[Backend, ...] = ("ort", "openvino", "tensorrt", "tensorrt_rtx")
CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionChoice:
    """An engine, a precision and the reason for both."""

    backend: Backend
    precision: Precision
    reason: str


def choose_session(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> SessionChoice:
    """Choose what runs a bundle.

    Args:
        bundle: A loaded bundle.
        backend: `auto`, or one of `BACKENDS`. `auto` takes TensorRT where there is an NVIDIA GPU,
            and never the CPU there; elsewhere OpenVINO where it is installed, else ONNX Runtime.
        precision: `auto`, `float32`, `float16` or `int8`. `auto` takes INT8 where the bundle has
            it, else float16 for TensorRT and float32 on a CPU. With ONNX Runtime it takes float32:
            that computes INT8 graphs in float, slower (docs/measurements/sessions.md).

    Raises:
        ValueError: A name that is not known.
        BundleError: The bundle has no graph of that precision.
        SessionError: A GPU is here and no TensorRT for it.
    """
    chosen, why_backend = _choose_backend(backend)
    level, why_precision = _choose_precision(bundle, chosen, precision)
    return SessionChoice(chosen, level, f"{why_backend}; {level} {why_precision}")


def open_session(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    phases: int | None = None,
    *,
    num_streams: int = 1,
    threads: int | None = None,
    engine_dir: Path | None = None,
) -> StepSession:
    """Open a session, and log what was chosen and why.

    Args:
        bundle: A loaded bundle.
        backend: See `choose_session`.
        precision: See `choose_session`.
        phases: Sets of states; None for the fewest that decide four times a second.
        num_streams: Sources that step together: rows of the batch.
        threads: Threads of a step on the CPU; the engine's own choice where it is None.
        engine_dir: Where TensorRT engines are kept; the user's cache folder where it is None.

    Raises:
        ValueError: An argument out of range.
        BundleError: The bundle lacks the graph, or the graph does not fit it.
        EngineError: A TensorRT engine cannot be built or trusted.
        SessionError: The engine is missing or refuses the graph.
    """
    choice = choose_session(bundle, backend, precision)
    return open_chosen(
        bundle, choice, phases, num_streams=num_streams, threads=threads, engine_dir=engine_dir
    )


def open_chosen(
    bundle: Bundle,
    choice: SessionChoice,
    phases: int | None = None,
    *,
    num_streams: int = 1,
    threads: int | None = None,
    engine_dir: Path | None = None,
) -> StepSession:
    """Open what `choose_session` chose; see `open_session` for the rest."""
    count = default_phases(bundle.sampling) if phases is None else phases
    if choice.backend == "ort":
        session: StepSession = OrtStepSession(
            bundle, choice.precision, count, threads, num_streams=num_streams
        )
    elif choice.backend == "openvino":
        session = OvStepSession(bundle, choice.precision, count, threads, num_streams=num_streams)
    else:
        session = _open_tensorrt(bundle, choice, count, num_streams, engine_dir)
    together = "" if num_streams == 1 else f", {num_streams} streams together"
    logger.info("%s (%s), %d phase(s)%s", session.description, choice.reason, count, together)
    return session


def has_nvidia_gpu() -> bool:
    """Whether NVIDIA's driver is here and counts at least one GPU."""
    for name in CUDA_LIBRARIES:
        try:
            cuda = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return False


def _choose_backend(backend: str) -> tuple[Backend, str]:
    if backend in BACKENDS:
        return backend, f"{backend} asked for"
    if backend != "auto":
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    if not has_nvidia_gpu():
        if has_openvino():
            return "openvino", "no NVIDIA GPU here"
        return "ort", "no NVIDIA GPU here, openvino is not installed"
    for name in ("tensorrt", "tensorrt_rtx"):
        if find_tensorrt((name,)) is not None:
            return name, "NVIDIA GPU here"
    raise SessionError(
        f"an NVIDIA GPU is here and no TensorRT for it: {why_no_tensorrt()}; or pass --backend ort "
        "to run on the CPU"
    )


def _choose_precision(bundle: Bundle, backend: Backend, precision: str) -> tuple[Precision, str]:
    if precision == "auto":
        return _fastest_precision(bundle, backend)
    for level, kind in GRAPH_OF.items():
        if level == precision:
            bundle.graph(kind)
            return level, "asked for"
    raise ValueError(f"precision must be auto, {', '.join(GRAPH_OF)}, got {precision!r}")


def _fastest_precision(bundle: Bundle, backend: Backend) -> tuple[Precision, str]:
    if backend == "ort":
        return "float32", "is its fastest"
    if "step_int8" in bundle.graphs:
        return "int8", "is its fastest"
    if backend != "openvino" and "step_fp16" in bundle.graphs:
        return "float16", "is the fastest in this bundle"
    return "float32", "is the fastest in this bundle"


def _open_tensorrt(
    bundle: Bundle,
    choice: SessionChoice,
    phases: int,
    num_streams: int,
    engine_dir: Path | None,
) -> StepSession:
    """The bundle's engine, built first where there is no valid one."""
    from runtime.build_progress import StderrBar
    from runtime.engine import engine_for_bundle
    from runtime.plan import BuildSettings
    from runtime.sessions.cuda_memory import require_cuda_device
    from runtime.sessions.trt import TrtStepSession

    trt = find_tensorrt((choice.backend,))
    if trt is None:
        raise SessionError(f"{why_no_tensorrt(choice.backend)}; or pass --backend ort")
    device = require_cuda_device()
    with StderrBar("build engine") as progress:
        plan_path = engine_for_bundle(
            bundle,
            choice.precision,
            engine_dir,
            trt=trt,
            device=device,
            settings=BuildSettings(num_streams=num_streams),
            on_progress=progress,
        )
    kind = GRAPH_OF[choice.precision]
    return TrtStepSession(bundle, plan_path, graph_kind=kind, phases=phases, trt=trt)
