"""What others measured and NVIDIA states: the only facts about Jetsons here, each with its source.

Rates follow from NVIDIA's: a streaming multiprocessor of Orin does 2048 INT8 or 1024 FP16
multiplications with addition in a clock on dense tensor cores (AGX Orin: 170 sparse INT8 TOPS
= 16 × 1.3 GHz × 2048 × 2 × 2), and 256 in half precision on its CUDA cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from export.roofline.kernels import Kernel, Precision

MODULES_URL = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-orin/"
ONNXSIM_URL = "https://github.com/onnxsim/onnxsim/blob/master/scripts/nvidia/README.md"
MLPERF_URL = (
    "https://github.com/mlcommons/inference_results_v3.1/tree/main/closed/NVIDIA/results"
    "/{system}/resnet50/{scenario}/performance/run_1/mlperf_log_summary.txt"
)


@dataclass(frozen=True)
class Device:
    """A module in its fastest power mode.

    Attributes:
        name: As `/proc/device-tree/model` has it.
        processors: Streaming multiprocessors.
        clock_hz: The GPU's highest clock.
        bytes_per_s: Bandwidth of its memory.
    """

    name: str
    processors: int
    clock_hz: float
    bytes_per_s: float


# 8 processors of 128 CUDA cores; clocks and bandwidth from NVIDIA's page of the modules
ORIN_NANO = Device("Orin Nano", 8, 1.020e9, 102e9)  # 8 GB, MAXN_SUPER
ORIN_NX = Device("Orin NX", 8, 0.918e9, 102.4e9)  # 16 GB, MAXN
AGX_ORIN = Device("AGX Orin", 16, 1.300e9, 204.8e9)  # 64 GB, MAXN
DEVICES = (ORIN_NANO, ORIN_NX, AGX_ORIN)


@dataclass(frozen=True)
class PublishedRow:
    """A latency that somebody measured.

    Attributes:
        device: On what.
        network: `resnet18`, `resnet50` (both ours without temporal parts) or `mobilenet_v2`.
        rows: Pictures of 224 × 224 in the batch.
        precision: Of the convolutions.
        ms: Mean, milliseconds.
        url: Where it is published.
    """

    device: Device
    network: str
    rows: int
    precision: Precision
    ms: float
    url: str


def _onnxsim(network: str, rows: int, half_ms: float, int8_ms: float) -> tuple[PublishedRow, ...]:
    """Mean GPU time by trtexec without transfers, TensorRT 10.3."""
    return (
        PublishedRow(ORIN_NANO, network, rows, "float16", half_ms, ONNXSIM_URL),
        PublishedRow(ORIN_NANO, network, rows, "int8", int8_ms, ONNXSIM_URL),
    )


def _mlperf(device: Device, system: str, scenario: str, rows: int, ms: float) -> PublishedRow:
    """Mean latency in NVIDIA's own harness, TensorRT 8.5."""
    url = MLPERF_URL.format(system=system, scenario=scenario)
    return PublishedRow(device, "resnet50", rows, "int8", ms, url)


# the model's constants are fitted to these
FITTED_ROWS = (
    *_onnxsim("resnet18", 1, 0.758, 0.485),
    *_onnxsim("resnet18", 8, 3.537, 1.927),
    *_onnxsim("resnet50", 1, 1.814, 1.190),
    *_onnxsim("resnet50", 8, 8.816, 4.930),
    *_onnxsim("mobilenet_v2", 1, 0.850, 0.781),
    *_onnxsim("mobilenet_v2", 8, 3.925, 2.446),
)
# and judged on these: other boards, another harness, another TensorRT
JUDGED_ROWS = (
    _mlperf(ORIN_NX, "Orin_NX_TRT", "SingleStream", 1, 1.079),
    _mlperf(ORIN_NX, "Orin_NX_TRT", "MultiStream", 8, 5.080),
    _mlperf(AGX_ORIN, "Orin_TRT", "SingleStream", 1, 0.636),
    _mlperf(AGX_ORIN, "Orin_TRT", "MultiStream", 8, 2.164),
)

# expansion, channels, blocks, first stride: table 2 of MobileNetV2 (arXiv:1801.04381)
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2_kernels() -> tuple[Kernel, ...]:
    """The kernels of a plain MobileNetV2 at 224: two of the published rows are its."""
    return tuple(_mobilenet_v2())


def _mobilenet_v2() -> Iterator[Kernel]:
    yield _conv("first", 3, 32, 224, 2, 3)
    channels, size = 32, 112
    for stage, (expansion, out, blocks, first_stride) in enumerate(MOBILENET_V2):
        for block in range(blocks):
            name, stride = f"{stage}.{block}", first_stride if block == 0 else 1
            wide = channels * expansion
            if expansion > 1:
                yield _conv(f"{name}.expand", channels, wide, size, 1, 1)
            yield _conv(f"{name}.depthwise", wide, wide, size, stride, 3, depthwise=True)
            size //= stride
            shortcut = out * size * size if stride == 1 and channels == out else 0
            yield _conv(f"{name}.project", wide, out, size, 1, 1, also_read=shortcut)
            channels = out
    yield _conv("last", channels, 1280, size, 1, 1)
    yield Kernel(name="pool", kind="pooling", maps=1280 * size * size, vectors=1280)
    yield Kernel(name="classifier", kind="product", macs=1280 * 1000, vectors=1281 * 1000 + 2280)


def _conv(
    name: str,
    channels: int,
    out: int,
    size: int,
    stride: int,
    side: int,
    *,
    depthwise: bool = False,
    also_read: int = 0,
) -> Kernel:
    weights = out * side * side * (1 if depthwise else channels)
    out_numbers = out * (size // stride) ** 2
    return Kernel(
        name=name,
        kind="depthwise" if depthwise else "convolution",
        macs=weights * (size // stride) ** 2,
        weights=weights,
        maps=channels * size * size + out_numbers + also_read,
    )
