"""Where Q/DQ pairs go, checked against the model's own structure: names are PyTorch's here."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from export.graph_view import GraphIndex
from export.int8.placement import placement_of, shortcut_of
from runtime.bundle import StateSpec
from runtime.errors import ExportError
from tests.export.small import UNITS

CASES = [
    *(("tiny", kind) for kind in UNITS),
    ("narrow18", "tsm"),
    ("narrow50", "pem-tsm"),  # bottlenecks, projections without a stride, 17 states
]
NUM_CONVS = {"tiny": 12, "narrow18": 20, "narrow50": 53}
BLOCKS = {"tiny": (1, 1, 1, 1), "narrow18": (2, 2, 2, 2), "narrow50": (3, 4, 6, 3)}
PROJECTED = {"tiny": (2, 3, 4), "narrow18": (2, 3, 4), "narrow50": (1, 2, 3, 4)}


class Case:
    def __init__(self, step, backbone, kind):
        self.backbone, self.kind, self.states = backbone, kind, step.states
        self.graph = step.proto.graph
        self.index = GraphIndex(self.graph)
        self.placement = placement_of(self.graph, step.states)

    def named(self, name):
        return next(node for node in self.graph.node if node.name == name)

    def blocks(self):
        """Stage and number of every residual block, in order."""
        for stage, count in enumerate(BLOCKS[self.backbone], start=1):
            yield from ((stage, number) for number in range(count))

    def input_of(self, stage, number):
        """The tensor a block reads."""
        relu = "relu_2" if self.backbone == "narrow50" else "relu_1"
        places = list(self.blocks())
        at = places.index((stage, number))
        if at == 0:
            stem = "maxpool/MaxPool" if self.backbone != "tiny" else "relu/Relu"
            return f"/backbone/{stem}_output_0"
        last_stage, last_number = places[at - 1]
        return f"/backbone/layer{last_stage}.{last_number}/{relu}/Relu_output_0"


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, step_of):
    return Case(step_of(*request.param), *request.param)


def test_every_convolution_and_every_activation(case):
    convs = [node for node in case.graph.node if node.op_type == "Conv"]
    assert case.placement.convs == tuple(node.name for node in convs)
    assert len(convs) == NUM_CONVS[case.backbone]
    placed = set(case.placement.tensors)
    assert {node.input[0] for node in convs} <= placed
    relus = {node.output[0] for node in case.graph.node if node.op_type == "Relu"}
    assert relus <= placed
    others = placed - relus - {node.input[0] for node in convs}
    kinds = {case.index.made_by(name) for name in others}
    assert kinds <= {"Conv", "MaxPool"}  # the projections, and the stem's pooling


def test_tensors_are_in_the_graphs_order_and_once(case):
    order = [name for node in case.graph.node for name in node.output]
    assert list(case.placement.tensors) == sorted(case.placement.tensors, key=order.index)
    assert len(set(case.placement.tensors)) == len(case.placement.tensors)


def test_residual_adds_have_one_side_and_it_is_the_shortcut(case):
    placed = set(case.placement.tensors)
    for stage, number in case.blocks():
        add = case.named(f"/backbone/layer{stage}.{number}/Add")
        shortcut = case.input_of(stage, number)
        if number == 0 and stage in PROJECTED[case.backbone]:
            prefix = f"/backbone/layer{stage}.{number}/downsample"
            shortcut = f"{prefix}/downsample.0/Conv_output_0"
        assert shortcut in add.input
        assert placed & set(add.input) == {shortcut}


def test_vectors_gates_and_logits_stay_float(case):
    shapes = onnx.shape_inference.infer_shapes(
        helper.make_model(case.graph, opset_imports=[helper.make_opsetid("", 17)])
    ).graph.value_info
    rank = {info.name: len(info.type.tensor_type.shape.dim) for info in shapes}
    assert {rank[name] for name in case.placement.tensors} == {4}
    assert "logits" not in case.placement.tensors
    assert not [name for name in case.placement.tensors if name.startswith("state_")]


def test_pooled_and_shifted_values_share_a_scale(case):
    ties = dict(case.placement.tied)
    if case.backbone != "tiny":
        pooled = "/backbone/maxpool/MaxPool_output_0"
        assert ties.pop(pooled) == "/backbone/relu/Relu_output_0"
    if case.kind == "tsm":
        for stage, number in case.blocks():
            shifted = case.named(f"/backbone/layer{stage}.{number}/conv1/Conv").input[0]
            assert ties.pop(shifted) == case.input_of(stage, number)
    assert ties == {}


def test_shift_states_are_stored_on_the_grid_of_their_values(case):
    maps = [state.name_in for state in case.states if len(state.shape) == 4]
    assert list(case.placement.shift_states) == maps
    if case.kind in ("plain", "pem"):
        assert maps == []
        return
    for name, (stage, number) in zip(maps, case.blocks(), strict=True):
        wanted = case.input_of(stage, number)
        if case.kind == "pem-tsm":  # shifted, then gated: the convolution reads it
            wanted = case.named(f"/backbone/layer{stage}.{number}/conv1/Conv").input[0]
            gate = case.index.producer(wanted)
            assert gate.op_type == "Mul"
            assert case.index.made_by(gate.input[0]) == "Concat"
        assert case.placement.shift_states[name] == wanted


def test_either_order_of_the_adds_inputs(step_of):
    """`y + x` and `x + y` are the same network."""
    proto = step_of("narrow18", "tsm").proto
    states = step_of("narrow18", "tsm").states
    expected = placement_of(proto.graph, states)
    for node in proto.graph.node:
        if node.op_type == "Add":
            node.input[:] = list(node.input)[::-1]
    assert placement_of(proto.graph, states) == expected


@pytest.mark.parametrize(
    ("conv", "without"),
    [
        ("layer1.0/conv2", ["layer1.0/relu/Relu_output_0"]),  # nothing else reads it
        ("layer1.0/conv1", []),  # so does the shortcut
        ("backbone/conv1", ["/Div_output_0"]),
    ],
)
def test_what_only_a_float_convolution_reads_gets_no_pair(step_of, conv, without):
    step = step_of("tiny", "plain")
    name = f"{'' if conv.startswith('backbone') else '/backbone'}/{conv}/Conv"
    every = placement_of(step.proto.graph, step.states)
    kept = placement_of(step.proto.graph, step.states, [name])
    missing = set(every.tensors) - set(kept.tensors)
    assert [tensor.endswith(tuple(without)) for tensor in missing] == [True] * len(without)
    assert set(kept.tensors) <= set(every.tensors)
    assert set(every.convs) - set(kept.convs) == {name} == set(kept.float_convs)


def test_adds_that_are_not_residual():
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Add", ["a", "bias"], ["b"]),
            helper.make_node("Mul", ["a", "b"], ["c"]),
        ],
        "x",
        [],
        [],
    )
    index = GraphIndex(graph)
    assert [shortcut_of(node, index) for node in graph.node] == [None, None, None]


def test_a_map_that_is_not_shifted_is_refused():
    spec = StateSpec("state_in_00", "state_out_00", (1, 4, 8, 8), "float32")
    value = helper.make_tensor_value_info("state_in_00", TensorProto.FLOAT, spec.shape)
    relu = helper.make_node("Relu", ["state_in_00"], ["state_out_00"])
    graph = helper.make_graph([relu], "x", [value], [])
    with pytest.raises(ExportError, match=r"state_in_00 \(1, 4, 8, 8\) does not reach a shift"):
        placement_of(graph, (spec,))


def test_a_shift_that_no_convolution_reads_is_refused():
    spec = StateSpec("state_in_00", "state_out_00", (1, 4, 8, 8), "float32")
    value = helper.make_tensor_value_info("state_in_00", TensorProto.FLOAT, spec.shape)
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["now"]),
        helper.make_node("Concat", ["state_in_00", "now"], ["both"], axis=1),
        helper.make_node("Identity", ["now"], ["state_out_00"]),
    ]
    graph = helper.make_graph(nodes, "x", [value], [])
    with pytest.raises(ExportError, match="feeds both, which no convolution reads"):
        placement_of(graph, (spec,))
