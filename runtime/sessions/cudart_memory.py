"""Device memory through cuda-bindings, where pycuda is not installed."""

from __future__ import annotations

import ctypes
import logging
import math
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.sessions.cuda_memory import (
    DeviceInfo,
    DeviceMemory,
    PycudaMemory,
    PycudaMissingError,
    cudart_device_info,
)
from runtime.sessions.cudart import Cudart, has_cudart

logger = logging.getLogger(__name__)


class CudartMemory:
    """`DeviceMemory` on cuda-bindings, in the device's primary context.

    Args:
        device_index: Which GPU.

    Raises:
        SessionError: cuda-bindings is not installed, or CUDA does not start.
    """

    def __init__(self, device_index: int = 0) -> None:
        self._cudart = Cudart()
        self._closing = ExitStack()
        api = self._cudart.api
        self._kinds = api.cudaMemcpyKind
        self._device = cudart_device_info(self._cudart, device_index)
        self._cudart.call("CUDA does not start", api.cudaSetDevice, device_index)
        self._stream = self._cudart.call(
            "a CUDA stream cannot be made",
            api.cudaStreamCreateWithFlags,
            api.cudaStreamNonBlocking,
        )
        self._closing.callback(
            self._cudart.call, "a stream cannot be freed", api.cudaStreamDestroy, self._stream
        )

    @property
    def device(self) -> DeviceInfo:
        """The GPU it is on."""
        return self._device

    @property
    def stream_handle(self) -> int:
        """The stream as `execute_async_v3` takes it."""
        return int(self._stream)

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory."""
        what = f"{size_bytes} bytes of GPU memory cannot be had"
        address = int(self._cudart.call(what, self._cudart.api.cudaMalloc, size_bytes))
        self._closing.callback(
            self._cudart.call, "GPU memory cannot be freed", self._cudart.api.cudaFree, address
        )
        return address

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A page-locked host array."""
        return self._host_array(shape, dtype, self._cudart.api.cudaHostAllocDefault)

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
        """A page-locked host array, and the address at which the GPU sees it."""
        array = self._host_array(shape, dtype, self._cudart.api.cudaHostAllocMapped)
        address = self._cudart.call(
            "host memory cannot be mapped",
            self._cudart.api.cudaHostGetDevicePointer,
            array.ctypes.data,
            0,
        )
        return array, int(address)

    def _host_array(self, shape: tuple[int, ...], dtype: DTypeLike, flags: int) -> NDArray[Any]:
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        what = f"page-locked memory for {shape} cannot be had"
        address = int(self._cudart.call(what, self._cudart.api.cudaHostAlloc, size_bytes, flags))
        self._closing.callback(
            self._cudart.call,
            "page-locked memory cannot be freed",
            self._cudart.api.cudaFreeHost,
            address,
        )
        raw = (ctypes.c_ubyte * size_bytes).from_address(address)
        array: NDArray[Any] = np.ctypeslib.as_array(raw).view(np.dtype(dtype)).reshape(shape)
        return array

    def fill_zero(self, address: int, size_bytes: int) -> None:
        """Queue zeros into device memory."""
        what = "a buffer cannot be cleared"
        self._cudart.call(
            what, self._cudart.api.cudaMemsetAsync, address, 0, size_bytes, self._stream
        )

    def to_device(self, address: int, host: NDArray[Any]) -> None:
        """Queue a copy to the device."""
        kind = self._kinds.cudaMemcpyHostToDevice
        self._copy("a copy to the GPU failed", address, host.ctypes.data, host.nbytes, kind)

    def to_host(self, host: NDArray[Any], address: int) -> None:
        """Queue a copy from the device."""
        kind = self._kinds.cudaMemcpyDeviceToHost
        self._copy("a copy from the GPU failed", host.ctypes.data, address, host.nbytes, kind)

    def on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy from device memory to device memory."""
        kind = self._kinds.cudaMemcpyDeviceToDevice
        self._copy("a copy on the GPU failed", target, source, size_bytes, kind)

    def _copy(self, what: str, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._cudart.call(
            what, self._cudart.api.cudaMemcpyAsync, target, source, size_bytes, kind, self._stream
        )

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._cudart.call(
            "the GPU reports an error", self._cudart.api.cudaStreamSynchronize, self._stream
        )

    def close(self) -> None:
        """Free buffers in reverse order, then the stream; the primary context stays."""
        self._closing.close()


def open_memory() -> DeviceMemory:
    """Device memory of the first GPU: pycuda's, or cuda-bindings' where pycuda is not installed.

    Raises:
        SessionError: Neither is installed, or CUDA does not start.
    """
    try:
        return PycudaMemory()
    except PycudaMissingError as err:
        if not has_cudart():
            raise
        logger.info("device memory through cuda-bindings: %s", err)
    return CudartMemory()
