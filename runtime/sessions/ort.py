"""ONNX Runtime on the CPU: the session of machines without an NVIDIA GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import (
    FRAME_INPUT,
    GRAPH_OF,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    Precision,
    StateSpec,
)
from runtime.errors import BundleError, SessionError
from runtime.sessions.base import Logits

_ORT_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


@dataclass(frozen=True)
class _Tensor:
    """Shape and dtype of a graph's input or output."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class OrtStepSession:
    """A step graph in ONNX Runtime, with two buffers for each state and phase.

    Every phase has two bindings made once: one reads the first buffers and writes the second,
    the other the reverse. A step runs one and turns to the other; nothing is copied but the frame.

    Args:
        bundle: A loaded bundle.
        precision: `float32` runs `step.onnx`, `int8` runs `step.int8.onnx`. `float16` runs
            `step.fp16.onnx`, slower than float32 and with its rounded weights only: on a CPU
            ONNX Runtime computes halves in float32 and hides a range that they leave.
        phases: Independent sets of states, >= 1.
        threads: Threads of one step; ONNX Runtime's choice where it is None.
        optimise: Let ONNX Runtime rewrite the graph; off gives the reference numbers.

    Raises:
        BundleError: No such graph, or one that does not fit `bundle.json`.
        SessionError: ONNX Runtime is missing or refuses the graph.
        ValueError: `phases` or `threads` out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "float32",
        phases: int = 1,
        threads: int | None = None,
        optimise: bool = True,
    ) -> None:
        if phases < 1 or (threads is not None and threads < 1):
            raise ValueError(f"phases and threads must be >= 1, got {phases} and {threads}")
        kind = GRAPH_OF[precision]
        self._graph = bundle.graph(kind)
        self._path = bundle.graph_path(kind)
        self._ort, self._errors = _import_ort()
        self._session = self._load(threads, optimise=optimise)
        self._check_against(bundle)
        self.num_phases = phases
        self.num_streams = self._inputs[FRAME_INPUT].shape[0]
        self.description = f"ONNX Runtime {self._ort.__version__}, CPU, {precision}"
        self._frames = np.zeros(self._inputs[FRAME_INPUT].shape, np.uint8)
        self._reset = np.zeros((self.num_streams, 1), np.float32)
        self._logits = np.zeros(self._outputs[LOGITS_OUTPUT].shape, np.float32)
        self._turn = [0] * phases
        self._states = [(self._new_states(), self._new_states()) for _ in range(phases)]
        self._bindings = [
            (self._bind(first, second), self._bind(second, first)) for first, second in self._states
        ]

    def step(self, phase: int, frames: NDArray[np.uint8], reset: NDArray[np.float32]) -> Logits:
        """Advance one phase by one frame a stream; see `StepSession.step`."""
        self._check_call(phase, frames, reset)
        np.copyto(self._frames, frames)
        np.copyto(self._reset, reset)
        turn = self._turn[phase]
        try:
            self._session.run_with_iobinding(self._bindings[phase][turn])
        except self._errors as err:
            raise SessionError(f"ONNX Runtime failed on {self._path}: {err}") from err
        self._turn[phase] = 1 - turn
        return self._logits.copy()

    def close(self) -> None:
        """Free the engine and its buffers."""
        self._bindings = []
        self._session = None

    def __enter__(self) -> OrtStepSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _load(self, threads: int | None, *, optimise: bool) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimise:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = self._ort.InferenceSession(
                str(self._path), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as err:
            raise SessionError(f"ONNX Runtime cannot load {self._path}: {err}") from err
        self._inputs = {arg.name: _tensor_of(arg) for arg in session.get_inputs()}
        self._outputs = {arg.name: _tensor_of(arg) for arg in session.get_outputs()}
        return session

    def _check_against(self, bundle: Bundle) -> None:
        """The graph's inputs and outputs are those that the manifest promises, no others."""
        num_streams = self._inputs.get(FRAME_INPUT, _Tensor((1,), "")).shape[0]
        rule, states = bundle.picture, self._graph.states
        frame_shape = (num_streams, rule.height_px, rule.width_px, 3)
        wanted_inputs = {
            FRAME_INPUT: _Tensor(frame_shape, "uint8"),
            RESET_INPUT: _Tensor((num_streams, 1), "float32"),
            **{state.name_in: _Tensor(state.shape, state.dtype) for state in states},
        }
        wanted_outputs = {
            LOGITS_OUTPUT: _Tensor((num_streams, len(bundle.labels)), "float32"),
            **{state.name_out: _Tensor(state.shape, state.dtype) for state in states},
        }
        logits = self._outputs.get(LOGITS_OUTPUT)
        if logits is not None and logits.shape[-1] != len(bundle.labels):
            raise BundleError(
                f"labels do not fit: {bundle.folder} lists {len(bundle.labels)} labels, "
                f"{self._path.name} gives {logits.shape[-1]} logits; export the bundle again"
            )
        self._check_tensors("input", wanted_inputs, self._inputs)
        self._check_tensors("output", wanted_outputs, self._outputs)

    def _check_tensors(
        self, role: str, wanted: dict[str, _Tensor], found: dict[str, _Tensor]
    ) -> None:
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise BundleError(
                    f"{self._path}: {role} {name} is {found.get(name, 'missing')}, bundle.json "
                    f"wants {wanted.get(name, 'none')}; export the bundle again"
                )

    def _new_states(self) -> dict[StateSpec, NDArray[Any]]:
        return {state: np.zeros(state.shape, state.dtype) for state in self._graph.states}

    def _bind(
        self, states_in: dict[StateSpec, NDArray[Any]], states_out: dict[StateSpec, NDArray[Any]]
    ) -> Any:
        binding = self._session.io_binding()
        inputs: dict[str, NDArray[Any]] = {FRAME_INPUT: self._frames, RESET_INPUT: self._reset}
        inputs |= {state.name_in: array for state, array in states_in.items()}
        outputs: dict[str, NDArray[Any]] = {LOGITS_OUTPUT: self._logits}
        outputs |= {state.name_out: array for state, array in states_out.items()}
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def _check_call(
        self, phase: int, frames: NDArray[np.uint8], reset: NDArray[np.float32]
    ) -> None:
        if self._session is None:
            raise SessionError("this session is closed; open a new one")
        if not 0 <= phase < self.num_phases:
            raise ValueError(f"phase must be 0 ... {self.num_phases - 1}, got {phase}")
        _check_array("frames", frames, self._frames)
        _check_array("reset", reset, self._reset)


def _check_array(name: str, array: NDArray[Any], own: NDArray[Any]) -> None:
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(f"{name} must be {own.dtype} {own.shape}, got {array.dtype} {array.shape}")


def _tensor_of(arg: Any) -> _Tensor:
    """An ONNX Runtime argument; a dynamic axis counts as -1, which fits nothing."""
    shape = tuple(size if isinstance(size, int) else -1 for size in arg.shape)
    return _Tensor(shape, _ORT_TYPES.get(arg.type, arg.type))


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
