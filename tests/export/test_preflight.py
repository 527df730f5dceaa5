"""The static checks; `test_bad_graphs.py` has a graph for each fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from export.checks.int8 import FloatMap, float_maps
from export.checks.named import Finding
from export.checks.preflight import Target, preflight, require_clean
from export.checks.step import states_by_name
from export.graph_view import load_graph
from runtime.bundle import StateSpec
from runtime.errors import ExportError
from tests.export.bad_graphs import activation_only, weight_only
from tests.mini_bundle import write_mini_bundle
from tests.qdq_graphs import QdqRule, node_named, qdq_step_graph, set_constant

CONV = "/layer.0/conv2/Conv"
CLEAN_RULES = [
    QdqRule(),
    QdqRule(int8=False),
    QdqRule(int8_states=False),
    QdqRule(streams=2, blocks=4, depthwise=True),
]


@pytest.mark.parametrize("rule", CLEAN_RULES, ids=str)
def test_good_graphs_are_clean(rule: QdqRule) -> None:
    assert preflight(qdq_step_graph(rule), precision="int8" if rule.int8 else "float32") == []


def test_the_mini_bundle_is_clean(tmp_path: Path) -> None:
    bundle = write_mini_bundle(tmp_path)
    for kind in ("step", "step_int8"):
        graph = bundle.graph(kind)
        require_clean(
            bundle.graph_path(kind),
            states=graph.states,
            precision="float32" if kind == "step" else "int8",
        )


def test_a_float_graph_has_no_qdq() -> None:
    with pytest.raises(ExportError, match="unexpected-qdq"):
        require_clean(qdq_step_graph(), precision="float32")


def test_an_unquantised_graph_is_no_int8_graph() -> None:
    found = {
        finding.check
        for finding in preflight(qdq_step_graph(QdqRule(int8=False)), precision="int8")
    }
    assert {"conv-data", "conv-weight"} <= found


def test_a_half_graph_is_no_float32_graph() -> None:
    model = qdq_step_graph(QdqRule(int8=False))
    set_constant(model, "unused", np.zeros(2, np.float16))
    with pytest.raises(ExportError, match="unexpected-half .unused.: 1 float16 tensors; give"):
        require_clean(model)


def test_a_convolution_may_stay_in_float_on_purpose() -> None:
    model = qdq_step_graph()
    weight_only(model)
    activation_only(model)
    assert preflight(model, float_convs={CONV: "costs a point"}) == []
    assert {f.check for f in preflight(model)} == {"conv-data", "conv-weight", "float-map"}


def test_a_list_of_another_graphs_convolutions() -> None:
    with pytest.raises(ExportError, match="kept-float .gone/Conv.: .* no Conv has this name"):
        require_clean(qdq_step_graph(), float_convs=["gone/Conv"])


def test_float_maps_are_counted_listed_or_not() -> None:
    model = qdq_step_graph()
    assert float_maps(load_graph(model)) == []
    weight_only(model)
    (only,) = float_maps(load_graph(model))
    assert only == FloatMap("/layer.0/Relu_1", CONV)
    node_named(model, "/layer.0/rest").input[0] = "/stem/Relu_out"
    assert FloatMap("/stem/Relu", "/layer.0/rest") in float_maps(load_graph(model))


def test_a_convolution_without_activation_is_a_blocks_output_too() -> None:
    """EfficientNet's blocks end so; here the projection's float output is cut by a shift."""
    model = qdq_step_graph()
    node_named(model, "/layer.1/Add").input[1] = "cut"
    whole = [f"/int_{i}" for i in (0, 2)]
    set_constant(model, "many", np.array([64], np.int64))
    inputs = ["/layer.1/down/Conv_out", whole[0], "many", "/int_1"]
    set_constant(model, "/int_1", np.array([1], np.int64))
    cut = helper.make_node("Slice", inputs, ["cut"], "cut")
    _insert_before(model, node_named(model, "/layer.1/Add"), cut)
    assert FloatMap("/layer.1/down/Conv", "cut") in float_maps(load_graph(model))


@pytest.mark.parametrize(
    ("target", "opset", "ir_version", "checks"),
    [
        ("8.6", 17, 8, set()),
        ("8.6", 18, 8, {"opset"}),
        ("8.6", 17, 9, {"ir-version"}),
        ("10.3", 20, 10, set()),
        ("10.3", 21, 10, {"opset"}),
        ("10.x", 20, 11, {"ir-version"}),
        ("11", 24, 13, set()),
        ("rtx", 26, 8, {"opset"}),
        ("8.6", 12, 8, {"opset"}),  # per-channel Q/DQ came with 13
    ],
)
def test_targets(target: Target, opset: int, ir_version: int, checks: set[str]) -> None:
    model = qdq_step_graph()
    model.opset_import[0].version, model.ir_version = opset, ir_version
    found = {finding.check for finding in preflight(model, target=target)}
    assert found & {"opset", "ir-version"} == checks


def test_an_invalid_graph_is_not_looked_at_further() -> None:
    model = qdq_step_graph()
    del node_named(model, CONV).input[1:]
    assert [f.check for f in preflight(model)] == ["onnx-valid"]


def test_shapes_that_contradict_each_other() -> None:
    model = qdq_step_graph()
    next(i for i in model.graph.input if i.name == "state_in_02").type.tensor_type.shape.dim[
        1
    ].dim_value = 3
    assert {"shape-inference", "state-types"} <= {f.check for f in preflight(model)}


def test_a_finding_has_a_check_that_exists() -> None:
    with pytest.raises(ValueError, match="export/checks/named.py, got 'made-up'"):
        Finding("made-up", "x", "y")


def test_a_split_convolution_is_no_residual_add() -> None:
    """Two convolutions, one of the state, one of the rest, added: a shift without Concat."""
    model = qdq_step_graph()
    split_first_convolution(model)
    checks = {finding.check for finding in preflight(model)}
    assert not checks & {"residual-add", "shortcut-float"}


def split_first_convolution(model: onnx.ModelProto) -> None:
    conv = node_named(model, "/layer.0/conv1/Conv")
    other = onnx.NodeProto()
    other.CopyFrom(conv)
    other.name, other.output[0] = "/layer.0/conv1/other/Conv", "other"
    other.input[0] = "/stem/out/DQ_out"
    relu = node_named(model, "/layer.0/Relu_1")
    _insert_before(model, relu, other)
    add = helper.make_node("Add", [conv.output[0], "other"], ["joined"], "/layer.0/conv1/join")
    _insert_before(model, relu, add)
    relu.input[0] = "joined"


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ([StateSpec("state_in_00", "state_out_00", (1, 2, 24, 24), "int8")], "state_in_01"),
        ([StateSpec("state_in_00", "state_out_00", (1, 2, 24, 24), "float32")], "must be float32"),
    ],
)
def test_states_are_the_bundles(states: list[StateSpec], match: str) -> None:
    with pytest.raises(ExportError, match=match):
        require_clean(qdq_step_graph(), states=states)


def test_unpadded_numbers_do_not_sort() -> None:
    model = qdq_step_graph(QdqRule(int8=False))
    specs = states_by_name(load_graph(model))
    specs = [
        StateSpec(f"state_in_{9 + i}", s.name_out, s.shape, s.dtype) for i, s in enumerate(specs)
    ]
    assert "pad numbers with zeros" in str(preflight(model, states=specs))


def _insert_before(model: onnx.ModelProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    names = [each.output[0] for each in model.graph.node]
    model.graph.node.insert(names.index(node.output[0]), new)
