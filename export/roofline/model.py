"""How long kernels take on a device: a roofline for each kernel, and a fixed cost of each launch.

    t = Σ over kernels of  launch + max(operations ÷ rate, bytes ÷ bandwidth)

Rate and bandwidth are the device's times the share of them that engines reach; a launch costs a
number of GPU clocks. Those four constants are fitted to published latencies of plain networks and
judged on others; nothing of ours is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from export.roofline.kernels import Kernel, Precision
from export.roofline.published import Device, PublishedRow

TENSOR_MACS = {"int8": 2048, "float16": 1024}
# depthwise convolutions and what is no convolution run on CUDA cores
CUDA_MACS = 256
FIT_SWEEPS = 60
FIRST_STEP, LAST_STEP = 1.3, 1.002


@dataclass(frozen=True)
class Constants:
    """What is not in a data sheet.

    Attributes:
        int8_share: Share of the tensor cores' INT8 rate that convolutions reach, 0..1.
        float16_share: The same in half precision.
        memory_share: Share of the memory's bandwidth, 0..1; over 1 where caches help.
        launch_clocks: GPU clocks between the end of a kernel and the next one's full speed.
    """

    int8_share: float = 0.5
    float16_share: float = 0.5
    memory_share: float = 0.7
    launch_clocks: float = 5000.0


@dataclass(frozen=True)
class Estimate:
    """A predicted time and its parts, milliseconds.

    Attributes:
        ms: All of it.
        launch_ms: Fixed costs of launches.
        compute_ms: Of kernels that arithmetic limits.
        memory_ms: Of kernels that the memory limits.
    """

    ms: float
    launch_ms: float
    compute_ms: float
    memory_ms: float


def estimate(
    kernels: Sequence[Kernel],
    device: Device,
    precision: Precision,
    constants: Constants,
    *,
    rows: int = 1,
) -> Estimate:
    """Predict the GPU time of a step.

    Args:
        kernels: What is launched, in order.
        device: On what.
        precision: Of the convolutions.
        constants: The fitted ones.
        rows: Streams in the batch, >= 1.
    """
    share = constants.int8_share if precision == "int8" else constants.float16_share
    tensor_rate = TENSOR_MACS[precision] * device.processors * device.clock_hz * share
    cuda_rate = CUDA_MACS * device.processors * device.clock_hz * share
    bytes_per_s = device.bytes_per_s * constants.memory_share
    compute_s = memory_s = 0.0
    for kernel in kernels:
        rate = tensor_rate if kernel.kind == "convolution" else cuda_rate
        arithmetic = rows * kernel.macs / rate
        traffic = kernel.bytes_moved(precision, rows) / bytes_per_s
        if arithmetic > traffic:
            compute_s += arithmetic
        else:
            memory_s += traffic
    launch_s = len(kernels) * constants.launch_clocks / device.clock_hz
    total_s = launch_s + compute_s + memory_s
    return Estimate(*(1e3 * value for value in (total_s, launch_s, compute_s, memory_s)))


def fit(rows: Sequence[PublishedRow], kernels: Mapping[str, Sequence[Kernel]]) -> Constants:
    """Constants with the least squared relative error on some rows.

    Each constant in turn goes up or down by a factor while that helps; factors get finer.

    Args:
        rows: What was published.
        kernels: Kernels by the network's name.
    """
    best = Constants()
    lowest = _loss(rows, kernels, best)
    for sweep in range(FIT_SWEEPS):
        step = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (sweep / (FIT_SWEEPS - 1))
        for name in (each.name for each in fields(Constants)):
            for factor in (step, 1 / step):
                tried = replace(best, **{name: getattr(best, name) * factor})
                loss = _loss(rows, kernels, tried)
                if loss < lowest:
                    best, lowest = tried, loss
    return best


def relative_error(
    row: PublishedRow, kernels: Mapping[str, Sequence[Kernel]], constants: Constants
) -> float:
    """Predicted ÷ published - 1."""
    found = estimate(kernels[row.network], row.device, row.precision, constants, rows=row.rows)
    return found.ms / row.ms - 1


def _loss(
    rows: Sequence[PublishedRow], kernels: Mapping[str, Sequence[Kernel]], constants: Constants
) -> float:
    return sum(math.log1p(relative_error(row, kernels, constants)) ** 2 for row in rows)
