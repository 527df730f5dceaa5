"""Corrected biases: a shift that rounding made is taken back, once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.int8.bias_correction import with_corrected_biases
from export.int8.conv_stats import conv_stats
from export.int8.probe import observed, probe_of
from export.to_int8 import int8_step
from tests.export.small import measured_thresholds, moving_frames


class Case:
    """An INT8 graph of 12 convolutions, and the float graph's means on 16 steps."""

    def __init__(self, step, folder):
        self.step = step
        _, thresholds = measured_thresholds(step, folder)
        self.int8 = int8_step(step.proto, step.states, thresholds)
        reset = np.zeros(16, np.float32)
        reset[0] = 1
        probe = probe_of(step.proto, step.states, moving_frames(16), reset)
        self.stats = conv_stats(step.proto, probe)
        self.probe = probe
        self.feeds = dict(probe.feeds)
        for name, scale in self.int8.state_scales.items():
            rounded = np.rint(self.feeds[name] / scale)
            self.feeds[name] = np.clip(rounded, -128, 127).astype(np.int8)
        self.convs = [node for node in step.proto.graph.node if node.op_type == "Conv"]

    def means(self, graph):
        """Mean of every convolution's output channels."""
        names = [conv.output[0] for conv in self.convs]
        probe = type(self.probe)(self.feeds, self.probe.logits)
        values = list(observed(graph, probe, names))
        return {n: np.concatenate([v[n] for v in values]).mean((0, 2, 3)) for n in names}


@pytest.fixture(scope="module")
def case(step_of, tmp_path_factory):
    return Case(step_of("tiny", "pem-tsm"), tmp_path_factory.mktemp("bias"))


def biases(graph):
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


def test_every_channel_has_the_float_graphs_mean(case):
    before = case.means(case.int8.proto)
    after = case.means(with_corrected_biases(case.int8.proto, case.feeds, case.stats))
    worst = {"before": 0.0, "after": 0.0}
    for conv in case.convs:
        wanted = case.stats[conv.name].mean_out
        name = conv.output[0]
        worst["before"] = max(worst["before"], np.abs(before[name] - wanted).max())
        worst["after"] = max(worst["after"], np.abs(after[name] - wanted).max())
    assert worst["before"] > 0.005
    assert worst["after"] < 1e-4


def test_a_shift_is_taken_back_where_it_arose_and_not_behind(case):
    """All that follows sees the corrected output: only the one bias moves."""
    corrected = with_corrected_biases(case.int8.proto, case.feeds, case.stats)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(corrected)
    name = case.convs[3].input[2]
    for tensor in wrong.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.5, name))
    found = biases(with_corrected_biases(wrong, case.feeds, case.stats))
    for key, value in biases(corrected).items():
        np.testing.assert_allclose(found[key], value, atol=1e-4, err_msg=key)


def test_nothing_but_biases_changes(case):
    before = biases(case.int8.proto)
    after = biases(with_corrected_biases(case.int8.proto, case.feeds, case.stats))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert changed <= {conv.input[2] for conv in case.convs}


def test_the_given_graph_is_left_as_it_was(case):
    before = case.int8.proto.SerializeToString()
    with_corrected_biases(case.int8.proto, case.feeds, case.stats)
    assert case.int8.proto.SerializeToString() == before
