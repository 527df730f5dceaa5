"""What each convolution costs in accuracy: the network in float with it alone in INT8.

Rounding noise of different layers is unrelated and adds up, so the layer whose noise is largest
alone is the one that gains most by staying in float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tqdm import tqdm

from export.decibels import bounded_db
from export.graph_view import DEQUANTISE, QUANTISE, GraphView
from export.int8.probe import Probe, clip_logits, logits_of
from export.int8.round_weights import Rounded, nearest
from runtime.bundle import StateSpec

# accuracy is measured for so many layers only: it takes a pass over the clips for each
WORST = 10
PASSES = WORST + 1  # float's too


@dataclass(frozen=True)
class LayerSensitivity:
    """One convolution.

    Attributes:
        conv: Its node's name.
        sqnr_db: SQNR of the logits where it alone is INT8, decibels.
        macs_share: Its share of all convolutions' multiplications, 0..1.
        top1_loss: Clip top-1 lost where it alone is INT8, 0..1; None where not measured.
    """

    conv: str
    sqnr_db: float
    macs_share: float
    top1_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {
            "conv": self.conv,
            "sqnr_db": round(self.sqnr_db, 2),
            "macs_share": round(self.macs_share, 5),
            "top1_loss": self.top1_loss,
        }


@dataclass(frozen=True)
class AloneInInt8:
    """A step graph whose convolutions become INT8 one at a time.

    Attributes:
        step: The float step graph.
        scales: Scale of each convolution's data input, by its tensor.
        rounded: INT8 weights by convolution; the nearest for the others.
    """

    step: onnx.ModelProto
    scales: Mapping[str, float]
    rounded: Mapping[str, Rounded] = field(default_factory=dict)

    def graph(self, name: str) -> onnx.ModelProto:
        """The graph with one convolution in INT8; its weight is stored as what INT8 holds.

        Args:
            name: The convolution's node.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(self.step)
        at, conv = next((i, n) for i, n in enumerate(copy.graph.node) if n.name == name)
        weights = {each.name: each for each in copy.graph.initializer}
        weight = numpy_helper.to_array(weights[conv.input[1]])
        steps, scale = self.rounded.get(name) or nearest(weight)
        held = (steps * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
        weights[conv.input[1]].CopyFrom(numpy_helper.from_array(held, conv.input[1]))
        data = conv.input[0]
        constants = (np.float32(self.scales[data]), np.zeros((), np.int8))
        names = ("alone_scale", "alone_zero")
        for each, value in zip(names, constants, strict=True):
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(value), each))
        conv.input[0] = "alone_dq"
        copy.graph.node.insert(at, helper.make_node(DEQUANTISE, ["alone_q", *names], ["alone_dq"]))
        copy.graph.node.insert(at, helper.make_node(QUANTISE, [data, *names], ["alone_q"]))
        return copy


def sensitivities(alone: AloneInInt8, probe: Probe) -> list[LayerSensitivity]:
    """Every convolution's cost, the most sensitive one first.

    Args:
        alone: The graph and what INT8 makes of its convolutions.
        probe: Frames with their states, and the float logits.
    """
    shares = macs_shares(alone.step)
    found = []
    for name in tqdm(shares, desc="sensitivity", unit="conv", disable=None, leave=False):
        sqnr_db = bounded_db(logits_of(alone.graph(name), probe), probe.logits)
        found.append(LayerSensitivity(name, sqnr_db, shares[name]))
    return sorted(found, key=lambda layer: layer.sqnr_db)


def with_top1_loss(
    layers: Sequence[LayerSensitivity],
    alone: AloneInInt8,
    states: Sequence[StateSpec],
    pictures: NDArray[np.uint8],
    label: NDArray[np.int64],
) -> tuple[LayerSensitivity, ...]:
    """Add what the ten most sensitive convolutions cost in clip top-1.

    Args:
        layers: The most sensitive one first.
        alone: The graph and what INT8 makes of its convolutions.
        states: The float graph's states.
        pictures: Clips, shape (B, T, H, W, 3), uint8.
        label: Their classes, shape (B,).
    """
    top1 = _top1(alone.step, states, pictures, label)
    measured = [
        replace(layer, top1_loss=top1 - _top1(alone.graph(layer.conv), states, pictures, label))
        for layer in layers[:WORST]
    ]
    return (*measured, *layers[WORST:])


def _top1(
    graph: onnx.ModelProto,
    states: Sequence[StateSpec],
    pictures: NDArray[np.uint8],
    label: NDArray[np.int64],
) -> float:
    return float((clip_logits(graph, states, pictures).argmax(1) == label).mean())


def macs_shares(step: onnx.ModelProto) -> dict[str, float]:
    """Each convolution's share of the multiplications of all, by node name, in the graph's order.

    Args:
        step: A step graph with static shapes.
    """
    macs = dict(_macs(GraphView(step)))
    total = sum(macs.values())
    return {name: each / total for name, each in macs.items()}


def _macs(view: GraphView) -> Iterator[tuple[str, int]]:
    for conv in view.of_type("Conv"):
        weight, out = view.tensors[conv.input[1]], view.tensors[conv.output[0]]
        yield conv.name, math.prod((weight.shape or ())[1:]) * math.prod((out.shape or ())[1:])
