"""What a step graph's convolutions read and give on a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph_view import attribute
from export.int8.probe import Probe, observed

# output positions of a picture whose receptive fields are looked at
POSITIONS = 48
# larger matrices of second moments cost more than they give
LARGEST_PATCH = 1200


@dataclass(eq=False)
class ConvStats:
    """One convolution's input and output.

    Attributes:
        moments: Mean of patch · patchᵀ over receptive fields, shape (G, P, P) with P weights an
            output channel; None where P is large.
        mean_out: Mean of each output channel, shape (C_out,).
    """

    moments: NDArray[np.float64] | None
    mean_out: NDArray[np.float64]


def conv_stats(graph: onnx.ModelProto, probe: Probe) -> dict[str, ConvStats]:
    """Statistics of every convolution of a float step graph, by node name.

    Args:
        graph: A float step graph, N = 1.
        probe: What to run.
    """
    convs = [node for node in graph.graph.node if node.op_type == "Conv"]
    weights = {each.name: each for each in graph.graph.initializer}
    sums = {conv.name: _Sums(conv, numpy_helper.to_array(weights[conv.input[1]])) for conv in convs}
    tensors = dict.fromkeys(name for conv in convs for name in (conv.input[0], conv.output[0]))
    rng = np.random.default_rng(0)
    for values in observed(graph, probe, list(tensors)):
        for conv in convs:
            sums[conv.name].add(values[conv.input[0]], values[conv.output[0]], rng)
    return {name: each.finished() for name, each in sums.items()}


class _Sums:
    """Running sums of one convolution."""

    def __init__(self, conv: onnx.NodeProto, weight: NDArray[np.float32]) -> None:
        self.groups = attribute(conv, "group", 1)
        self.kernel = weight.shape[2:]
        self.strides = attribute(conv, "strides", [1, 1])
        self.pads = attribute(conv, "pads", [0, 0, 0, 0])
        self.patch = int(np.prod(weight.shape[1:]))
        self.has_moments = self.patch <= LARGEST_PATCH
        side = self.patch if self.has_moments else 0
        self.moments = np.zeros((self.groups, side, side))
        self.mean_out = np.zeros(weight.shape[0])
        self.rows = self.patches = 0

    def add(self, x: NDArray[Any], y: NDArray[Any], rng: np.random.Generator) -> None:
        """Count a few rows: input (N, C, H, W) and output (N, C', H', W')."""
        self.rows += len(x)
        self.mean_out += y.mean((2, 3)).sum(0)
        if self.has_moments:
            self._add_patches(x, y.shape[2:], rng)

    def _add_patches(self, x: NDArray[Any], out: tuple[int, ...], rng: np.random.Generator) -> None:
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = sliding_window_view(padded, self.kernel, axis=(2, 3))
        count = min(POSITIONS, out[0] * out[1])
        at = rng.choice(out[0] * out[1], count, replace=False)
        rows, columns = np.unravel_index(at, out)
        found = windows[:, :, rows * self.strides[0], columns * self.strides[1]]
        # (N, C, positions, kh, kw) to (G, N · positions, weights of an output channel)
        patches = found.transpose(1, 0, 2, 3, 4).reshape(
            self.groups, -1, len(x) * count, *self.kernel
        )
        flat = patches.transpose(0, 2, 1, 3, 4).reshape(self.groups, len(x) * count, self.patch)
        self.patches += len(x) * count
        self.moments += flat.transpose(0, 2, 1) @ flat

    def finished(self) -> ConvStats:
        """The means."""
        return ConvStats(
            self.moments / self.patches if self.has_moments else None,
            self.mean_out / self.rows,
        )
