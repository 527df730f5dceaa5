"""Second moments of receptive fields and means of outputs, against PyTorch's own unfolding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import export.int8.conv_stats
from export.int8.conv_stats import conv_stats
from export.int8.probe import Probe


def conv_graph(weight, *, groups=1, stride=1, pads=(0, 0, 0, 0)):
    """frame (1, 4, 9, 8) float → Conv → logits."""
    node = helper.make_node(
        "Conv", ["frame", "w"], ["logits"], "c", group=groups, strides=[stride] * 2, pads=pads
    )
    frame = helper.make_tensor_value_info("frame", TensorProto.FLOAT, (1, 4, 9, 8))
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, len(weight), None, None))
    graph = helper.make_graph([node], "g", [frame], [out], [numpy_helper.from_array(weight, "w")])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def moments_of(graph, frames):
    """The moments of its one convolution on some frames."""
    found = conv_stats(graph, Probe({"frame": frames}, np.zeros((len(frames), 1), np.float32)))["c"]
    assert found.moments is not None
    return found.moments


@pytest.mark.parametrize(
    ("shape", "groups", "stride", "pads"),
    [
        ((5, 4, 1, 1), 1, 1, (0, 0, 0, 0)),
        ((5, 4, 3, 3), 1, 2, (1, 1, 1, 1)),
        ((4, 1, 3, 3), 4, 1, (1, 1, 1, 1)),
        ((6, 2, 3, 3), 2, 2, (0, 0, 1, 1)),  # TensorFlow's SAME
    ],
)
def test_moments_and_means(shape, groups, stride, pads, monkeypatch):
    monkeypatch.setattr(export.int8.conv_stats, "POSITIONS", 1000)  # all of them
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype(np.float32)
    x = rng.normal(size=(10, 4, 9, 8)).astype(np.float32)
    graph = conv_graph(weight, groups=groups, stride=stride, pads=pads)
    found = conv_stats(graph, Probe({"frame": x}, np.zeros((10, 1), np.float32)))["c"]
    top, left, bottom, right = pads
    padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    out = functional.conv2d(padded, torch.from_numpy(weight), stride=stride, groups=groups)
    np.testing.assert_allclose(found.mean_out, out.mean((0, 2, 3)).numpy(), atol=1e-5)
    patches = functional.unfold(padded, shape[2:], stride=stride)  # (N, C · kh · kw, positions)
    flat = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2).double()
    expected = flat.transpose(1, 2) @ flat / flat.shape[1]
    np.testing.assert_allclose(moments_of(graph, x), expected.numpy(), atol=1e-5)


def test_a_sample_of_positions_is_like_all_of_them(monkeypatch):
    weight = np.ones((1, 4, 3, 3), np.float32)
    x = np.random.default_rng(1).normal(1, 1, (64, 4, 9, 8)).astype(np.float32)
    monkeypatch.setattr(export.int8.conv_stats, "POSITIONS", 12)
    few = moments_of(conv_graph(weight), x)
    monkeypatch.setattr(export.int8.conv_stats, "POSITIONS", 1000)
    every = moments_of(conv_graph(weight), x)
    np.testing.assert_allclose(few, every, atol=0.25)
    assert not np.array_equal(few, every)


def test_large_patches_have_no_moments(monkeypatch):
    monkeypatch.setattr(export.int8.conv_stats, "LARGEST_PATCH", 35)
    x = np.ones((2, 4, 9, 8), np.float32)
    weight = np.ones((1, 4, 3, 3), np.float32)
    found = conv_stats(conv_graph(weight), Probe({"frame": x}, np.zeros((2, 1), np.float32)))["c"]
    assert found.moments is None
    assert found.mean_out == pytest.approx([36.0])
