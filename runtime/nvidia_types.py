"""NVIDIA's library for the type checker: every name of the module that this project uses.

`tensorrt` and `tensorrt_rtx` are found at run time, so a parameter `trt: TensorRT` is the module.
mypy holds this list against `tensorrt-stubs`, and what the code does with the classes behind it;
a test holds all of it against NVIDIA's real bindings, release by release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tensorrt as nv


class TensorRT(Protocol):
    """The module `tensorrt`, or `tensorrt_rtx`."""

    __name__: str
    __version__: str

    def __hash__(self) -> int: ...
    @property
    def Builder(self) -> type[nv.Builder]: ...  # noqa: D102, N802  NVIDIA's names, here and below
    @property
    def BuilderFlag(self) -> type[nv.BuilderFlag]: ...  # noqa: D102, N802
    @property
    def DataType(self) -> type[nv.DataType]: ...  # noqa: D102, N802
    @property
    def Dims(self) -> type[nv.Dims]: ...  # noqa: D102, N802
    @property
    def ILogger(self) -> type[nv.ILogger]: ...  # noqa: D102, N802
    @property
    def IProgressMonitor(self) -> type[nv.IProgressMonitor]: ...  # noqa: D102, N802
    @property
    def LayerType(self) -> type[nv.LayerType]: ...  # noqa: D102, N802
    @property
    def MemoryPoolType(self) -> type[nv.MemoryPoolType]: ...  # noqa: D102, N802
    @property
    def NetworkDefinitionCreationFlag(  # noqa: D102, N802
        self,
    ) -> type[nv.NetworkDefinitionCreationFlag]: ...
    @property
    def OnnxParser(self) -> type[nv.OnnxParser]: ...  # noqa: D102, N802
    @property
    def ProfilingVerbosity(self) -> type[nv.ProfilingVerbosity]: ...  # noqa: D102, N802
    @property
    def Runtime(self) -> type[nv.Runtime]: ...  # noqa: D102, N802


if TYPE_CHECKING:
    # mypy compares the list with the stubs here
    _module: TensorRT = nv


class TensorRTRtx(TensorRT, Protocol):
    """`tensorrt_rtx`, which builds for named GPUs; the stubs do not know it."""

    ComputeCapability: Any


class RtxConfig(Protocol):
    """What an `IBuilderConfig` of RTX has beyond TensorRT's."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        """Name one of the GPUs to build for."""
        ...
