"""Every convolution of every model's INT8 graph runs on INT8: NVIDIA's builder says so."""

from __future__ import annotations

import onnx
import pytest
from torch import nn

from export.engines.build_log import conv_node_names, nvidia_build_check
from export.to_int8 import int8_step
from export.to_onnx import step_onnx_from_model
from runtime.errors import ExportError
from tests.export.small import PICTURE, Exported, int8_of, measured_thresholds, small_model
from tests.export.test_every_model import CASES, SMALL, UNITS

pytestmark = pytest.mark.rtx


def step_graph(backbone, kind, folder):
    model, path = small_model(SMALL[backbone], UNITS[kind]), folder / "step.onnx"
    return Exported(model, path, step_onnx_from_model(model, PICTURE, path))


@pytest.mark.parametrize(("backbone", "kind"), CASES)
def test_every_convolution_runs_on_int8(backbone, kind, tmp_path):
    step = step_graph(backbone, kind, tmp_path)
    path, _ = int8_of(step, tmp_path)
    check = nvidia_build_check(path, expected_int8=conv_node_names(path))
    # counted in the model, so that none is lost on the way
    convs = sum(isinstance(module, nn.Conv2d) for module in step.model.modules())
    assert len(check.int8_convs) == convs >= 12
    assert check.float_convs == ()


def is_depthwise(conv):
    return any(each.name == "group" and each.i > 1 for each in conv.attribute)


@pytest.mark.parametrize(
    ("backbone", "depthwise"),
    [("resnet18", False), ("resnet50", False), ("efficientnet_lite0", True)],
)
def test_one_that_stays_in_float_is_found(backbone, depthwise, tmp_path):
    step = step_graph(backbone, "tsm+pem", tmp_path)
    convs = [node for node in step.proto.graph.node if node.op_type == "Conv"]
    kept = [conv.name for conv in convs if is_depthwise(conv) == depthwise][5]
    _, thresholds = measured_thresholds(step, tmp_path)
    made = int8_step(step.proto, step.states, thresholds, float_convs=[kept])
    path = tmp_path / "kept.onnx"
    onnx.save(made.proto, str(path))
    message = f"{len(convs) - 1} convolutions run on INT8, expected {len(convs)}; in float: {kept};"
    with pytest.raises(ExportError, match=message):
        nvidia_build_check(path, expected_int8=conv_node_names(path))
