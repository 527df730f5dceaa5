"""A stand-in for `cuda.bindings.runtime` on the emulated GPU of `tests/fake_cuda.py`.

Every function gives a tuple: an error code, then its result if it has one.
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fake_cuda import (
    CAPABILITY,
    GPU,
    MEMORY_BYTES,
    POISON,
    CudaError,
    Machine,
    Pinned,
)

STREAM = 0x5EED
Error = enum.IntEnum("Error", {"cudaSuccess": 0, "cudaErrorUnknown": 999})
Kind = enum.Enum(
    "Kind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"]
)
CaptureMode = enum.Enum("CaptureMode", ["cudaStreamCaptureModeThreadLocal"])


def fake_cudart(machine: Machine) -> Any:
    """The module's functions and enums that sessions use."""
    functions = _Functions(machine)
    names = [name for name in dir(functions) if name.startswith("cuda")]
    return SimpleNamespace(
        cudaError_t=Error,
        cudaMemcpyKind=Kind,
        cudaStreamCaptureMode=CaptureMode,
        cudaStreamNonBlocking=1,
        cudaHostAllocDefault=0,
        cudaHostAllocMapped=2,
        **{name: _coded(machine, functions, name) for name in names},
    )


def _coded(machine: Machine, functions: _Functions, name: str) -> Callable[..., tuple[Any, ...]]:
    def function(*arguments: Any) -> tuple[Any, ...]:
        try:
            machine.fail_if(name)
            result = getattr(functions, name)(*arguments)
        except CudaError as err:
            functions.last_error = str(err)
            return (Error.cudaErrorUnknown, None)
        return (Error.cudaSuccess,) if result is None else (Error.cudaSuccess, result)

    return function


class _Functions:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._handles = itertools.count(1)
        self._hosts: dict[int, Pinned] = {}
        # kept, as poison: a wrong session writes here, and must not write into the test's own heap
        self._freed: list[Pinned] = []
        self.last_error = ""

    def cudaGetErrorString(self, code: Error) -> bytes:
        return self.last_error.encode()

    def cudaGetDeviceProperties(self, device: int) -> Any:
        self._machine.fail_if("init")
        return SimpleNamespace(
            name=GPU.encode(),
            major=CAPABILITY[0],
            minor=CAPABILITY[1],
            totalGlobalMem=MEMORY_BYTES,
            integrated=int(self._machine.integrated),
        )

    def cudaSetDevice(self, device: int) -> None:
        self._machine.primary.add(threading.get_ident())

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        self._machine.use("stream")
        self._machine.streams += 1
        return STREAM

    def cudaStreamDestroy(self, stream: int) -> None:
        self._machine.use("stream end")
        self._machine.streams -= 1
        self._machine.events.append("stream destroyed")

    def cudaStreamSynchronize(self, stream: int) -> None:
        self._check(stream)
        self._machine.use("synchronize")
        self._machine.run_queue()

    def cudaMalloc(self, size: int) -> int:
        return self._machine.alloc(size)

    def cudaFree(self, address: int) -> None:
        self._machine.free(address)

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        pinned = Pinned(self._machine, (size,), np.dtype(np.uint8))
        address = pinned.bytes.ctypes.data
        self._hosts[address] = pinned
        return address

    def cudaHostGetDevicePointer(self, host: int, flags: int) -> int:
        return self._hosts[host].get_device_pointer()

    def cudaFreeHost(self, host: int) -> None:
        pinned = self._hosts.pop(host)
        pinned.free()
        pinned.bytes[:] = POISON
        self._freed.append(pinned)

    def cudaMemsetAsync(self, address: int, value: int, count: int, stream: int) -> None:
        self._check(stream)
        self._machine.fill(address, value, count)

    def cudaMemcpyAsync(
        self, target: int, source: int, count: int, kind: Kind, stream: int
    ) -> None:
        self._check(stream)
        if kind is Kind.cudaMemcpyHostToDevice:
            self._machine.copy("to device", (target, count), self._host(source, count))
        elif kind is Kind.cudaMemcpyDeviceToHost:
            self._machine.copy("to host", self._host(target, count), (source, count))
        else:
            self._machine.copy("on device", (target, count), (source, count))

    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> None:
        self._check(stream)
        self._machine.use("begin capture")
        if self._machine.queue:
            self._machine.faults.append("a capture began before the warm-up was done")
        self._machine.recording = []

    def cudaStreamEndCapture(self, stream: int) -> int:
        self._check(stream)
        recorded, self._machine.recording = self._machine.recording, None
        self._machine.fail_if("end capture")
        if recorded is None:
            raise CudaError("operation failed due to a previous error during capture")
        return self._new_graph(recorded)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._new_graph(self._machine.graphs[graph])

    def cudaGraphDestroy(self, graph: int) -> None:
        del self._machine.graphs[graph]

    def cudaGraphExecDestroy(self, executable: int) -> None:
        self._machine.use("graph end")
        del self._machine.graphs[executable]
        self._machine.events.append("graph destroyed")

    def cudaGraphLaunch(self, executable: int, stream: int) -> None:
        self._check(stream)
        self._machine.use("launch")
        if executable not in self._machine.graphs:
            self._machine.faults.append("a graph was launched that is not there")
            raise CudaError("invalid resource handle")
        self._machine.launches.append(executable)
        self._machine.start(self._machine.graphs[executable])

    def _new_graph(self, recorded: list[Any]) -> int:
        handle = next(self._handles)
        self._machine.graphs[handle] = recorded
        return handle

    def _host(self, address: int, count: int) -> np.ndarray[Any, Any]:
        return self._hosts[address].bytes[:count]

    def _check(self, stream: int) -> None:
        if stream != STREAM:
            self._machine.faults.append(f"another stream: {stream}")
