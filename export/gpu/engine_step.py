"""The runtime's own TensorRT session: engines of `tensorrt` and `tensorrt_rtx`, built here.

Needs one of the two, onnx, onnxsim and onnxruntime, and pycuda or cuda-bindings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.gpu.effort import Effort
from export.gpu.row import CheckFailed, Row, row_of, skipped
from export.gpu.timing import times_s
from export.session_cost import backbone_bundle, run_frames, wandering_pictures
from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.command import one_line
from runtime.engine import engine_for_bundle
from runtime.errors import EngineError, SessionError
from runtime.nvidia import MODULES, find_tensorrt, library_version, why_no_tensorrt
from runtime.nvidia_types import TensorRT
from runtime.plan import BuildSettings
from runtime.selftest import sqnr_db
from runtime.sessions.cuda_memory import DeviceInfo, require_cuda_device
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.trt import TrtStepSession

Call: TypeAlias = Callable[[], object]

LEAST_DB: dict[Precision, float] = {"float32": 40.0, "int8": 20.0}


def engine_rows(effort: Effort) -> Iterator[Row]:
    """SQNR, milliseconds and frames a second, INT8 and float32, queued and as CUDA graphs.

    Raises:
        CheckFailed: Logits are too far from the same graph's as it is written.
    """
    found = {name: find_tensorrt((name,)) for name in MODULES}
    for name, trt in found.items():
        if trt is None:
            yield skipped(name, why_no_tensorrt(name))
    if not any(found.values()):
        return
    try:
        device = require_cuda_device()
    except SessionError as err:
        yield skipped("engines", one_line(err))
        return
    with tempfile.TemporaryDirectory() as folder:
        for backbone in effort.backbones:
            bundle = backbone_bundle(backbone, effort.size_px, Path(folder))
            for trt in filter(None, found.values()):
                yield from _library_rows(bundle, trt, device, effort)


def _library_rows(
    bundle: Bundle, trt: TensorRT, device: DeviceInfo, effort: Effort
) -> Iterator[Row]:
    precisions: tuple[Precision, ...] = ("int8", "float32")
    for precision in precisions:
        for rows in effort.streams:
            what = f"{bundle.name}, {library_version(trt)}, {precision}, N = {rows}"
            try:
                plan = engine_for_bundle(
                    bundle,
                    precision,
                    bundle.folder / "engines",
                    trt=trt,
                    device=device,
                    settings=BuildSettings(num_streams=rows),
                )
                if rows == 1:
                    yield _nearness(what, bundle, plan, precision)
                yield from _session_rows(what, bundle, plan, precision, effort)
            except (EngineError, SessionError) as err:
                yield skipped(what, one_line(err))


def _nearness(what: str, bundle: Bundle, plan: Path, precision: Precision) -> Row:
    """Logits of a few frames against the graph in ONNX Runtime without optimisation."""
    frames = wandering_pictures(bundle.picture)
    with OrtStepSession(bundle, precision, optimise=False) as reference:
        expected = run_frames(reference, frames)
    with TrtStepSession(bundle, plan, graph_kind=GRAPH_OF[precision]) as session:
        decibels = min(sqnr_db(run_frames(session, frames), expected), 200.0)
    if not decibels >= LEAST_DB[precision]:
        raise CheckFailed(f"{what}: logits are {decibels:.0f} dB from the graph's")
    note = f"must be ≥ {LEAST_DB[precision]:g}; against the same graph on the CPU"
    return Row(what=f"{what}: logits, SQNR", value=decibels, unit="dB", note=note)


def _session_rows(
    what: str, bundle: Bundle, plan: Path, precision: Precision, effort: Effort
) -> Iterator[Row]:
    """The same engine queued call by call and as CUDA graphs, in turn."""
    kind = GRAPH_OF[precision]
    with (
        TrtStepSession(bundle, plan, graph_kind=kind, cuda_graphs=False) as queued,
        TrtStepSession(bundle, plan, graph_kind=kind) as recorded,
    ):
        sessions = {"queued": queued}
        if recorded.why_queued:
            yield skipped(f"{what}: CUDA graph", recorded.why_queued)
        else:
            sessions["CUDA graph"] = recorded
        rows = queued.num_streams
        frames = np.stack([wandering_pictures(bundle.picture)[0]] * rows)
        go_on = np.zeros((rows, 1), np.float32)
        calls = {name: _call(session, frames, go_on) for name, session in sessions.items()}
        for name, times in times_s(calls, replace(effort, device="cpu")).items():
            yield row_of(f"{what}: step, {name}", [1e3 * s for s in times], "ms")
            yield row_of(f"{what}: {name}", [rows / s for s in times], "frames/s")


def _call(session: TrtStepSession, frames: NDArray[np.uint8], go_on: NDArray[np.float32]) -> Call:
    """A step, which waits for the device itself."""
    return lambda: session.step(0, frames, go_on)
