"""The kernels of a step: what an engine launches for a graph, with their operations and bytes.

An engine fuses: what goes element by element runs at the end of the kernel that makes its input.
The rule here is simple and looks at the graph alone:

* a convolution, matrix product, pooling or mean is a kernel;
* a pointwise node joins the last kernel that it reads, where both work on feature maps or both on
  vectors; else it starts a kernel of its own (the gate, which multiplies a map by a vector);
* slices, splits and changes of shape move nothing: who reads them reads what they are cut from;
* what depends on states and `reset` only is computed where it is used.

Counted on the float step graph: Q and DQ are fused away, only the widths of numbers differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import onnx

from export.graph_view import GraphView, attribute
from runtime.bundle import FRAME_INPUT

Precision: TypeAlias = Literal["float32", "float16", "int8"]
Kind: TypeAlias = Literal["convolution", "depthwise", "product", "pooling", "pointwise"]

MAP_BYTES = {"float32": 4, "float16": 2, "int8": 1}
# the half graph keeps its states in float32, the INT8 graph as it reads them
STATE_BYTES = {"float32": 4, "float16": 4, "int8": 1}
VECTOR_BYTES = 4
MAP_RANK = 4

ANCHORS: dict[str, Kind] = {
    "Conv": "convolution",
    "Gemm": "product",
    "MatMul": "product",
    "MaxPool": "pooling",
    "AveragePool": "pooling",
    "GlobalAveragePool": "pooling",
    "ReduceMean": "pooling",
}
VIEWS = frozenset({"Slice", "Split", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Pad"})
CONSTANTS = frozenset({"Constant"})


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch, for one stream.

    Attributes:
        name: The graph's node that it is named after.
        kind: What it computes.
        macs: Multiplications with addition.
        weights: Numbers of a convolution's weight, in the precision of the graph.
        maps: Numbers of feature maps that it reads and writes, in the precision of the graph.
        states: Numbers of feature maps of the past that it reads and writes.
        vectors: Float32 numbers that it reads and writes, weights of matrix products among them.
        frame_bytes: Bytes of the picture that it reads.
    """

    name: str
    kind: Kind
    macs: int = 0
    weights: int = 0
    maps: int = 0
    states: int = 0
    vectors: int = 0
    frame_bytes: int = 0

    def bytes_moved(self, precision: Precision, rows: int = 1) -> int:
        """Bytes read and written for N streams; the weights once."""
        width = MAP_BYTES[precision]
        each = self.maps * width + self.states * STATE_BYTES[precision] + self.frame_bytes
        # a product's weights are read once as well, but are too few to tell apart
        return self.weights * width + rows * (each + self.vectors * VECTOR_BYTES)


@dataclass
class _Group:
    """A kernel being put together: its nodes, and whether it makes maps."""

    node: onnx.NodeProto
    kind: Kind
    makes_map: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)


def step_kernels(view: GraphView) -> tuple[Kernel, ...]:
    """The kernels of a float step graph with one stream, in order.

    Args:
        view: The graph, with static shapes.

    Raises:
        ValueError: A shape is not known.
    """
    return _Fusion(view).kernels()


class _Fusion:
    """Puts each node of a graph into a kernel."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._groups: list[_Group] = []
        self._maker: dict[str, int] = {}  # kernel by the tensor that it makes
        self._sources: dict[str, tuple[str, ...]] = {}  # what a view is cut from
        self._gates: dict[int, int] = {}  # the map kernel behind a vector kernel
        self._lazy: set[str] = set()  # depends on states and reset only

    def kernels(self) -> tuple[Kernel, ...]:
        for node in self._view.nodes:
            self._place(node)
        return tuple(self._kernel(number) for number in range(len(self._groups)))

    def _place(self, node: onnx.NodeProto) -> None:
        if node.op_type in CONSTANTS:
            return
        inputs = self._data_inputs(node)
        sources = tuple(dict.fromkeys(s for name in inputs for s in self._cut_from(name)))
        if node.op_type in ANCHORS:
            self._start(node, ANCHORS[node.op_type])
        elif node.op_type in VIEWS or self._is_view_of_a_shift(node):
            for name in node.output:
                self._sources[name] = sources
        elif not any(name in self._maker or name == FRAME_INPUT for name in sources):
            self._lazy.update(node.output)
            for name in node.output:
                self._sources[name] = sources
        else:
            self._join(node, [self._maker[name] for name in sources if name in self._maker])

    def _join(self, node: onnx.NodeProto, makers: Sequence[int]) -> None:
        is_map = self._is_map(node.output[0])
        if not makers:
            self._start(node, "pointwise")
            return
        last = max(makers)
        if self._groups[last].makes_map == is_map:
            self._add(node, last)
        elif last in self._gates:
            self._add(node, self._gates[last])
        else:
            self._start(node, "pointwise")
            self._gates[last] = len(self._groups) - 1

    def _start(self, node: onnx.NodeProto, kind: Kind) -> None:
        self._groups.append(_Group(node, kind, self._is_map(node.output[0])))
        self._add(node, len(self._groups) - 1)

    def _add(self, node: onnx.NodeProto, number: int) -> None:
        self._groups[number].nodes.append(node)
        for name in node.output:
            self._maker[name] = number

    def _data_inputs(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and not self._view.is_constant(name)]

    def _cut_from(self, name: str) -> tuple[str, ...]:
        return self._sources.get(name, (name,))

    def _is_map(self, name: str) -> bool:
        shape = self._shape(name)
        return name != FRAME_INPUT and len(shape) == MAP_RANK and math.prod(shape[2:]) > 1

    def _shape(self, name: str) -> tuple[int, ...]:
        facts = self._view.tensors.get(name)
        if facts is None or facts.num_elements < 0:
            raise ValueError(f"the shape of {name} is not known; export with static shapes")
        return facts.shape or ()

    def _is_view_of_a_shift(self, node: onnx.NodeProto) -> bool:
        """A joined map that only pointwise nodes read: they read its parts where they lie."""
        readers = self._view.consumers(node.output[0])
        return (
            node.op_type == "Concat"
            and self._is_map(node.output[0])
            and bool(readers)
            and not any(reader.op_type in ANCHORS for reader in readers)
        )

    def _kernel(self, number: int) -> Kernel:
        group = self._groups[number]
        own = {name for node in group.nodes for name in node.output}
        read = dict.fromkeys(
            source
            for node in group.nodes
            for name in self._data_inputs(node)
            for source in self._cut_from(name)
            if source not in own
        )
        written = [name for name in own if self._leaves(name, group)]
        weights = [name for name in group.node.input[1:] if self._view.is_constant(name)]
        in_conv = group.node.op_type == "Conv"
        moved = [*read, *written]
        return Kernel(
            name=group.node.name or group.node.output[0],
            kind="depthwise" if in_conv and self._groups_of(group.node) > 1 else group.kind,
            macs=self._macs(group.node),
            weights=self._count(weights[:1]) if in_conv else 0,
            maps=self._count(n for n in moved if self._is_map(n) and not self._is_state(n)),
            states=self._count(n for n in moved if self._is_map(n) and self._is_state(n)),
            vectors=self._count(n for n in moved if not self._is_map(n) and n != FRAME_INPUT)
            + (0 if in_conv else self._count(weights)),
            frame_bytes=self._count(n for n in read if n == FRAME_INPUT),
        )

    def _leaves(self, name: str, group: _Group) -> bool:
        """Whether another kernel or the caller reads a tensor."""
        if name in self._view.outputs:
            return True
        inside = {id(node) for node in group.nodes}
        for reader in self._view.consumers(name):
            if reader.output and reader.output[0] in self._sources:
                if any(self._leaves(each, group) for each in reader.output):
                    return True
            elif id(reader) not in inside:
                return True
        return False

    def _is_state(self, name: str) -> bool:
        return name in self._view.inputs or name in self._view.outputs

    def _count(self, names: Iterable[str]) -> int:
        return sum(math.prod(self._shape(name)) for name in names)

    def _groups_of(self, node: onnx.NodeProto) -> int:
        return int(attribute(node, "group", 1))

    def _macs(self, node: onnx.NodeProto) -> int:
        if node.op_type == "Conv":
            weight, out = self._shape(node.input[1]), self._shape(node.output[0])
            return math.prod(weight[1:]) * math.prod(out[1:])
        if ANCHORS.get(node.op_type) == "product":
            return math.prod(self._shape(node.input[1]))
        return 0
