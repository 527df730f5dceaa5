"""The emulated GPU: host memory behind a stand-in for `pycuda.driver`.

What it copies from the real one, because sessions go wrong there:

- work is queued on a stream and done at `synchronize`; a host array handed to a copy is poison
  until then
- new memory and freed buffers hold poison
- a call needs a current context on its own thread
- mapped host memory has another address on the device
- a stream that is being captured runs nothing, and allows neither waiting nor allocating

`Machine.faults` lists what the real device would have punished some other way (a crash, a leak,
a stall).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

POISON = 0x7F  # as float32 3.4e38, as int8 127
ALIGNMENT_BYTES = 256
GPU = "Emulated Orin"
CAPABILITY = (8, 7)
MAPPED_OFFSET = 1 << 60
NOT_WHILE_CAPTURING = ("alloc", "pinned", "free", "synchronize", "stream")
MEMORY_BYTES = 7_600 << 20


# a host array, or a device address and a size in bytes
Memory: TypeAlias = "np.ndarray[Any, Any] | tuple[int, int]"


class CudaError(Exception):
    """pycuda's `Error`."""


@dataclass(frozen=True)
class Work:
    """One thing queued on a stream, and the host array that it writes."""

    run: Callable[[], None]
    written: np.ndarray[Any, Any] | None = None


class Machine:
    """The state of the emulated GPU.

    Attributes:
        events: What happened, in order, for tests of shutdown.
        faults: What must not happen.
        integrated: Whether it shares the CPU's memory.
        allocations: How many buffers were ever made.
        executions: Addresses by tensor name of every execution that ran.
        copies: Every copy that ran, as `to device`, `to host` or `on device`.
        recording: What a capture has queued so far; None outside one.
        graphs: Captured graphs that live, by handle; executable ones as well.
        launches: Handle of every graph launch.
        streams: Streams made through cudart that live.
        primary: Threads on which cudart made the primary context current.
        fail: Name of the next call that fails: `alloc`, `stream`, `execute`, `deserialise`,
            `context`, or a function of `cuda.bindings.runtime`.
        builds: How many plans were built, failed attempts included.
        attempts: Each build's network flags, builder flags and workspace in bytes.
        build_errors: What the next builds fail with, one text each.
        build_raises: What the next builds raise.
        strong_error: What every strongly typed build fails with; empty if it does not.
        load_error: What loading a plan fails with; empty if it does not.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.faults: list[str] = []
        self.integrated = False
        self.buffers: dict[int, np.ndarray[Any, Any]] = {}
        self.queue: list[Callable[[], None]] = []
        self.contexts: dict[int, int] = {}
        self.copies: list[str] = []
        self.recording: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.launches: list[int] = []
        self.streams = 0
        self.primary: set[int] = set()
        self.allocations = 0
        self.pinned = 0
        self.executions: list[dict[str, int]] = []
        self.fail = ""
        self.builds = 0
        self.attempts: list[tuple[int, set[str], int]] = []
        self.build_errors: list[str] = []
        self.build_raises: list[Exception] = []
        self.strong_error = ""
        self.load_error = ""

    def use(self, what: str) -> None:
        """Note a CUDA call; it needs a current context."""
        if not self.has_context():
            self.faults.append(f"{what} without a current context")
            raise CudaError(f"{what}: invalid device context")
        if self.recording is not None and what in NOT_WHILE_CAPTURING:
            self.recording = None
            self.faults.append(f"{what} in a capture")
            raise CudaError(f"{what}: operation not permitted when stream is capturing")
        self.fail_if(what)

    def has_context(self) -> bool:
        """Whether this thread has a current context: pushed, or the primary one by cudart."""
        thread = threading.get_ident()
        return bool(self.contexts.get(thread)) or thread in self.primary

    def fail_if(self, what: str) -> None:
        if self.fail == what:
            self.fail = ""
            raise CudaError(f"{what}: injected failure")

    def alloc(self, size_bytes: int) -> int:
        self.use("alloc")
        self.allocations += 1
        raw = np.full(size_bytes + 2 * ALIGNMENT_BYTES, POISON, np.uint8)
        address = -(-raw.ctypes.data // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        start = address - raw.ctypes.data
        self.buffers[address] = raw[start : start + size_bytes]
        return address

    def free(self, address: int) -> None:
        self.use("free")
        self.buffers.pop(address)[:] = POISON
        self.events.append("buffer freed")

    def map(self, host: np.ndarray[Any, Any]) -> int:
        """Make a host array's bytes readable on the device; gives their address there."""
        address = host.ctypes.data + MAPPED_OFFSET
        self.buffers[address] = bytes_of(host)
        return address

    def memory(self, address: int, size_bytes: int) -> np.ndarray[Any, Any]:
        """Live device memory, as bytes; the address may lie inside a buffer."""
        for start, buffer in self.buffers.items():
            if start <= address and address + size_bytes <= start + len(buffer):
                return buffer[address - start : address - start + size_bytes]
        self.faults.append(f"{size_bytes} bytes at an address that has no such buffer")
        raise CudaError("an illegal memory access was encountered")

    def submit(self, run: Callable[[], None], written: np.ndarray[Any, Any] | None = None) -> None:
        """Queue work, or record it; a host array that it writes is poison until it has run."""
        work = Work(run, written)
        if self.recording is not None:
            self.recording.append(work)
        else:
            self.start([work])

    def start(self, recorded: list[Work]) -> None:
        for work in recorded:
            if work.written is not None:
                bytes_of(work.written)[:] = POISON
            self.queue.append(work.run)

    def copy(self, name: str, target: Memory, source: Memory) -> None:
        """Queue a copy; each side is a host array, or a device address and its size."""
        self.use("copy")
        for side in (target, source):
            self._bytes(side)  # a wrong address is refused at once

        def run() -> None:
            self.copies.append(name)
            self._bytes(target)[:] = self._bytes(source)

        self.submit(run, target if isinstance(target, np.ndarray) else None)

    def fill(self, address: int, value: int, size_bytes: int) -> None:
        self.use("fill")
        self.memory(address, size_bytes)
        self.submit(lambda: self.memory(address, size_bytes).fill(value))

    def _bytes(self, side: Memory) -> np.ndarray[Any, Any]:
        return bytes_of(side) if isinstance(side, np.ndarray) else self.memory(*side)

    def run_queue(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def check_clean(self) -> None:
        """Nothing went wrong and nothing is left."""
        assert self.faults == []
        assert self.buffers == {}
        assert self.pinned == 0
        assert self.graphs == {}
        assert self.streams == 0
        assert not any(self.contexts.values())


class _CudaContext:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def push(self) -> None:
        self._machine.contexts[threading.get_ident()] = self._depth() + 1

    def pop(self) -> None:
        self._machine.contexts[threading.get_ident()] = self._depth() - 1
        self._machine.events.append("context popped")

    def _depth(self) -> int:
        return self._machine.contexts.get(threading.get_ident(), 0)


class _Device:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def name(self) -> str:
        return GPU

    def compute_capability(self) -> tuple[int, int]:
        return CAPABILITY

    def total_memory(self) -> int:
        return MEMORY_BYTES

    def get_attribute(self, attribute: str) -> int:
        assert attribute == "integrated"
        return int(self._machine.integrated)

    def retain_primary_context(self) -> _CudaContext:
        return _CudaContext(self._machine)


class _Stream:
    def __init__(self, machine: Machine) -> None:
        machine.use("stream")
        self._machine = machine
        self.handle = 0x5EED

    def synchronize(self) -> None:
        self._machine.use("synchronize")
        self._machine.run_queue()


class _Allocation:
    def __init__(self, machine: Machine, size_bytes: int) -> None:
        self._machine = machine
        self._address = machine.alloc(size_bytes)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._machine.free(self._address)


class Pinned:
    """Page-locked memory; the base of pycuda's array."""

    def __init__(self, machine: Machine, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        machine.use("pinned")
        machine.pinned += 1
        self._machine = machine
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        raw = np.full(size_bytes + ALIGNMENT_BYTES, POISON, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT_BYTES
        self.bytes = raw[start : start + size_bytes]
        self._mapped_at: int | None = None
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self.bytes.ctypes.data, False),
            "version": 3,
        }

    def get_device_pointer(self) -> int:
        self._machine.use("map")
        self._mapped_at = self._machine.map(self.bytes)
        return self._mapped_at

    def free(self) -> None:
        self._machine.use("free")
        self._machine.pinned -= 1
        if self._mapped_at is not None:
            del self._machine.buffers[self._mapped_at]


class _Copies:
    """pycuda's asynchronous copies and fills."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def memcpy_htod_async(self, dest: int, src: np.ndarray[Any, Any], stream: _Stream) -> None:
        self._machine.copy("to device", (dest, src.nbytes), src)

    def memcpy_dtoh_async(self, dest: np.ndarray[Any, Any], src: int, stream: _Stream) -> None:
        self._machine.copy("to host", dest, (src, dest.nbytes))

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: _Stream) -> None:
        self._machine.copy("on device", (dest, size), (src, size))

    def memset_d8_async(self, dest: int, data: int, size: int, stream: _Stream) -> None:
        self._machine.fill(dest, data, size)


def fake_pycuda_driver(machine: Machine) -> ModuleType:
    """A stand-in for `pycuda.driver`."""
    copies = _Copies(machine)
    driver = ModuleType("pycuda.driver")
    driver.__dict__.update(
        Error=CudaError,
        init=lambda: machine.fail_if("init"),
        Device=lambda index: _Device(machine),
        Stream=lambda: _Stream(machine),
        device_attribute=SimpleNamespace(INTEGRATED="integrated"),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
        mem_alloc=lambda size_bytes: _Allocation(machine, size_bytes),
        pagelocked_empty=lambda shape, dtype, mem_flags=0: np.asarray(
            Pinned(machine, shape, dtype)
        ),
        memcpy_htod_async=copies.memcpy_htod_async,
        memcpy_dtoh_async=copies.memcpy_dtoh_async,
        memcpy_dtod_async=copies.memcpy_dtod_async,
        memset_d8_async=copies.memset_d8_async,
    )
    return driver


def bytes_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
