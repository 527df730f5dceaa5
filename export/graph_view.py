"""An ONNX graph as something to ask questions of: who makes a tensor, who reads it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import ExportError

QUANTISE = "QuantizeLinear"
DEQUANTISE = "DequantizeLinear"
MAX_FILE_BYTES = 2**31  # protobuf's limit
MAX_COPIED = 4096  # elements; shapes and axes are far smaller


@dataclass(frozen=True)
class TensorFacts:
    """Type and shape of a tensor; unknown sizes are -1, an unknown shape is None."""

    dtype: int
    shape: tuple[int, ...] | None

    @property
    def num_elements(self) -> int:
        """Product of the sizes; -1 if one is unknown."""
        if self.shape is None or any(size < 0 for size in self.shape):
            return -1
        return math.prod(self.shape)


class GraphIndex:
    """Who makes and who reads each tensor of a graph.

    Attributes:
        nodes: The graph's nodes in order.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = list(graph.node)
        self._producer = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and initialisers."""
        return self._producer.get(tensor)

    def made_by(self, tensor: str) -> str:
        """Operator that makes a tensor; "" for inputs and initialisers."""
        node = self._producer.get(tensor)
        return "" if node is None else node.op_type

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor, in order."""
        return self._consumers.get(tensor, [])

    def of_type(self, *kinds: str) -> list[onnx.NodeProto]:
        """Nodes of some operators, in order."""
        return [node for node in self.nodes if node.op_type in kinds]

    def after(self, tensors: Iterable[str], stop: Collection[str]) -> list[onnx.NodeProto]:
        """Nodes that depend on some tensors; nodes of `stop` are given and not passed."""
        return self._walk(tensors, stop, forward=True)

    def before(self, tensors: Iterable[str], stop: Collection[str]) -> list[onnx.NodeProto]:
        """Nodes that some tensors depend on; nodes of `stop` are given and not passed."""
        return self._walk(tensors, stop, forward=False)

    def _walk(
        self, tensors: Iterable[str], stop: Collection[str], *, forward: bool
    ) -> list[onnx.NodeProto]:
        found: dict[int, onnx.NodeProto] = {}
        waiting = list(tensors)
        while waiting:
            tensor = waiting.pop()
            maker = self._producer.get(tensor)
            makers = [] if maker is None else [maker]
            for node in self.consumers(tensor) if forward else makers:
                if id(node) in found:
                    continue
                found[id(node)] = node
                if node.op_type not in stop:
                    waiting.extend(node.output if forward else node.input)
        return list(found.values())


class GraphView(GraphIndex):
    """A read-only index of one model, with shapes and constants.

    Attributes:
        model: The model.
        path: Its file; None for a model in memory.
        inputs: Graph inputs by name, without initialisers.
        outputs: Graph outputs by name.
        tensors: Type and shape of every tensor that shape inference knows.
        inference_error: Why shape inference failed, else "".
    """

    def __init__(self, model: onnx.ModelProto, path: Path | None = None) -> None:
        super().__init__(model.graph)
        self.model = model
        self.path = path
        self._initializers = {each.name: each for each in model.graph.initializer}
        self.inputs = {
            each.name: _facts(each)
            for each in model.graph.input
            if each.name not in self._initializers
        }
        self.outputs = {each.name: _facts(each) for each in model.graph.output}
        self.inference_error = ""
        self.tensors = self._infer()

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """Value of an initialiser or Constant node; None if it is computed or cannot be read."""
        stored = self._stored(tensor)
        if stored is None:
            return None
        if stored.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(stored)
        if self.path is None or external_fault(stored, self.path.parent):
            return None
        return numpy_helper.to_array(stored, base_dir=str(self.path.parent))

    def is_constant(self, tensor: str) -> bool:
        """Whether it is an initialiser or a Constant node's."""
        return self._stored(tensor) is not None

    def _stored(self, tensor: str) -> onnx.TensorProto | None:
        if tensor in self._initializers:
            return self._initializers[tensor]
        node = self._producer.get(tensor)
        if node is None or node.op_type != "Constant":
            return None
        return attribute(node, "value")

    def dtype(self, tensor: str) -> int:
        """ONNX's number of its type; 0 if unknown."""
        facts = self.tensors.get(tensor)
        return TensorProto.UNDEFINED if facts is None else facts.dtype

    def rank(self, tensor: str) -> int:
        """Number of axes; -1 if unknown."""
        facts = self.tensors.get(tensor)
        return -1 if facts is None or facts.shape is None else len(facts.shape)

    def without_weights(self) -> onnx.ModelProto:
        """A copy for shape inference: large initialisers become inputs of their type and shape.

        ONNX copies a model several times when it infers shapes; of half a gigabyte that is seconds.
        """
        light = onnx.ModelProto()
        light.ir_version = self.model.ir_version
        light.opset_import.extend(self.model.opset_import)
        light.functions.extend(self.model.functions)
        graph, source = light.graph, self.model.graph
        graph.name = source.name
        for field in ("node", "input", "output", "value_info", "sparse_initializer"):
            getattr(graph, field).extend(getattr(source, field))
        declared = {each.name for each in source.input}
        for each in source.initializer:
            small = math.prod(each.dims) <= MAX_COPIED
            if small and each.data_location != TensorProto.EXTERNAL:
                graph.initializer.append(each)
            elif small and (value := self.constant(each.name)) is not None:
                graph.initializer.append(numpy_helper.from_array(value, each.name))
            elif each.name not in declared:
                info = helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
                graph.input.append(info)
        return light

    def _infer(self) -> dict[str, TensorFacts]:
        try:
            inferred = onnx.shape_inference.infer_shapes(
                self.without_weights(), check_type=True, strict_mode=True, data_prop=True
            )
        except (onnx.shape_inference.InferenceError, ValueError) as err:
            self.inference_error = str(err)
            inferred = self.model
        graph = inferred.graph
        known = {each.name: _facts(each) for each in graph.value_info}
        for each in self.model.graph.initializer:
            known[each.name] = TensorFacts(each.data_type, tuple(each.dims))
        return known | self.inputs | self.outputs


def external_fault(tensor: onnx.TensorProto, folder: Path) -> str:
    """Why an external tensor cannot be read; "" if it can."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    name = facts.get("location", "")
    path = folder / name
    # the graph may be anyone's: it must not make us open other files
    if not name or not path.resolve().is_relative_to(folder.resolve()):
        return f"its weights are in {name!r}, which is not in the graph's folder"
    if not path.is_file():
        return f"its weights are in {name}, which is missing"
    try:
        end = int(facts.get("offset", "0")) + int(facts.get("length", "0"))
    except ValueError:
        return f"its place in {name} is not a number"
    size = path.stat().st_size
    return f"its weights end at byte {end} of {name}, which has {size}" if end > size else ""


def load_graph(source: onnx.ModelProto | Path) -> GraphView:
    """A view of a model or of a file; external data are read only where a check needs them.

    Raises:
        ExportError: The file is no ONNX model.
        FileNotFoundError: No such file.
    """
    if isinstance(source, onnx.ModelProto):
        return GraphView(source)
    if source.is_dir():
        raise ExportError(f"{source} is a folder; give an ONNX file in it")
    if not source.is_file():
        raise FileNotFoundError(f"{source} is not a file; give an ONNX graph")
    size = source.stat().st_size
    if size == 0:
        raise ExportError(f"{source} is empty; export it again")
    if size >= MAX_FILE_BYTES:
        raise ExportError(
            f"{source} has {size / 1e9:.1f} GB, an ONNX file holds less than 2.1; save its weights "
            "in another file (onnx.save with save_as_external_data=True)"
        )
    try:
        model = onnx.load(source, format="protobuf", load_external_data=False)
    except OSError:
        raise
    except Exception as err:  # protobuf's error has no public class of its own
        raise ExportError(
            f"{source} cannot be read as ONNX ({err}); it is no ONNX file or only a part of one: "
            "copy or export it again"
        ) from err
    if not model.graph.node:
        raise ExportError(
            f"{source} holds no graph; it is no ONNX file or only a part of one: copy or export it "
            "again"
        )
    return GraphView(model, source)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """A node's attribute as a Python value."""
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def label(node: onnx.NodeProto) -> str:
    """What to call a node: its name, or its operator and output."""
    return node.name or f"{node.op_type}→{node.output[0] if node.output else ''}"


def scale_of(view: GraphView, node: onnx.NodeProto) -> NDArray[np.float32] | None:
    """Scale of a Q or DQ node; None if it is computed."""
    return view.constant(node.input[1]) if len(node.input) > 1 else None


def _facts(info: onnx.ValueInfoProto) -> TensorFacts:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return TensorFacts(kind.elem_type, None)
    sizes = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return TensorFacts(kind.elem_type, tuple(sizes))
