"""ONNX Runtime on the CPU: the session that runs anywhere, and the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.errors import SessionError
from runtime.sessions.base import Held, Logits
from runtime.sessions.step_io import Arrays, StepBuffers, Tensor, check_step_graph, graph_to_load

_ORT_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


class OrtStepSession:
    """A step graph in ONNX Runtime, with two buffers for each state and phase.

    Every phase has two bindings made once: one reads the first buffers and writes the second,
    the other the reverse. A step runs one and turns to the other; nothing is copied but the frame.

    Args:
        bundle: A loaded bundle.
        precision: `float32` runs `step.onnx`, `int8` runs `step.int8.onnx`, slower than float32:
            ONNX Runtime computes its convolutions in float. `float16` runs `step.fp16.onnx`,
            slower than float32 and with its rounded weights only: on a CPU ONNX Runtime computes
            halves in float32 and hides a range that they leave.
        phases: Independent sets of states, >= 1.
        threads: Threads of one step; ONNX Runtime's choice where it is None.
        optimise: Let ONNX Runtime rewrite the graph; off gives the reference numbers.
        num_streams: Rows N; the graph's own where it is None.

    Raises:
        BundleError: No such graph, or one that does not fit `bundle.json`.
        SessionError: ONNX Runtime is missing or refuses the graph.
        ValueError: `phases`, `threads` or `num_streams` out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "float32",
        phases: int = 1,
        threads: int | None = None,
        optimise: bool = True,
        num_streams: int | None = None,
    ) -> None:
        if phases < 1 or (threads is not None and threads < 1):
            raise ValueError(f"phases and threads must be >= 1, got {phases} and {threads}")
        kind = GRAPH_OF[precision]
        graph = bundle.graph(kind)
        self._path = bundle.graph_path(kind)
        self._ort, self._errors = _import_ort()
        model = graph_to_load(bundle, precision, num_streams)
        self._session = self._load(model, threads, optimise=optimise)
        inputs = {arg.name: _tensor_of(arg) for arg in self._session.get_inputs()}
        outputs = {arg.name: _tensor_of(arg) for arg in self._session.get_outputs()}
        check_step_graph(bundle, graph, inputs, outputs)
        buffers = StepBuffers(graph, inputs, outputs, phases)
        self._buffers: StepBuffers | None = buffers
        self.num_phases = phases
        self.num_streams = buffers.num_streams
        self.description = f"ONNX Runtime {self._ort.__version__}, CPU, {precision}"
        self._bindings = [
            tuple(self._bind(*buffers.bound(phase, turn)) for turn in range(2))
            for phase in range(phases)
        ]

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase by one frame a stream; see `StepSession.step`."""
        if self._buffers is None:
            raise SessionError("this session is closed; open a new one")
        turn = self._buffers.fill(phase, frames, reset, held)
        try:
            self._session.run_with_iobinding(self._bindings[phase][turn])
        except self._errors as err:
            raise SessionError(f"ONNX Runtime failed on {self._path}: {err}") from err
        return self._buffers.swap(phase, held)

    def close(self) -> None:
        """Free the engine and its buffers."""
        self._bindings = []
        self._session = self._buffers = None

    def __enter__(self) -> OrtStepSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _load(self, model: Path | bytes, threads: int | None, *, optimise: bool) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimise:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self._ort.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=["CPUExecutionProvider"],
            )
        except self._errors as err:
            raise SessionError(f"ONNX Runtime cannot load {self._path}: {err}") from err

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Any:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def _tensor_of(arg: Any) -> Tensor:
    """What an ONNX Runtime argument is."""
    shape = tuple(size if isinstance(size, int) else -1 for size in arg.shape)
    return Tensor(shape, _ORT_TYPES.get(arg.type, arg.type))


def _import_ort() -> tuple[Any, tuple[type[Exception], ...]]:
    """The onnxruntime module, and its errors, which share no base but Exception."""
    try:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as native
    except ImportError as err:
        raise SessionError(
            f"onnxruntime cannot be imported ({err}); pip install 'tdrl-edge[cpu]'"
        ) from err
    errors = [
        member
        for member in vars(native).values()
        if isinstance(member, type) and issubclass(member, Exception)
    ]
    return ort, (*errors, RuntimeError)
