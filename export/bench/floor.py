"""How far a step is from what the processor could do: operations and bytes, against its peaks.

The peaks are measured, not looked up, in the same rounds as the steps: a convolution that suits the
processor, and copies of what fits into its caches and of what does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bench.effort import Case, Effort
from export.bench.models import Models, Part, StepCall, choice_of, name_of, one_thread_session
from export.bench.values import Table
from export.graph_view import load_graph
from export.roofline.kernels import Kernel, Precision, step_kernels
from export.step_ratios import cpu_times
from export.to_onnx import IR_VERSION, OPSET
from runtime.sessions.ov import compiled_step, has_openvino

CHANNELS, SIZE = 256, 28  # of the convolution that suits the processor
PEAK_MACS = CHANNELS * CHANNELS * 9 * SIZE * SIZE
CACHED_BYTES, MEMORY_BYTES = 1 << 19, 1 << 26
COPIES = 32  # of the small buffer in one call, which takes microseconds
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
TEXT = (
    "One step in OpenVINO on one thread against the least that its work takes on this processor. "
    "*Operations*: multiplications with addition, at the rate of a 3 x 3 convolution with 256 "
    "channels in the same engine. *Bytes*: weights once, at the rate of a copy in memory; feature "
    "maps, states and vectors as the kernels of export/roofline/kernels.py read and write them, "
    "at the rate of a copy in cache. *Floor*: for each kernel the longer of the two, summed. "
    "Below 1: a convolution suits the processor better still. Depthwise convolutions and matrix "
    "products of one row never reach that rate."
)
HEADER = (
    *("backbone", "model", "precision", "GMACs", "MB", "operations, ms", "bytes, ms"),
    *("floor, ms", "step, ms", "step ÷ floor"),
)
PARTS: tuple[tuple[Part, str], ...] = (("none", "plain"), ("both", "TDRL"))


def measure(models: Models, effort: Effort) -> Table:
    """The table `floor`; a line that says so without OpenVINO."""
    table = Table("floor", "How far from the floor", TEXT, HEADER)
    if not has_openvino():
        table.rows.append(("OpenVINO is not installed", *[""] * (len(HEADER) - 1)))
        return table
    peaks: dict[str, Callable[[], object]] = {
        "cache": copies(CACHED_BYTES, COPIES),
        "memory": copies(MEMORY_BYTES, 1),
        **{precision: convolution(precision) for precision in PRECISIONS},
    }
    for case in effort.cases:
        _add(table, models, case, peaks, effort)
    return table


def _add(
    table: Table,
    models: Models,
    case: Case,
    peaks: Mapping[str, Callable[[], object]],
    effort: Effort,
) -> None:
    with ExitStack() as opened:
        calls = dict(peaks)
        kernels = {}
        for part, model in PARTS:
            bundle = models.bundle(case, part)
            kernels[model] = step_kernels(load_graph(bundle.graph_path("step")))
            for precision in PRECISIONS:
                session = one_thread_session(bundle, choice_of("openvino", precision))
                calls[f"{model} {precision}"] = StepCall(opened.enter_context(session), case[1])
        ms = cpu_times(calls, effort.rounds, f"{name_of(case)}, floor", least_ms=effort.least_ms)
    for model, of_step in kernels.items():
        for precision in PRECISIONS:
            operations, moved, floor = floor_ms(of_step, precision, ms)
            key, step = f"{name_of(case)}/{model} {precision}", ms[f"{model} {precision}"]
            ratio = table.add(key, step / floor, "x")
            table.rows.append(
                (
                    *(name_of(case), model, precision),
                    f"{sum(kernel.macs for kernel in of_step) / 1e9:.2f}",
                    f"{sum(kernel.bytes_moved(precision) for kernel in of_step) / 1e6:.1f}",
                    *(f"{np.median(each):.2f}" for each in (operations, moved, floor, step)),
                    str(ratio),
                )
            )


def floor_ms(
    kernels: Sequence[Kernel], precision: Precision, ms: Mapping[str, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The least that a step takes, for each round, shape (rounds,), milliseconds.

    Args:
        kernels: What the step runs.
        precision: In which it runs.
        ms: What the peaks took: `cache`, `memory` and the precision.

    Returns:
        For its operations alone, for its bytes alone, and the longer of both kernel by kernel.
    """
    per_mac = ms[precision] / PEAK_MACS
    per_weight = ms["memory"] / (2 * MEMORY_BYTES)
    per_byte = ms["cache"] / (2 * COPIES * CACHED_BYTES)
    operations = np.stack([kernel.macs * per_mac for kernel in kernels])
    moved = np.stack([_bytes_ms(kernel, precision, per_weight, per_byte) for kernel in kernels])
    return operations.sum(0), moved.sum(0), np.maximum(operations, moved).sum(0)


def _bytes_ms(
    kernel: Kernel,
    precision: Precision,
    per_weight: NDArray[np.float64],
    per_byte: NDArray[np.float64],
) -> NDArray[np.float64]:
    whole, in_weights = kernel.bytes_moved(precision), kernel.bytes_moved(precision, rows=0)
    moved: NDArray[np.float64] = in_weights * per_weight + (whole - in_weights) * per_byte
    return moved


def copies(size: int, times: int) -> Callable[[], object]:
    """A call that copies a buffer of some bytes so many times."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)

    def call() -> None:
        for _ in range(times):
            np.copyto(target, source)

    return call


def convolution(precision: Precision) -> Callable[[], object]:
    """A call of the convolution that suits the processor, in OpenVINO on one thread."""
    compiled: Any = compiled_step(
        _convolution_graph(int8=precision == "int8").SerializeToString(), threads=1
    )
    request = compiled.create_infer_request()
    picture = np.random.default_rng(0).normal(0, 1, (1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    request.get_input_tensor().data[:] = picture
    infer: Callable[[], object] = request.infer
    return infer


def _convolution_graph(*, int8: bool) -> onnx.ModelProto:
    weight = np.random.default_rng(1).integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
    shape, kind = (1, CHANNELS, SIZE, SIZE), TensorProto.FLOAT
    node = helper.make_node
    arrays: dict[str, Any] = {"weight": weight.astype(np.float32) * np.float32(1e-3)}
    nodes = [node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])]
    if int8:
        arrays = {
            "scale": np.float32(0.03),
            "zero": np.int8(0),
            "weight8": weight.astype(np.int8),
            "weight_scale": np.full(CHANNELS, 1e-3, np.float32),
            "weight_zero": np.zeros(CHANNELS, np.int8),
        }
        nodes = [
            node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
            node("DequantizeLinear", ["x8", "scale", "zero"], ["xq"]),
            node("DequantizeLinear", ["weight8", "weight_scale", "weight_zero"], ["wq"], axis=0),
            node("Conv", ["xq", "wq"], ["y"], pads=[1, 1, 1, 1]),
        ]
    constants = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "peak", [value("x", kind, shape)], [value("y", kind, shape)], constants
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
