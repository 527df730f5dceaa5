"""What `make engine` has to build: every precision, number of streams and GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle, Precision
from runtime.engine import ANY_GPU
from runtime.errors import EngineError
from runtime.nvidia import find_tensorrt, is_rtx, why_no_tensorrt
from runtime.nvidia_types import TensorRT
from runtime.plan import BuildSettings, capability_name
from runtime.sessions.choose import has_nvidia_gpu
from runtime.sessions.cuda_memory import DeviceInfo, cuda_device, require_cuda_device

DEFAULT_CAPABILITIES = ("SM86",)  # what TensorRT itself loads for Orin


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        bundle: The bundle.
        precisions: Which of its graphs.
        engine_dir: Where engines go.
        settings: Limits and typing.
        streams: Batch rows N, one engine each; None is the bundle's own.
        layers: Where to copy the layer tables to; None leaves them beside the engines.
    """

    bundle: Bundle
    precisions: tuple[Precision, ...]
    engine_dir: Path
    settings: BuildSettings
    streams: tuple[int | None, ...] = (None,)
    layers: Path | None = None


@dataclass(frozen=True)
class Target:
    """What engines are built for.

    Attributes:
        trt: `tensorrt` or `tensorrt_rtx`.
        device: The GPU, or for RTX a compute capability.
        is_here: Whether such an engine runs on this machine.
    """

    trt: TensorRT
    device: DeviceInfo
    is_here: bool


@dataclass(frozen=True)
class Job:
    """One engine to build."""

    precision: Precision
    num_streams: int | None
    target: Target

    def __str__(self) -> str:
        """`int8, 2 stream(s), for Orin SM87`."""
        device = self.target.device
        streams = "" if self.num_streams is None else f", {self.num_streams} stream(s),"
        return (
            f"{self.precision}{streams} for {device.name} "
            f"{capability_name(device.compute_capability)}"
        )


def targets_here(capabilities: Sequence[str] | None) -> tuple[Target, ...]:
    """What this machine can build for; nothing where there is neither a GPU nor RTX.

    Args:
        capabilities: Compute capabilities, which only RTX takes; None for this GPU's, or SM86
            without one.

    Raises:
        SessionError: A GPU is here and pycuda or CUDA does not start.
        EngineError: A GPU is here and no TensorRT that this Python can import, or compute
            capabilities are given and there is no RTX.
    """
    device = cuda_device()
    only_rtx = device is None or capabilities
    trt = find_tensorrt(("tensorrt_rtx",) if only_rtx else ("tensorrt", "tensorrt_rtx"))
    if trt is None:
        if capabilities:
            raise EngineError(
                "--compute-capability needs tensorrt_rtx: pip install 'tdrl-edge[rtx]' (x86-64), "
                "or leave it out to build for this GPU"
            )
        if has_nvidia_gpu():
            require_cuda_device()
            raise EngineError(
                f"an NVIDIA GPU is here, but {why_no_tensorrt()}; to check the bundle without it: "
                "python -m export.verify --backend ort"
            )
        return ()
    if not is_rtx(trt):
        return () if device is None else (Target(trt, device, is_here=True),)
    own = () if device is None else (device.compute_capability,)
    names = [capability_name(name) for name in capabilities or own or DEFAULT_CAPABILITIES]
    devices = [DeviceInfo(ANY_GPU, f"{name[2:-1]}.{name[-1]}") for name in names]
    return tuple(Target(trt, each, is_here=each.compute_capability in own) for each in devices)


def jobs_of(request: Request, targets: Sequence[Target]) -> list[Job]:
    """Every precision, number of streams and target."""
    return [
        Job(precision, num_streams, target)
        for target in targets
        for num_streams in request.streams
        for precision in request.precisions
    ]
