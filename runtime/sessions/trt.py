"""A step graph as a TensorRT engine: `tensorrt` or `tensorrt_rtx`, with memory it owns."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.build_failure import explained
from runtime.bundle import (
    FRAME_INPUT,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    GraphKind,
    StateSpec,
)
from runtime.engine import Engine, load_engine
from runtime.errors import EngineError, SessionError
from runtime.nvidia import (
    MessageLog,
    find_tensorrt,
    library_version,
    message_log,
    why_no_tensorrt,
)
from runtime.nvidia_types import TensorRT
from runtime.sessions.base import Held, Logits
from runtime.sessions.cuda_graph import CudaGraph, capture_graph
from runtime.sessions.cuda_memory import DeviceMemory
from runtime.sessions.cudart import Cudart
from runtime.sessions.cudart_memory import open_memory
from runtime.sessions.engine_tensors import (
    REBUILD,
    EngineTensor,
    check_device,
    check_origin,
    check_tensors,
    io_tensors,
)

if TYPE_CHECKING:
    import tensorrt as nv

CLOSED = "the session is closed; make a new one"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateBuffers:
    """Two device buffers of one state and phase: read one, write the other, then swap."""

    spec: StateSpec
    addresses: tuple[int, int]


class TrtStepSession:
    """A `StepSession` on an NVIDIA GPU.

    The caller's frames go through a page-locked buffer to the GPU on a stream of the session's
    own, and the logits come back the same way; where GPU and CPU share their memory the engine
    reads and writes those buffers itself. The states never leave the GPU: each phase has two sets
    of buffers that swap roles at every step. Nothing is allocated while stepping.

    With cuda-bindings a step's copies and kernels are recorded as a CUDA graph, one for each phase
    and turn, and started by one call. Without it, or where the engine cannot be recorded, they are
    queued one by one, and one log line says why.

    Args:
        bundle: The bundle that the plan was built from.
        plan_path: The plan, with its sidecar (`runtime.engine`).
        graph_kind: Which of the bundle's step graphs.
        phases: Independent sets of states.
        trt: `tensorrt` or `tensorrt_rtx`; found by the plan's sidecar if None.
        memory: Device memory; pycuda's or cuda-bindings' if None. The session closes it.
        cuda_graphs: Record steps where that is possible.

    Raises:
        ValueError: `phases` < 1.
        BundleError: The bundle has no such graph.
        EngineError: The plan is not this user's, changed, stale, or does not fit the bundle.
        SessionError: Neither pycuda nor cuda-bindings is installed, or the GPU fails.
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
        cuda_graphs: bool = True,
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
        self._graphs: dict[tuple[int, int], CudaGraph] = {}
        self._why_queued = "" if cuda_graphs else "not asked for"
        try:
            self._open(bundle, plan_path, graph_kind, trt)
            if cuda_graphs:
                self._record_steps()
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
            self._memory = open_memory()
        check_device(engine, self._memory.device)
        self._log = message_log(trt)
        self._log.take_errors()
        self._deserialise(trt, engine)
        check_tensors(self._tensors, bundle, states, plan_path)
        self._is_mapped = self._memory.device.is_integrated
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
            if self._is_mapped:
                self._hosts[name], address = memory.mapped(tensor.shape, tensor.dtype)
            else:
                self._hosts[name] = memory.pinned(tensor.shape, tensor.dtype)
                address = memory.alloc(tensor.size_bytes)
            self._addresses[name] = address
            self._bind(name, address)
        for _ in self._turns:
            buffers = [StateBuffers(spec, self._pair(memory, spec)) for spec in states]
            self._states.append(buffers)
        self._clear_states(memory)

    def _pair(self, memory: DeviceMemory, spec: StateSpec) -> tuple[int, int]:
        size_bytes = self._tensors[spec.name_in].size_bytes
        return memory.alloc(size_bytes), memory.alloc(size_bytes)

    def _clear_states(self, memory: DeviceMemory) -> None:
        for buffers in self._states:
            for state in buffers:
                for address in state.addresses:
                    memory.fill_zero(address, self._tensors[state.spec.name_in].size_bytes)
        memory.synchronize()

    def _record_steps(self) -> None:
        """Make the CUDA graphs, or say why there are none."""
        memory = self._usable_memory()
        try:
            cudart = Cudart()
        except SessionError as err:
            self._why_queued = str(err)
            logger.info("steps are queued call by call, not as CUDA graphs: %s", err)
            return
        try:
            for phase in range(self.num_phases):
                for turn in range(2):
                    self._graphs[phase, turn] = self._recorded(cudart, memory, phase, turn)
        except SessionError as err:
            self._destroy_graphs()
            self._why_queued = str(err)
            logger.warning("steps are queued call by call, not as CUDA graphs: %s", err)
        else:
            self._description += ", CUDA graphs"
        self._clear_states(memory)

    def _recorded(self, cudart: Cudart, memory: DeviceMemory, phase: int, turn: int) -> CudaGraph:
        # the first run with new addresses may allocate, which no recording can
        self._enqueue(memory, phase, turn)
        memory.synchronize()
        enqueue = partial(self._enqueue, memory, phase, turn)
        return capture_graph(cudart, memory.stream_handle, enqueue)

    @property
    def description(self) -> str:
        """Engine, its version, device and precision, for people and logs."""
        return self._description

    @property
    def why_queued(self) -> str:
        """Why steps are no CUDA graphs; empty where they are."""
        return self._why_queued

    @property
    def num_streams(self) -> int:
        """Rows N of the batch."""
        return self._tensors[FRAME_INPUT].shape[0]

    @property
    def num_phases(self) -> int:
        """Independent sets of states."""
        return len(self._turns)

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase by one frame a stream.

        Args:
            phase: Whose states to use, 0 <= phase < num_phases.
            frames: One picture a stream, shape (N, H, W, 3), uint8, RGB.
            reset: 1 where a stream starts from the zero state, else 0; shape (N, 1), float32.
            held: True where a stream has no frame: its states stay as they are, bit for bit, and
                its logits mean nothing; shape (N,), bool. None holds no stream.

        Returns:
            Logits, shape (N, K), float32; the caller's own copy.

        Raises:
            ValueError: Shapes or dtypes that the graph does not take, or no such phase.
            SessionError: The engine failed, another thread's call, or the session is closed.
        """
        memory = self._usable_memory()
        if not 0 <= phase < self.num_phases:
            raise ValueError(f"phase must be in 0..{self.num_phases - 1}, got {phase}")
        self._check(FRAME_INPUT, frames)
        self._check(RESET_INPUT, reset)
        runs = self._held_runs(held)
        turn = self._turns[phase]
        np.copyto(self._hosts[FRAME_INPUT], frames)
        np.copyto(self._hosts[RESET_INPUT], reset)
        try:
            self._queue_step(memory, phase, turn)
        except SessionError:
            memory.synchronize()  # its uploads must not meet the next step's
            raise
        for first, count in runs:
            self._hold(memory, phase, turn, first, count)
        memory.synchronize()
        self._turns[phase] ^= 1  # only now: a failed step leaves the states as they were
        copy: Logits = self._hosts[LOGITS_OUTPUT].copy()
        return copy

    def _check(self, name: str, values: NDArray[Any]) -> None:
        wanted = self._tensors[name]
        if values.shape != wanted.shape or values.dtype != wanted.dtype:
            raise ValueError(f"{name} must be {wanted}, got {values.shape} {values.dtype}")

    def _held_runs(self, held: Held | None) -> list[tuple[int, int]]:
        """Held rows as (first row, how many): neighbours are copied at once."""
        if held is None:
            return []
        wanted = EngineTensor((self.num_streams,), "bool")
        if held.shape != wanted.shape or held.dtype != wanted.dtype:
            raise ValueError(f"held must be {wanted}, got {held.shape} {held.dtype}")
        edges = np.flatnonzero(np.diff(held, prepend=False, append=False))
        return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]

    def _queue_step(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        graph = self._graphs.get((phase, turn))
        if graph is not None:
            graph.launch()
            return
        try:
            self._enqueue(memory, phase, turn)
        except SessionError as err:
            raise SessionError(f"{err}; {REBUILD}") from err

    def _enqueue(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        """Queue a step's copies and kernels; everything of it has a fixed address."""
        self._bind_states(phase, turn)
        if not self._is_mapped:
            for name in (FRAME_INPUT, RESET_INPUT):
                memory.to_device(self._addresses[name], self._hosts[name])
        if not self._usable_context().execute_async_v3(memory.stream_handle):
            raise SessionError(_explained("the engine does not run", self._log))
        if not self._is_mapped:
            memory.to_host(self._hosts[LOGITS_OUTPUT], self._addresses[LOGITS_OUTPUT])

    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        """Queue the copies that give rows their old states; rows are the states' first axis."""
        for state in self._states[phase]:
            row_bytes = self._tensors[state.spec.name_in].size_bytes // self.num_streams
            read, written = state.addresses[turn], state.addresses[turn ^ 1]
            start = first * row_bytes
            memory.on_device(written + start, read + start, count * row_bytes)

    def _bind_states(self, phase: int, turn: int) -> None:
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
        # graphs and TensorRT first, inside out, while the CUDA context is current; then our memory
        try:
            self._destroy_graphs()
        finally:
            self._context = None
            self._engine = None
            self._runtime = None
            self._hosts.clear()
            if memory is not None:
                memory.close()

    def _destroy_graphs(self) -> None:
        while self._graphs:
            _, graph = self._graphs.popitem()
            graph.destroy()

    def __enter__(self) -> TrtStepSession:
        """Return the session itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the session."""
        self.close()


def _library_of(engine: Engine) -> TensorRT:
    name = engine.key.library.split()[0]
    trt = find_tensorrt((name,))
    if trt is None:
        raise EngineError(f"{engine.path} needs the Python module {name}: {why_no_tensorrt(name)}")
    return trt


def _explained(what: str, log: MessageLog) -> str:
    return explained(what, log.take_errors())
