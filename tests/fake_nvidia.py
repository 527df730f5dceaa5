"""A stand-in for `tensorrt` on the emulated GPU of `tests/fake_cuda.py`.

What it copies from the real one, because sessions go wrong there:

- outputs are poison before they are written, and are poisoned before inputs are read, so one
  buffer for both gives nonsense
- the first run with new addresses cannot be captured: it may allocate
- a plan runs on the library version it was built with; failures only reach the logger
- its objects must go before the CUDA context

The arithmetic is ONNX Runtime's, with optimisation off.
"""

from __future__ import annotations

import enum
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tests.fake_cuda import ALIGNMENT_BYTES, POISON, Machine, fake_pycuda_driver
from tests.fake_cudart import fake_cudart

PLAN_MAGIC = b"FAKEPLAN"
STRONG, WEAK = 0b10, 0b01  # TensorRT 10's network flags


# What differs between the generations: TensorRT 8 has weak typing only and no progress, 11 has
# strong typing only, under another bit.
NETWORK_FLAGS = {
    8: {"EXPLICIT_BATCH": 0},
    10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    11: {"STRONGLY_TYPED": 0},
}
BUILDER_FLAGS = {8: ["INT8", "FP16"], 10: ["INT8", "FP16"], 11: ["TF32"]}


def fake_tensorrt(machine: Machine, version: str = "10.3.0", name: str = "tensorrt") -> Any:
    """A stand-in for `tensorrt`; its plans hold the ONNX model."""
    trt = ModuleType(name)
    major = int(version.split(".")[0])
    trt.__dict__.update(
        __version__=version,
        ILogger=_Logger,
        IProgressMonitor=type("IProgressMonitor", (), {}),
        NetworkDefinitionCreationFlag=enum.IntEnum(
            "NetworkDefinitionCreationFlag", NETWORK_FLAGS[major]
        ),
        MemoryPoolType=enum.Enum("MemoryPoolType", ["WORKSPACE"]),
        ProfilingVerbosity=enum.Enum("ProfilingVerbosity", ["DETAILED"]),
        LayerType=_LayerType,
        DataType=_DataType,
        BuilderFlag=enum.Enum("BuilderFlag", BUILDER_FLAGS[major]),
        Dims=tuple,
        OnnxParser=_Parser8 if major == 8 else _Parser,
        Builder=lambda logger: _Builder(machine, logger, version),
        Runtime=lambda logger: _Runtime(machine, logger, version),
    )
    if major == 8:
        del trt.IProgressMonitor
    return trt


def install(
    monkeypatch: pytest.MonkeyPatch,
    version: str = "10.3.0",
    *,
    pycuda: bool = True,
    cudart: bool = False,
) -> Machine:
    """Put the stand-ins where `import` finds them; what is not asked for is not installed."""
    machine = Machine()
    driver = fake_pycuda_driver(machine)
    package = ModuleType("pycuda")
    package.__dict__.update(driver=driver, __path__=[])
    bindings = ModuleType("cuda.bindings")
    bindings.__dict__.update(runtime=fake_cudart(machine), __path__=[])
    monkeypatch.setitem(sys.modules, "pycuda", package if pycuda else None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver if pycuda else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings if cudart else None)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(machine, version))
    return machine


_LayerType = enum.Enum("_LayerType", ["QUANTIZE", "OTHER"])
_DataType = enum.Enum("_DataType", ["FLOAT", "HALF"])


def _layer(node: onnx.NodeProto) -> Any:
    """A layer as weak typing looks at it: a quantiser or not, and whether it gives halves."""
    kind = _LayerType.QUANTIZE if node.op_type == "QuantizeLinear" else _LayerType.OTHER
    to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
    dtype = _DataType.HALF if to == [onnx.TensorProto.FLOAT16] else _DataType.FLOAT
    output = SimpleNamespace(dtype=dtype)
    return SimpleNamespace(type=kind, num_outputs=1, get_output=lambda index: output)


class _Logger:
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def _say(logger: _Logger, severity: str, text: str) -> None:
    logger.log(SimpleNamespace(name=severity), text)


class _Network:
    def __init__(self) -> None:
        self.flags = 0
        self.model = b""
        self.inputs: list[Any] = []
        self.layers: list[Any] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class _Parser:
    def __init__(self, network: _Network, logger: _Logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        try:
            graph = onnx.load_from_string(model).graph
        except DecodeError as err:
            self.num_errors, self._why = 1, str(err)
            return False
        self._network.model = model
        self._network.inputs = [
            SimpleNamespace(name=i.name, shape=tuple(_sizes(i))) for i in graph.input
        ]
        self._network.layers = [_layer(node) for node in graph.node]
        return True

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(
            code=lambda: "MODEL_DESERIALIZE_FAILED", node_name=lambda: "", desc=lambda: self._why
        )


class _Parser8(_Parser):
    def get_error(self, index: int) -> Any:
        return SimpleNamespace(node=lambda: 0, desc=lambda: self._why)


class _Config:
    def __init__(self, major: int) -> None:
        if major > 8:
            self.progress_monitor: Any = None
        self.flags: set[str] = set()

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size_bytes: int) -> None:
        self.workspace_bytes = size_bytes

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data, serialize=lambda: b"timings")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return cache.data in (b"", b"timings")


class _Builder:
    def __init__(self, machine: Machine, logger: _Logger, version: str) -> None:
        self._machine, self._logger, self._version = machine, logger, version
        self._major = int(version.split(".")[0])

    def create_network(self, flags: int) -> _Network:
        known = NETWORK_FLAGS[self._major].values()
        assert flags in [1 << bit for bit in known], (
            "strongly typed or explicit batch, nothing else"
        )
        network = _Network()
        network.flags = flags
        return network

    def create_builder_config(self) -> _Config:
        return _Config(self._major)

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self._machine.builds += 1
        if self._major > 8 and not _tell(config.progress_monitor):
            _say(self._logger, "ERROR", "Error Code 7: BuildCanceled")
            return None
        self._machine.attempts.append((network.flags, config.flags, config.workspace_bytes))
        if self._machine.build_raises:
            raise self._machine.build_raises.pop(0)
        errors = self._machine.build_errors
        error = errors.pop(0) if errors else ""
        if self._machine.strong_error and network.flags == STRONG:
            error = self._machine.strong_error
        if error:
            _say(self._logger, "ERROR", error)
            return None
        streams = network.inputs[0].shape[0]
        head = json.dumps({"version": self._version, "streams": streams}).encode()
        return b"\n".join([PLAN_MAGIC, head, network.model])


def _tell(monitor: Any) -> bool:
    """A build's progress; False if it is cancelled."""
    monitor.phase_start("Building Engine", None, 2)
    if not all(monitor.step_complete("Building Engine", step) for step in range(2)):
        return False
    monitor.phase_finish("Building Engine")
    return True


class _Runtime:
    def __init__(self, machine: Machine, logger: _Logger, version: str) -> None:
        machine.use("runtime")
        self._machine, self._logger, self._version = machine, logger, version

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        self._machine.use("deserialise_engine")
        if self._machine.load_error:
            _say(self._logger, "ERROR", self._machine.load_error)
            return None
        magic, head, model = plan.split(b"\n", 2)
        facts = json.loads(head)
        if (
            self._machine.fail == "deserialise"
            or magic != PLAN_MAGIC
            or facts["version"] != self._version
        ):
            _say(self._logger, "ERROR", "The engine plan file is not compatible")
            return None
        return _Engine(self, self._machine, self._logger, model, facts["streams"])

    def __del__(self) -> None:
        _note_end(self._machine, "runtime")


class _Engine:
    def __init__(
        self, runtime: _Runtime, machine: Machine, logger: _Logger, model: bytes, streams: int
    ) -> None:
        self._runtime, self._machine, self._logger = runtime, machine, logger
        stamped = _stamped(model, streams)
        self.tensors = {i.name: i for i in [*stamped.graph.input, *stamped.graph.output]}
        self.input_names = [i.name for i in stamped.graph.input]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self.arithmetic = ort.InferenceSession(stamped.SerializeToString(), options)
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> list[int]:
        return _sizes(self.tensors[name])

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 10: "HALF"}
        return SimpleNamespace(name=kinds[self.tensors[name].type.tensor_type.elem_type])

    def create_execution_context(self) -> _Context | None:
        if self._machine.fail == "context":
            _say(self._logger, "ERROR", "Error Code 2: OutOfMemory")
            return None
        return _Context(self, self._machine, self._logger)

    def __del__(self) -> None:
        _note_end(self._machine, "engine")


class _Context:
    def __init__(self, engine: _Engine, machine: Machine, logger: _Logger) -> None:
        self._engine, self._machine, self._logger = engine, machine, logger
        self._addresses: dict[str, int] = {}
        self._has_run: list[dict[str, int]] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self._engine.tensors or address % ALIGNMENT_BYTES:
            _say(self._logger, "ERROR", f"invalid address for {name}")
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        machine = self._machine
        machine.use("execute_async")
        if stream_handle == 0:
            machine.faults.append("the default stream")
        if machine.fail == "execute" or self._addresses.keys() != self._engine.tensors.keys():
            machine.fail = ""
            _say(self._logger, "ERROR", "Error Code 3: an address is missing")
            return False
        addresses = dict(self._addresses)
        if machine.recording is not None and addresses not in self._has_run:
            machine.recording = None
            _say(self._logger, "ERROR", "Error Code 1: cudaMalloc is not permitted in a capture")
            return False
        machine.submit(lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        self._machine.executions.append(addresses)
        self._has_run.append(addresses)
        views = {name: self._view(name, address) for name, address in addresses.items()}
        outputs = [name for name in views if name not in self._engine.input_names]
        for name in outputs:  # a kernel may write before another has read
            views[name].reshape(-1).view(np.uint8)[:] = POISON
        feeds = {name: views[name].copy() for name in self._engine.input_names}
        with np.errstate(all="ignore"):
            results = self._engine.arithmetic.run(outputs, feeds)
        for name, result in zip(outputs, results, strict=True):
            views[name][...] = result

    def _view(self, name: str, address: int) -> np.ndarray[Any, Any]:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(
            self._engine.tensors[name].type.tensor_type.elem_type
        )
        shape = self._engine.get_tensor_shape(name)
        raw = self._machine.memory(address, int(np.prod(shape)) * dtype.itemsize)
        return raw.view(dtype).reshape(shape)

    def __del__(self) -> None:
        _note_end(self._machine, "execution context")


def _note_end(machine: Machine, what: str) -> None:
    machine.events.append(f"{what} destroyed")
    if not machine.has_context():
        machine.faults.append(f"{what} destroyed without a current context")


def _sizes(info: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in info.type.tensor_type.shape.dim]


def _stamped(model: bytes, streams: int) -> onnx.ModelProto:
    """The model with N rows, as the real builder stamps them onto the inputs."""
    stamped = onnx.load_from_string(model)
    for info in [*stamped.graph.input, *stamped.graph.output]:
        info.type.tensor_type.shape.dim[0].dim_value = streams
    return stamped
