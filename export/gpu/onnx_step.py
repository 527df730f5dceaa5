"""The exported step graph in ONNX Runtime on the GPU; needs onnx, onnxsim and onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from export.gpu.effort import Device, Effort
from export.gpu.models import NUM_CLASSES, fresh_model, noise_clips, trained_like
from export.gpu.row import CheckFailed, Row, row_of, skipped
from export.gpu.timing import times_s
from export.to_onnx import step_onnx_from_model
from runtime.batch_rows import with_rows
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.preprocess import PictureRule
from runtime.selftest import sqnr_db
from train.model.tdrl import Tdrl

PROVIDERS: dict[Device, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
LEAST_DB = 40.0  # what a device must reach in float


def onnx_rows(effort: Effort) -> Iterator[Row]:
    """SQNR, milliseconds and frames a second of the float step graph.

    Raises:
        CheckFailed: Logits are further from PyTorch's than 40 dB.
    """
    provider = PROVIDERS[effort.device]
    if provider not in ort.get_available_providers():
        yield skipped(
            provider, "this onnxruntime is built without it (pip install onnxruntime-gpu)"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        for backbone in effort.backbones:
            model = trained_like(fresh_model(backbone), effort)
            path = Path(folder) / f"{backbone}.onnx"
            rule = PictureRule(height_px=effort.size_px, width_px=effort.size_px)
            states = step_onnx_from_model(model, rule, path)
            for rows in effort.streams:
                what = f"{backbone}, float32, N = {rows}"
                step = OnnxStep(with_rows(path.read_bytes(), rows), states, effort, rows)
                if rows == effort.streams[0]:
                    yield _nearness(what, step, model, effort)
                times = times_s({"step": step.run}, effort)["step"]
                yield row_of(f"{what}: step", [1e3 * s for s in times], "ms")
                yield row_of(what, [rows / s for s in times], "frames/s")


class OnnxStep:
    """Steps with states that stay on the device: two bindings, run in turn.

    Args:
        graph: The serialised step graph with N rows.
        states: Its states; their N is not looked at.
        effort: Says the device and the picture's size.
        rows: Streams N.

    Raises:
        CheckFailed: ONNX Runtime took another provider.
    """

    def __init__(
        self, graph: bytes, states: tuple[StateSpec, ...], effort: Effort, rows: int
    ) -> None:
        self._device = effort.device
        options = ort.SessionOptions()
        options.log_severity_level = 3
        provider = PROVIDERS[effort.device]
        self._session = ort.InferenceSession(graph, options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise CheckFailed(f"ONNX Runtime did not take {provider}; its libraries do not load")
        size = (rows, effort.size_px, effort.size_px, 3)
        self._frame = self._on_device(np.zeros(size, np.uint8))
        self._reset = self._on_device(np.zeros((rows, 1), np.float32))
        self._logits = self._on_device(np.zeros((rows, NUM_CLASSES), np.float32))
        sets = [
            [self._on_device(np.zeros((rows, *state.shape[1:]), state.dtype)) for state in states]
            for _ in range(2)
        ]
        self._bindings = [self._bound(states, sets[turn], sets[1 - turn]) for turn in range(2)]
        self._turn = 0
        self.frame = np.zeros(size, np.uint8)

    def run(self) -> NDArray[np.float32]:
        """One step: `frame` up, logits (N, K) down."""
        self._frame.update_inplace(self.frame)
        self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn = 1 - self._turn
        logits: NDArray[np.float32] = self._logits.numpy()
        return logits

    def _on_device(self, array: NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _bound(self, states: tuple[StateSpec, ...], read: list[Any], written: list[Any]) -> Any:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(FRAME_INPUT, self._frame)
        binding.bind_ortvalue_input(RESET_INPUT, self._reset)
        binding.bind_ortvalue_output(LOGITS_OUTPUT, self._logits)
        for state, old, new in zip(states, read, written, strict=True):
            binding.bind_ortvalue_input(state.name_in, old)
            binding.bind_ortvalue_output(state.name_out, new)
        return binding


@torch.no_grad()
def _nearness(what: str, step: OnnxStep, model: Tdrl, effort: Effort) -> Row:
    """Logits along a clip against PyTorch's on the CPU."""
    clip = noise_clips(len(step.frame), effort, seed=3)
    expected = model(clip).transpose(0, 1).numpy()
    found = []
    for frame in clip.permute(1, 0, 3, 4, 2).numpy():
        step.frame[:] = frame
        found.append(step.run().copy())
    decibels = min(sqnr_db(np.stack(found), expected), 200.0)
    if not decibels >= LEAST_DB:
        raise CheckFailed(f"{what}: logits are {decibels:.0f} dB from PyTorch's")
    note = f"must be ≥ {LEAST_DB:g}; against PyTorch on the CPU"
    return Row(what=f"{what}: logits, SQNR", value=decibels, unit="dB", note=note)
