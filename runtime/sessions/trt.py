"""A step graph as a TensorRT engine: `tensorrt` or `tensorrt_rtx`, with memory it owns."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.build_failure import explained
from runtime.bundle import (
    FRAME_INPUT,
    GRAPH_OF,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    GraphKind,
    StateSpec,
)
from runtime.engine import ANY_GPU, Engine, load_engine
from runtime.errors import EngineError, SessionError
from runtime.nvidia import (
    MessageLog,
    find_tensorrt,
    library_version,
    message_log,
    why_no_tensorrt,
)
from runtime.nvidia_types import TensorRT
from runtime.sessions.base import Logits
from runtime.sessions.cuda_memory import DeviceInfo, DeviceMemory, PycudaMemory

if TYPE_CHECKING:
    import tensorrt as nv

# `tensorrt.nptype` fails on TensorRT 8 with a newer numpy, so the names are compared.
TRT_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8"}
CLOSED = "the session is closed; make a new one"
REBUILD = "delete the engine and run `make engine`"


@dataclass(frozen=True)
class Tensor:
    """One input or output of an engine."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Bytes of a buffer for it."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """`(1, 3) float32`."""
        return f"{self.shape} {self.dtype}"


@dataclass(frozen=True)
class StateBuffers:
    """Two device buffers of one state and phase: read one, write the other, then swap."""

    spec: StateSpec
    addresses: tuple[int, int]


class TrtStepSession:
    """A `StepSession` on an NVIDIA GPU.

    The caller's frames go through a page-locked buffer to the GPU on a stream of the session's
    own, and the logits come back the same way. The states never leave the GPU: each phase has two
    sets of buffers that swap roles at every step. Nothing is allocated while stepping.

    Args:
        bundle: The bundle that the plan was built from.
        plan_path: The plan, with its sidecar (`runtime.engine`).
        graph_kind: Which of the bundle's step graphs.
        phases: Independent sets of states.
        trt: `tensorrt` or `tensorrt_rtx`; found by the plan's sidecar if None.
        memory: Device memory; pycuda's if None. The session closes it.

    Raises:
        ValueError: `phases` < 1.
        BundleError: The bundle has no such graph.
        EngineError: The plan is not this user's, changed, stale, or does not fit the bundle.
        SessionError: pycuda or the GPU fails.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan_path: Path,
        *,
        graph_kind: GraphKind,
        phases: int = 1,
        trt: TensorRT | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        if phases < 1:
            raise ValueError(f"phases must be >= 1, got {phases}")
        self._thread = threading.get_ident()
        self._runtime: nv.Runtime | None = None
        self._engine: nv.ICudaEngine | None = None
        self._context: nv.IExecutionContext | None = None
        self._memory = memory
        self._states: list[list[StateBuffers]] = []
        self._turns = [0] * phases
        self._hosts: dict[str, NDArray[Any]] = {}
        self._addresses: dict[str, int] = {}
        try:
            self._open(bundle, plan_path, graph_kind, trt)
        except BaseException:
            self.close()
            raise

    def _open(
        self, bundle: Bundle, plan_path: Path, graph_kind: GraphKind, trt: TensorRT | None
    ) -> None:
        states = bundle.graph(graph_kind).states
        engine = load_engine(plan_path)
        trt = trt or _library_of(engine)
        check_origin(engine, bundle, graph_kind, trt)
        # the context first: TensorRT makes everything of its own in the current one
        if self._memory is None:
            self._memory = PycudaMemory()
        check_device(engine, self._memory.device)
        self._log = message_log(trt)
        self._log.take_errors()
        self._deserialise(trt, engine)
        check_tensors(self._tensors, bundle, states, plan_path)
        self._description = (
            f"{library_version(trt)} on {self._memory.device.name}, {engine.key.precision}"
        )
        self._allocate(self._memory, states)

    def _deserialise(self, trt: TensorRT, engine: Engine) -> None:
        # no local variables: a traceback would keep them beyond their CUDA context
        self._runtime = trt.Runtime(self._log.trt_logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine.plan)
        if self._engine is not None:
            self._tensors = io_tensors(self._engine)
            self._context = self._engine.create_execution_context()
        if self._context is None:
            said = _explained(f"{engine.path} cannot be loaded", self._log)
            raise EngineError(f"{said}; {REBUILD}")

    def _allocate(self, memory: DeviceMemory, states: tuple[StateSpec, ...]) -> None:
        for name in (FRAME_INPUT, RESET_INPUT, LOGITS_OUTPUT):
            tensor = self._tensors[name]
            self._hosts[name] = memory.pinned(tensor.shape, tensor.dtype)
            self._addresses[name] = memory.alloc(tensor.size_bytes)
            self._bind(name, self._addresses[name])
        for _ in self._turns:
            buffers = [StateBuffers(spec, self._zeroed_pair(memory, spec)) for spec in states]
            self._states.append(buffers)
        memory.synchronize()

    def _zeroed_pair(self, memory: DeviceMemory, spec: StateSpec) -> tuple[int, int]:
        size_bytes = self._tensors[spec.name_in].size_bytes
        pair = (memory.alloc(size_bytes), memory.alloc(size_bytes))
        for address in pair:
            memory.fill_zero(address, size_bytes)
        return pair

    @property
    def description(self) -> str:
        """Engine, its version, device and precision, for people and logs."""
        return self._description

    @property
    def num_streams(self) -> int:
        """Rows N of the batch."""
        return self._tensors[FRAME_INPUT].shape[0]

    @property
    def num_phases(self) -> int:
        """Independent sets of states."""
        return len(self._turns)

    def step(self, phase: int, frames: NDArray[np.uint8], reset: NDArray[np.float32]) -> Logits:
        """Advance one phase by one frame a stream.

        Args:
            phase: Whose states to use, 0 <= phase < num_phases.
            frames: One picture a stream, shape (N, H, W, 3), uint8, RGB.
            reset: 1 where a stream starts from the zero state, else 0; shape (N, 1), float32.

        Returns:
            Logits, shape (N, K), float32; the caller's own copy.

        Raises:
            ValueError: Shapes or dtypes that the graph does not take, or no such phase.
            SessionError: The engine failed, another thread's call, or the session is closed.
        """
        memory = self._usable_memory()
        context = self._usable_context()
        if not 0 <= phase < self.num_phases:
            raise ValueError(f"phase must be in 0..{self.num_phases - 1}, got {phase}")
        self._upload(memory, FRAME_INPUT, frames)
        self._upload(memory, RESET_INPUT, reset)
        self._bind_states(phase)
        if not context.execute_async_v3(memory.stream_handle):
            memory.synchronize()  # the uploads must not meet the next step's
            raise SessionError(f"{_explained('the engine does not run', self._log)}; {REBUILD}")
        logits = self._hosts[LOGITS_OUTPUT]
        memory.to_host(logits, self._addresses[LOGITS_OUTPUT])
        memory.synchronize()
        self._turns[phase] ^= 1  # only now: a failed step leaves the states as they were
        copy: Logits = logits.copy()
        return copy

    def _upload(self, memory: DeviceMemory, name: str, values: NDArray[Any]) -> None:
        wanted = self._tensors[name]
        if values.shape != wanted.shape or values.dtype != wanted.dtype:
            raise ValueError(f"{name} must be {wanted}, got {values.shape} {values.dtype}")
        host = self._hosts[name]
        np.copyto(host, values)
        memory.to_device(self._addresses[name], host)

    def _bind_states(self, phase: int) -> None:
        turn = self._turns[phase]
        for state in self._states[phase]:
            self._bind(state.spec.name_in, state.addresses[turn])
            self._bind(state.spec.name_out, state.addresses[turn ^ 1])

    def _bind(self, name: str, address: int) -> None:
        if not self._usable_context().set_tensor_address(name, address):
            raise SessionError(_explained(f"no address can be set for {name}", self._log))

    def _usable_memory(self) -> DeviceMemory:
        self._check_thread()
        if self._memory is None:
            raise SessionError(CLOSED)
        return self._memory

    def _usable_context(self) -> nv.IExecutionContext:
        if self._context is None:
            raise SessionError(CLOSED)
        return self._context

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise SessionError(
                "a TensorRT session was used from another thread than the one that made it; "
                "CUDA contexts belong to a thread: make, step and close it in one"
            )

    def close(self) -> None:
        """Free what the session holds; a second call does nothing.

        Raises:
            SessionError: Another thread's call, or the GPU reports an error.
        """
        self._check_thread()
        memory, self._memory = self._memory, None
        # TensorRT first, inside out, while its CUDA context is current; then our memory
        self._context = None
        self._engine = None
        self._runtime = None
        self._hosts.clear()
        if memory is not None:
            memory.close()

    def __enter__(self) -> TrtStepSession:
        """Return the session itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the session."""
        self.close()


def io_tensors(engine: nv.ICudaEngine) -> dict[str, Tensor]:
    """Inputs and outputs of an engine by name."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: Tensor(
            _sizes(engine.get_tensor_shape(name)), _dtype_name(engine.get_tensor_dtype(name))
        )
        for name in names
    }


def check_tensors(
    found: Mapping[str, Tensor], bundle: Bundle, states: tuple[StateSpec, ...], path: Path
) -> None:
    """Compare an engine's inputs and outputs with the bundle; N is the engine's own.

    Raises:
        EngineError: A name, shape or dtype differs.
    """
    num_streams = found[FRAME_INPUT].shape[0] if FRAME_INPUT in found else 1
    rule = bundle.picture
    wanted = {
        FRAME_INPUT: Tensor((num_streams, rule.height_px, rule.width_px, 3), "uint8"),
        RESET_INPUT: Tensor((num_streams, 1), "float32"),
        LOGITS_OUTPUT: Tensor((num_streams, len(bundle.labels)), "float32"),
    }
    for spec in states:
        tensor = Tensor((num_streams, *spec.shape[1:]), spec.dtype)
        wanted |= {spec.name_in: tensor, spec.name_out: tensor}
    problems = [
        f"{name} is {found.get(name, 'missing')}, must be {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if problems:
        raise EngineError(f"{path} does not fit the bundle: {'; '.join(problems)}; {REBUILD}")


def check_origin(engine: Engine, bundle: Bundle, graph_kind: GraphKind, trt: TensorRT) -> None:
    """Compare a plan's sidecar with the bundle's graph and the library at hand.

    Raises:
        EngineError: It was built from another graph or by another library.
    """
    (precision,) = (name for name, kind in GRAPH_OF.items() if kind == graph_kind)
    engine.require_fit(
        replace(
            engine.key,
            precision=precision,
            graph_sha256=bundle.sha256[bundle.graph(graph_kind).file],
            library=library_version(trt),
        )
    )


def check_device(engine: Engine, device: DeviceInfo) -> None:
    """Compare a plan's sidecar with the GPU at hand.

    Raises:
        EngineError: It was built for another GPU.
    """
    gpu = ANY_GPU if engine.key.gpu == ANY_GPU else device.name
    engine.require_fit(replace(engine.key, gpu=gpu, compute_capability=device.compute_capability))


def _library_of(engine: Engine) -> TensorRT:
    name = engine.key.library.split()[0]
    trt = find_tensorrt((name,))
    if trt is None:
        raise EngineError(f"{engine.path} needs the Python module {name}: {why_no_tensorrt(name)}")
    return trt


def _sizes(dims: nv.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _dtype_name(dtype: nv.DataType) -> str:
    name = str(dtype.name)
    return TRT_DTYPES.get(name, name)


def _explained(what: str, log: MessageLog) -> str:
    return explained(what, log.take_errors())
