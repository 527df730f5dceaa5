"""One step in ONNX Runtime and in OpenVINO as a bare call: one thread, buffers swapped, no copies.

For measurements only: every engine gets its states the way its own session would, two sets of
buffers bound beforehand, so that what is timed is the graph and not Python.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT
from runtime.errors import ExportError
from runtime.sessions.base import Logits
from runtime.sessions.ov import compiled_step, has_openvino, import_openvino

Engine: TypeAlias = Literal["onnxruntime", "openvino"]
Step: TypeAlias = Callable[[], Logits]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "openvino")
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


def step_in(engine: Engine, path: Path) -> Step:
    """A call that runs the next step of a graph and gives its logits, (1, K), float32.

    States carry over, the picture stays. The logits are the engine's own until the next call.

    Args:
        engine: What runs it; OpenVINO computes in float32, never in bfloat16.
        path: A step graph of any precision.

    Raises:
        ExportError: OpenVINO is not installed.
    """
    return _in_onnxruntime(path) if engine == "onnxruntime" else _in_openvino(path)


def _in_onnxruntime(path: Path) -> Step:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {i.name: _filled(i.name, i.shape, DTYPES[i.type]) for i in session.get_inputs()}
    # a copy each: ONNX Runtime may take a NumPy array's own memory
    sets = [
        {name: ort.OrtValue.ortvalue_from_numpy(value.copy()) for name, value in inputs.items()}
        for _ in range(2)
    ]
    calls = []
    for mine, other in (sets, sets[::-1]):
        binding = session.io_binding()
        for name, value in mine.items():
            binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            if (state := _state_in(output.name)) in other:
                binding.bind_ortvalue_output(output.name, other[state])
            else:
                binding.bind_output(output.name)
        calls.append(_bound(session, binding))
    return _in_turn(calls)


def _bound(session: Any, binding: Any) -> Step:
    at = [output.name for output in session.get_outputs()].index(LOGITS_OUTPUT)

    def run() -> Logits:
        session.run_with_iobinding(binding)
        logits: Logits = binding.get_outputs()[at].numpy()
        return logits

    return run


def _in_openvino(path: Path) -> Step:
    if not has_openvino():
        raise ExportError(
            "openvino is not installed; pip install openvino, or --engine onnxruntime"
        )
    openvino, compiled = import_openvino(), compiled_step(path, threads=1)
    inputs = {
        i.any_name: _filled(i.any_name, tuple(i.shape), i.element_type.to_dtype())
        for i in compiled.inputs
    }
    sets = [
        {name: openvino.Tensor(value.copy()) for name, value in inputs.items()} for _ in range(2)
    ]
    calls = []
    for mine, other in (sets, sets[::-1]):
        request = compiled.create_infer_request()
        for name, value in mine.items():
            request.set_tensor(name, value)
        for output in compiled.outputs:
            if (state := _state_in(output.any_name)) in other:
                request.set_tensor(output.any_name, other[state])
        calls.append(_requested(request))
    return _in_turn(calls)


def _requested(request: Any) -> Step:
    def run() -> Logits:
        request.infer(share_outputs=True)
        logits: Logits = request.get_tensor(LOGITS_OUTPUT).data
        return logits

    return run


def _in_turn(calls: list[Step]) -> Step:
    """Run the calls one after another, one each time."""
    steps = 0

    def run() -> Logits:
        nonlocal steps
        steps += 1
        return calls[steps % len(calls)]()

    return run


def _state_in(output: str) -> str:
    """The input that takes an output at the next step; some other name for the logits."""
    return output.replace("state_out_", "state_in_")


def _filled(name: str, shape: Any, dtype: Any) -> NDArray[Any]:
    """Noise for the picture, zeros for the rest."""
    if name == FRAME_INPUT:
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return np.zeros(shape, dtype)
