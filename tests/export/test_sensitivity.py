"""One convolution alone in INT8: what changes, and in what order the layers come."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.int8.probe import probe_of
from export.int8.round_weights import nearest
from export.int8.sensitivity import AloneInInt8, macs_shares, sensitivities, with_top1_loss
from export.to_int8 import scales_of
from tests.export.small import measured_thresholds, moving_frames, run_steps


@pytest.fixture(scope="module")
def step(step_of):
    return step_of("tiny", "pem-tsm")


@pytest.fixture(scope="module")
def alone(step, tmp_path_factory):
    placement, thresholds = measured_thresholds(step, tmp_path_factory.mktemp("alone"))
    return AloneInInt8(step.proto, scales_of(placement, thresholds))


@pytest.fixture(scope="module")
def probe(step):
    reset = np.zeros(12, np.float32)
    reset[0] = 1
    return probe_of(step.proto, step.states, moving_frames(12), reset)


def convs(graph):
    return [node for node in graph.graph.node if node.op_type == "Conv"]


def test_only_the_one_convolution_changes(step, alone):
    name = convs(step.proto)[4].name
    graph = alone.graph(name)
    onnx.checker.check_model(graph, full_check=True)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1
    before = {t.name: numpy_helper.to_array(t) for t in step.proto.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    conv = convs(step.proto)[4]
    assert changed == {conv.input[1]}
    steps, scale = nearest(before[conv.input[1]])
    np.testing.assert_array_equal(after[conv.input[1]], steps * scale[:, None, None, None])
    readers = [node for node in graph.graph.node if "alone_dq" in node.input]
    assert [node.name for node in readers] == [name]
    assert after["alone_scale"] == np.float32(alone.scales[conv.input[0]])


def test_the_worst_layer_comes_first(step, alone, probe):
    """A data scale that is far too wide makes the layer the most sensitive one."""
    conv = convs(step.proto)[7]
    plain = sensitivities(alone, probe)
    assert [layer.sqnr_db for layer in plain] == sorted(layer.sqnr_db for layer in plain)
    assert {layer.conv for layer in plain} == {each.name for each in convs(step.proto)}
    assert plain[0].conv != conv.name
    assert all(20 < layer.sqnr_db < 90 for layer in plain)
    bad = AloneInInt8(
        alone.step, {**alone.scales, conv.input[0]: 100 * alone.scales[conv.input[0]]}
    )
    found = sensitivities(bad, probe)
    assert found[0].conv == conv.name
    before = next(layer.sqnr_db for layer in plain if layer.conv == conv.name)
    assert found[0].sqnr_db < before - 20


def test_shares_of_the_work(step):
    shares = macs_shares(step.proto)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares) == [conv.name for conv in convs(step.proto)]
    # 16 channels at 16 × 20: the stem has 3 inputs, layer 1's convolutions have 16
    assert shares["/backbone/layer1.0/conv1/Conv"] == pytest.approx(
        16 / 3 * shares["/backbone/conv1/Conv"]
    )


def test_depthwise_work_counts_one_channel(step_of):
    shares = macs_shares(step_of("efficientnet_lite0", "plain").proto)
    first = shares["/backbone/layers.0/depthwise_conv/Conv"]
    stem = shares["/backbone/conv_stem/Conv"]
    assert first == pytest.approx(stem / 3)  # 9 weights an output, not 27


def balanced(step, pictures):
    """The graph with a bias at which clips get different answers, and these answers."""
    proto = step.proto
    logits = [run_steps(step.path, step.states, clip)[0].mean(0) for clip in pictures]
    name = next(node for node in proto.graph.node if "logits" in node.output).input[2]
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    centre = np.mean(logits, axis=0)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - centre, name))
    return proto, np.argmax(logits - centre, axis=1)


def test_top1_of_the_ten_worst(step, alone, probe):
    pictures = moving_frames(24, seed=2).reshape(6, 4, 32, 40, 3)
    proto, right = balanced(step, pictures)
    assert len(set(right)) > 1
    layers = sensitivities(alone, probe)
    found = with_top1_loss(layers, AloneInInt8(proto, alone.scales), step.states, pictures, right)
    assert [layer.conv for layer in found] == [layer.conv for layer in layers]
    assert [layer.top1_loss for layer in found[10:]] == [None, None]
    assert all(layer.top1_loss is not None and layer.top1_loss >= 0 for layer in found[:10])
    # float has all of them right, so whatever differs is lost
    name = convs(step.proto)[0].name
    bad = AloneInInt8(proto, dict.fromkeys(alone.scales, 1e6))  # all data become zero
    layer = next(layer for layer in layers if layer.conv == name)
    worst = with_top1_loss([layer], bad, step.states, pictures, right)
    logits = [run_steps(bad.graph(name), step.states, clip)[0].mean(0) for clip in pictures]
    lost = np.mean([row.argmax() != label for row, label in zip(logits, right, strict=True)])
    assert worst[0].top1_loss == pytest.approx(lost)
    assert lost > 0
