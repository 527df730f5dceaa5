"""What an engine takes and gives, and whether it is the right one for a bundle and a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.bundle import FRAME_INPUT, GRAPH_OF, Bundle, GraphKind, StateSpec
from runtime.engine import ANY_GPU, Engine
from runtime.errors import EngineError
from runtime.nvidia import library_version
from runtime.nvidia_types import TensorRT
from runtime.sessions.cuda_memory import DeviceInfo
from runtime.sessions.step_io import Tensor, step_tensors

if TYPE_CHECKING:
    import tensorrt as nv

# `tensorrt.nptype` fails on TensorRT 8 with a newer numpy, so the names are compared.
TRT_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8"}
REBUILD = "delete the engine and run `make engine`"


class EngineTensor(Tensor):
    """One input or output of an engine."""

    @property
    def size_bytes(self) -> int:
        """Bytes of a buffer for it."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """`(1, 3) float32`."""
        return f"{self.shape} {self.dtype}"


def io_tensors(engine: nv.ICudaEngine) -> dict[str, EngineTensor]:
    """Inputs and outputs of an engine by name."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: EngineTensor(
            _sizes(engine.get_tensor_shape(name)), _dtype_name(engine.get_tensor_dtype(name))
        )
        for name in names
    }


def check_tensors(
    found: Mapping[str, EngineTensor], bundle: Bundle, states: tuple[StateSpec, ...], path: Path
) -> None:
    """Compare an engine's inputs and outputs with the bundle; N is the engine's own.

    Raises:
        EngineError: A name, shape or dtype differs.
    """
    num_streams = found[FRAME_INPUT].shape[0] if FRAME_INPUT in found else 1
    inputs, outputs = step_tensors(bundle, states, num_streams)
    wanted = {
        name: EngineTensor(tensor.shape, tensor.dtype)
        for name, tensor in (inputs | outputs).items()
    }
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


def _sizes(dims: nv.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _dtype_name(dtype: nv.DataType) -> str:
    name = str(dtype.name)
    return TRT_DTYPES.get(name, name)
