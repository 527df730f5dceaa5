"""The emulated GPU: host memory behind a stand-in for `pycuda.driver`.

What it copies from the real one, because sessions go wrong there:

- work is queued on a stream and done at `synchronize`; a host array handed to a copy is poison
  until then
- new memory and freed buffers hold poison
- a call needs a current context on its own thread

`Machine.faults` lists what the real device would have punished some other way (a crash, a leak,
a stall).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

POISON = 0x7F  # as float32 3.4e38, as int8 127
ALIGNMENT_BYTES = 256
GPU = "Emulated Orin"
CAPABILITY = (8, 7)
MEMORY_BYTES = 7_600 << 20


class CudaError(Exception):
    """pycuda's `Error`."""


class Machine:
    """The state of the emulated GPU.

    Attributes:
        events: What happened, in order, for tests of shutdown.
        faults: What must not happen.
        allocations: How many buffers were ever made.
        executions: Every execution's addresses by tensor name.
        fail: Name of the next call that fails: `alloc`, `stream`, `execute`, `deserialise`,
            `context`.
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
        self.buffers: dict[int, np.ndarray[Any, Any]] = {}
        self.queue: list[Callable[[], None]] = []
        self.contexts: dict[int, int] = {}
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
        if not self.contexts.get(threading.get_ident()):
            self.faults.append(f"{what} without a current context")
            raise CudaError(f"{what}: invalid device context")
        self.fail_if(what)

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

    def memory(self, address: int, size_bytes: int) -> np.ndarray[Any, Any]:
        """The live buffer at an address, as bytes."""
        buffer = self.buffers.get(address)
        if buffer is None or len(buffer) < size_bytes:
            self.faults.append(f"{size_bytes} bytes at an address that has no such buffer")
            raise CudaError("an illegal memory access was encountered")
        return buffer[:size_bytes]

    def run_queue(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def check_clean(self) -> None:
        """Nothing went wrong and nothing is left."""
        assert self.faults == []
        assert self.buffers == {}
        assert self.pinned == 0
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


class _Pinned:
    """The base of a page-locked array."""

    def __init__(self, machine: Machine, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        machine.use("pinned")
        machine.pinned += 1
        self._machine = machine
        self._bytes = np.full(int(np.prod(shape)) * dtype.itemsize, POISON, np.uint8)
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self._bytes.ctypes.data, False),
            "version": 3,
        }

    def free(self) -> None:
        self._machine.use("free")
        self._machine.pinned -= 1


class _Copies:
    """pycuda's asynchronous copies and fills: queued now, done at `synchronize`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def memcpy_htod_async(self, dest: int, src: np.ndarray[Any, Any], stream: _Stream) -> None:
        self._machine.use("copy")
        target = self._machine.memory(dest, src.nbytes)
        self._machine.queue.append(lambda: _copy(target, _bytes_of(src)))

    def memcpy_dtoh_async(self, dest: np.ndarray[Any, Any], src: int, stream: _Stream) -> None:
        self._machine.use("copy")
        source = self._machine.memory(src, dest.nbytes)
        _bytes_of(dest)[:] = POISON
        self._machine.queue.append(lambda: _copy(_bytes_of(dest), source))

    def memset_d8_async(self, dest: int, data: int, size: int, stream: _Stream) -> None:
        self._machine.use("fill")
        target = self._machine.memory(dest, size)
        self._machine.queue.append(lambda: target.fill(data))


def fake_pycuda_driver(machine: Machine) -> ModuleType:
    """A stand-in for `pycuda.driver`."""
    copies = _Copies(machine)
    driver = ModuleType("pycuda.driver")
    driver.__dict__.update(
        Error=CudaError,
        init=lambda: machine.fail_if("init"),
        Device=lambda index: _Device(machine),
        Stream=lambda: _Stream(machine),
        mem_alloc=lambda size_bytes: _Allocation(machine, size_bytes),
        pagelocked_empty=lambda shape, dtype: np.asarray(_Pinned(machine, shape, dtype)),
        memcpy_htod_async=copies.memcpy_htod_async,
        memcpy_dtoh_async=copies.memcpy_dtoh_async,
        memset_d8_async=copies.memset_d8_async,
    )
    return driver


def _copy(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    target[:] = source


def _bytes_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
