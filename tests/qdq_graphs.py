"""Small step graphs with everything ours have, written with `onnx.helper`: no torch, no training.

Residual blocks with a strided shortcut, channel shift from a state, a recurrent gate, uint8
frames, `reset`; in float, or with Q/DQ placed by the rules of `export/checks/int8.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
MEAN_RGB = (124.0, 116.0, 104.0)
STD = 58.0
SCALE = 0.05
MOMENTUM = 0.8

Edit: TypeAlias = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True, kw_only=True)
class QdqRule:
    """What to build.

    Attributes:
        size_px: Height and width of the frame.
        channels: Channels after the stem; the second half of the blocks has twice as many.
        blocks: Residual blocks, even.
        labels: Classes K.
        streams: Rows N.
        int8: With Q/DQ.
        int8_states: Shift states in INT8 too.
        depthwise: The blocks' first convolution is depthwise.
    """

    size_px: int = 48
    channels: int = 16
    blocks: int = 2
    labels: int = 3
    streams: int = 1
    int8: bool = True
    int8_states: bool = True
    depthwise: bool = False

    @property
    def num_convs(self) -> int:
        """Convolutions of the graph: stem, two a block, one shortcut."""
        return 1 + 2 * self.blocks + 1


def qdq_step_graph(rule: QdqRule | None = None) -> onnx.ModelProto:
    """The graph, checked by `onnx.checker`."""
    return _Writer(rule or QdqRule()).step()


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of a name."""
    return next(node for node in model.graph.node if node.name == name)


def set_constant(model: onnx.ModelProto, name: str, value: Any) -> None:
    """Give an initialiser another value, or add it."""
    for each in model.graph.initializer:
        if each.name == name:
            each.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
            return
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


class _Writer:
    def __init__(self, rule: QdqRule) -> None:
        self._rule = rule
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._num_states = 0

    def step(self) -> onnx.ModelProto:
        rule = self._rule
        x = self._stem()
        channels, size = rule.channels, rule.size_px // 2
        for block in range(rule.blocks):
            out = channels * (2 if block == rule.blocks // 2 else 1)
            last = block == rule.blocks - 1
            x = self._block(f"/layer.{block}", x, channels, out, size, gated=last)
            size //= out // channels
            channels = out
        pooled = self.op("ReduceMean", "/pool", x, axes=[2, 3], keepdims=0)
        weight = self.constant("/fc/w", self._random(channels, rule.labels))
        bias = self.constant("/fc/b", self._random(rule.labels))
        self.op("Gemm", "/fc/Gemm", pooled, weight, bias, output="logits")
        self._output("logits", TensorProto.FLOAT, [rule.streams, rule.labels])
        return self._finish()

    def op(self, kind: str, name: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{name}_out"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _stem(self) -> str:
        rule = self._rule
        frame = [rule.streams, rule.size_px, rule.size_px, 3]
        self._input("frame", TensorProto.UINT8, frame)
        self._input("reset", TensorProto.FLOAT, [rule.streams, 1])
        x = self.op("Cast", "/cast", "frame", to=TensorProto.FLOAT)
        x = self.op("Transpose", "/transpose", x, perm=[0, 3, 1, 2])
        mean = self.constant("/mean", np.array(MEAN_RGB, np.float32).reshape(1, 3, 1, 1))
        x = self.op("Sub", "/sub", x, mean)
        x = self.op("Div", "/div", x, self.constant("/std", np.float32(STD)))
        x = self._conv("/stem/Conv", self._qdq("/stem/in", x), (3, rule.channels), stride=2)
        half = self.constant("/half", np.float32(0.5))
        self._starts = self.op("Greater", "/starts", "reset", half)
        axes = self.constant("/axes", np.array([2, 3], np.int64))
        self._starts_map = self.op("Unsqueeze", "/starts_map", self._starts, axes)
        return self._qdq("/stem/out", self.op("Relu", "/stem/Relu", x))

    def _block(self, name: str, x: str, channels: int, out: int, size: int, *, gated: bool) -> str:
        y = self._shifted(name, x, channels, size)
        if gated:
            y = self._gated(name, x, y, channels)
        y = self._qdq(f"{name}/conv1/in", y)
        stride = out // channels
        group = channels if self._rule.depthwise else 1
        y = self._conv(f"{name}/conv1/Conv", y, (channels, out), stride=stride, group=group)
        y = self._qdq(f"{name}/conv2/in", self.op("Relu", f"{name}/Relu_1", y))
        y = self._conv(f"{name}/conv2/Conv", y, (out, out))
        if stride > 1:
            x = self._conv(f"{name}/down/Conv", x, (channels, out), kernel=1, stride=stride)
            x = self._qdq(f"{name}/down/out", x)
        y = self.op("Add", f"{name}/Add", y, x)
        return self._qdq(f"{name}/out", self.op("Relu", f"{name}/Relu_2", y))

    def _shifted(self, name: str, x: str, channels: int, size: int) -> str:
        """The last step's first channels, and the others of this one."""
        part = channels // 8
        quantised = self._rule.int8 and self._rule.int8_states
        dtype = TensorProto.INT8 if quantised else TensorProto.FLOAT
        state_in, state_out = self._state(dtype, [self._rule.streams, part, size, size])
        before = self._dq(f"{name}/state_in", state_in) if quantised else state_in
        zero = self.constant("/zero", np.float32(0))
        before = self.op("Where", f"{name}/Where", self._starts_map, zero, before)
        now = self._slice(f"{name}/now", x, 0, part)
        rest = self._slice(f"{name}/rest", x, part, channels)
        if quantised:
            self._q(f"{name}/state_out", now, state_out)
        else:
            self.op("Identity", f"{name}/state_out", now, output=state_out)
        return self.op("Concat", f"{name}/Concat", before, rest, axis=1)

    def _gated(self, name: str, x: str, y: str, channels: int) -> str:
        """A gate from the pooled features' distance to their running mean."""
        state_in, state_out = self._state(TensorProto.FLOAT, [self._rule.streams, channels])
        pooled = self.op("ReduceMean", f"{name}/gate/pool", x, axes=[2, 3], keepdims=0)
        zero = self.constant("/zero", np.float32(0))
        mean = self.op("Where", f"{name}/gate/Where", self._starts, zero, state_in)
        keep = self.constant("/keep", np.float32(MOMENTUM))
        take = self.constant("/take", np.float32(1 - MOMENTUM))
        kept = self.op("Mul", f"{name}/gate/keep", mean, keep)
        new = self.op("Mul", f"{name}/gate/take", pooled, take)
        mean = self.op("Add", f"{name}/gate/mean", kept, new, output=state_out)
        change = self.op("Sub", f"{name}/gate/change", pooled, mean)
        weight = self.constant(f"{name}/gate/w", self._random(channels, channels))
        gate = self.op("MatMul", f"{name}/gate/MatMul", change, weight)
        gate = self.op("Sigmoid", f"{name}/gate/Sigmoid", gate)
        gate = self.op(
            "Unsqueeze",
            f"{name}/gate/Unsqueeze",
            gate,
            self.constant("/axes", np.array([2, 3], np.int64)),
        )
        return self.op("Add", f"{name}/gate/Add", self.op("Mul", f"{name}/gate/Mul", y, gate), y)

    def _conv(
        self,
        name: str,
        x: str,
        channels: tuple[int, int],
        *,
        kernel: int = 3,
        stride: int = 1,
        group: int = 1,
    ) -> str:
        weight = self._random(channels[1], channels[0] // group, kernel, kernel)
        bias = self.constant(f"{name}/b", self._random(channels[1]))
        return self.op(
            "Conv",
            name,
            x,
            self._weight(name, weight),
            bias,
            kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
            group=group,
        )

    def _weight(self, name: str, weight: NDArray[np.float32]) -> str:
        if not self._rule.int8:
            return self.constant(f"{name}/w", weight)
        scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
        levels = np.clip(np.rint(weight / scale[:, None, None, None]), -127, 127)
        stored = self.constant(f"{name}/w", levels.astype(np.int8))
        scales = self.constant(f"{name}/w_scale", scale)
        zero = self.constant(f"{name}/w_zero", np.zeros(len(scale), np.int8))
        return self.op("DequantizeLinear", f"{name}/w_dq", stored, scales, zero, axis=0)

    def _qdq(self, name: str, x: str) -> str:
        return self._dq(name, self._q(name, x)) if self._rule.int8 else x

    def _q(self, name: str, x: str, output: str = "") -> str:
        return self.op("QuantizeLinear", f"{name}/Q", x, *self._scale(name), output=output)

    def _dq(self, name: str, x: str) -> str:
        return self.op("DequantizeLinear", f"{name}/DQ", x, *self._scale(name))

    def _scale(self, name: str) -> tuple[str, str]:
        scale = self.constant(f"{name}/scale", np.float32(SCALE))
        return scale, self.constant(f"{name}/zero_point", np.int8(0))

    def _slice(self, name: str, x: str, start: int, end: int) -> str:
        ends = [self.constant(f"/int_{i}", np.array([i], np.int64)) for i in (start, end, 1)]
        return self.op("Slice", name, x, *ends)

    def _random(self, *shape: int) -> NDArray[np.float32]:
        return self._rng.normal(0, 0.1, shape).astype(np.float32)

    def _state(self, dtype: int, shape: list[int]) -> tuple[str, str]:
        names = (f"state_in_{self._num_states:02d}", f"state_out_{self._num_states:02d}")
        self._num_states += 1
        self._input(names[0], dtype, shape)
        self._output(names[1], dtype, shape)
        return names

    def _input(self, name: str, dtype: int, shape: list[int]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def _output(self, name: str, dtype: int, shape: list[int]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def _finish(self) -> onnx.ModelProto:
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "qdq", self._inputs, self._outputs, constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model
