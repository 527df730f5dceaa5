"""Device memory for a session: one small interface, pycuda behind it, and the GPU's facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.errors import SessionError
from runtime.sessions.cudart import Cudart

# IExecutionContext.set_tensor_address wants 256; cudaMalloc gives it, an emulation must too.
ALIGNMENT_BYTES = 256
DRIVER_HELP = (
    "check the driver (nvidia-smi, tegrastats on a Jetson) and that this user is in the groups "
    "`video` and `render`"
)


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU: its name and its compute capability, `8.7`.

    Attributes:
        name: As the driver says it.
        compute_capability: Major and minor.
        total_bytes: Its memory where it is known.
        is_integrated: Whether it shares its memory with the CPU, as a Jetson's does.
    """

    name: str
    compute_capability: str
    total_bytes: int | None = field(default=None, compare=False)
    is_integrated: bool = field(default=False, compare=False)


class PycudaMissingError(SessionError):
    """pycuda is not installed or does not load; cuda-bindings may do."""


class DeviceMemory(Protocol):
    """One CUDA context with one stream, and the buffers made in it.

    It belongs to the thread that made it. Copies and fills are queued on the stream, in order;
    host arrays may be read or written again after `synchronize`.
    """

    @property
    def device(self) -> DeviceInfo:
        """The GPU it is on."""
        ...

    @property
    def stream_handle(self) -> int:
        """The stream as `execute_async_v3` takes it; never the default stream."""
        ...

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory, aligned to 256 bytes; its contents are undefined."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A page-locked host array; its contents are undefined."""
        ...

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
        """A page-locked host array that kernels read and write themselves, and its address there.

        For GPUs that share the CPU's memory. Contents are undefined; the host may touch it only
        when nothing queued uses it.
        """
        ...

    def fill_zero(self, address: int, size_bytes: int) -> None:
        """Queue zeros into device memory."""
        ...

    def to_device(self, address: int, host: NDArray[Any]) -> None:
        """Queue a copy of a pinned array into device memory."""
        ...

    def to_host(self, host: NDArray[Any], address: int) -> None:
        """Queue a copy of device memory into a pinned array."""
        ...

    def on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy of device memory to other device memory; addresses of any alignment."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        ...

    def close(self) -> None:
        """Free the buffers, the stream and the context."""
        ...


class PycudaMemory:
    """`DeviceMemory` on pycuda.

    It retains the device's primary context, which TensorRT's own CUDA runtime uses too, and never
    `pycuda.autoinit`, which makes a context of its own.

    Args:
        device_index: Which GPU.

    Raises:
        SessionError: pycuda is not installed, or CUDA does not start.
    """

    def __init__(self, device_index: int = 0) -> None:
        self._cuda = _import_pycuda()
        self._closing = ExitStack()
        with self._errors("CUDA does not start"):
            self._cuda.init()
            device = self._cuda.Device(device_index)
            self._device = _device_info(self._cuda, device)
            self._context = device.retain_primary_context()
            self._context.push()
            self._closing.callback(self._pop_context)
        try:
            with self._errors("a CUDA stream cannot be made"):
                self._stream = self._cuda.Stream()
        except SessionError:
            self.close()
            raise

    @property
    def device(self) -> DeviceInfo:
        """The GPU it is on."""
        return self._device

    @property
    def stream_handle(self) -> int:
        """The stream as `execute_async_v3` takes it."""
        return int(self._stream.handle)

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory."""
        with self._errors(f"{size_bytes} bytes of GPU memory cannot be had"):
            buffer = self._cuda.mem_alloc(size_bytes)
        self._closing.callback(buffer.free)
        return int(buffer)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A page-locked host array."""
        with self._errors(f"page-locked memory for {shape} cannot be had"):
            array: NDArray[Any] = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        self._closing.callback(array.base.free)  # type: ignore[union-attr]  # pycuda's own type
        return array

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
        """A page-locked host array, and the address at which the GPU sees it."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP
        with self._errors(f"mapped memory for {shape} cannot be had"):
            array: NDArray[Any] = self._cuda.pagelocked_empty(
                shape, np.dtype(dtype), mem_flags=flags
            )
        base: Any = array.base
        self._closing.callback(base.free)
        with self._errors("host memory cannot be mapped"):
            return array, int(base.get_device_pointer())

    def fill_zero(self, address: int, size_bytes: int) -> None:
        """Queue zeros into device memory."""
        with self._errors("a buffer cannot be cleared"):
            self._cuda.memset_d8_async(address, 0, size_bytes, self._stream)

    def to_device(self, address: int, host: NDArray[Any]) -> None:
        """Queue a copy to the device."""
        with self._errors("a copy to the GPU failed"):
            self._cuda.memcpy_htod_async(address, host, self._stream)

    def to_host(self, host: NDArray[Any], address: int) -> None:
        """Queue a copy from the device."""
        with self._errors("a copy from the GPU failed"):
            self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy from device memory to device memory."""
        with self._errors("a copy on the GPU failed"):
            self._cuda.memcpy_dtod_async(target, source, size_bytes, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream."""
        with self._errors("the GPU reports an error"):
            self._stream.synchronize()

    def close(self) -> None:
        """Free buffers in reverse order, then the stream, then release the context."""
        with self._errors("GPU memory cannot be freed"):
            self._closing.close()

    def _pop_context(self) -> None:
        self._stream = None
        self._context.pop()
        self._context = None  # the last reference releases the primary context

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as err:
            raise SessionError(f"{what}: {err}; close other GPU programs or restart it") from err


def cuda_device(device_index: int = 0) -> DeviceInfo | None:
    """The GPU, or None where there is none, or neither pycuda nor cuda-bindings; never raises."""
    try:
        return require_cuda_device(device_index)
    except SessionError:
        return None


def require_cuda_device(device_index: int = 0) -> DeviceInfo:
    """The GPU, through pycuda or, where that is not installed, cuda-bindings.

    Raises:
        SessionError: Neither is installed, or CUDA does not start; says what helps.
    """
    try:
        cuda = _import_pycuda()
    except PycudaMissingError as missing:
        try:
            cudart = Cudart()
        except SessionError:
            raise SessionError(f"{missing}; or install cuda-bindings") from None
        return cudart_device_info(cudart, device_index)
    try:
        cuda.init()
        return _device_info(cuda, cuda.Device(device_index))
    except cuda.Error as err:
        raise SessionError(f"CUDA does not start: {err}; {DRIVER_HELP}") from err


def cudart_device_info(cudart: Cudart, device_index: int) -> DeviceInfo:
    """The GPU as cuda-bindings sees it.

    Raises:
        SessionError: CUDA does not start.
    """
    try:
        facts = cudart.call("CUDA does not start", cudart.api.cudaGetDeviceProperties, device_index)
    except SessionError as err:
        raise SessionError(f"{err}; {DRIVER_HELP}") from err
    return DeviceInfo(
        facts.name.decode(),
        f"{facts.major}.{facts.minor}",
        int(facts.totalGlobalMem),
        bool(facts.integrated),
    )


def _device_info(cuda: Any, device: Any) -> DeviceInfo:
    major, minor = device.compute_capability()
    integrated = device.get_attribute(cuda.device_attribute.INTEGRATED)
    return DeviceInfo(
        str(device.name()), f"{major}.{minor}", int(device.total_memory()), bool(integrated)
    )


def _import_pycuda() -> Any:
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as err:
        raise PycudaMissingError(
            f"pycuda cannot be imported ({err}); on a Jetson: "
            "PATH=/usr/local/cuda/bin:$PATH pip install pycuda (it needs nvcc and cuda.h there)"
        ) from err
    except (ImportError, OSError) as err:
        raise PycudaMissingError(
            f"pycuda cannot be imported ({err}); it was built for another CUDA or finds no driver: "
            "PATH=/usr/local/cuda/bin:$PATH pip install --force-reinstall --no-cache-dir pycuda"
        ) from err
    return cuda
