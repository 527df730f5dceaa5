"""A damaged INT8 graph never passes both the static checks and the golden comparison.

Either alone lets some through: swapped states of one scale are for the golden frames to find, an
axis that runs in float is for the checks. What neither finds would ship.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from export.checks.preflight import preflight
from export.golden import GOLDEN_STEPS, RESET_AT
from export.graph_view import DEQUANTISE, QUANTISE, GraphIndex
from runtime.errors import SessionError
from runtime.selftest import check_logits
from tests.export.small import int8_of, moving_frames, run_steps

PAIR = (QUANTISE, DEQUANTISE)
ORT_ERRORS = (
    ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.NotImplemented, ort.RuntimeException,
)  # fmt: skip


@pytest.fixture(scope="module")
def good(step_of, tmp_path_factory):
    """A good INT8 graph, its states, and its golden logits."""
    path, states = int8_of(step_of("tiny", "pem-tsm"), tmp_path_factory.mktemp("good"))
    logits, _ = run_steps(path, states, moving_frames(GOLDEN_STEPS), reset_at=RESET_AT)
    return onnx.load(path), states, logits


def _pick(items, number):
    return items[number % len(items)]


def _of(model, *kinds):
    return [node for node in model.graph.node if node.op_type in kinds]


def _fresh(model, array):
    name = f"mutant_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _value(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def drop_pair(model, number):
    """All readers of a DQ read what its Q reads."""
    index = GraphIndex(model.graph)
    pairs = [n for n in _of(model, DEQUANTISE) if index.made_by(n.input[0]) == QUANTISE]
    dequantise = _pick(pairs, number)
    quantise = _producer(index, dequantise.input[0])
    for node in index.consumers(dequantise.output[0]):
        for position, name in enumerate(node.input):
            if name == dequantise.output[0]:
                node.input[position] = quantise.input[0]
    model.graph.node.remove(dequantise)
    if len(index.consumers(quantise.output[0])) == 1:
        model.graph.node.remove(quantise)


def drop_weight_dq(model, number):
    """A weight in float, at the values that its DQ gives."""
    dequantise = producer_of_weight(model, number)
    scale = _value(model, dequantise.input[1]).reshape(-1, 1, 1, 1)
    weight = _value(model, dequantise.input[0]).astype(np.float32) * scale
    conv = next(n for n in _of(model, "Conv") if n.input[1] == dequantise.output[0])
    conv.input[1] = _fresh(model, weight)
    model.graph.node.remove(dequantise)


def producer_of_weight(model, number):
    index = GraphIndex(model.graph)
    return _producer(index, _pick(_of(model, "Conv"), number).input[1])


def change_axis(model, number):
    axis = next(a for a in producer_of_weight(model, number).attribute if a.name == "axis")
    axis.i = 1 + number % 3


def drop_axis(model, number):
    """ONNX's default is 1."""
    del producer_of_weight(model, number).attribute[:]


def turn_scale_sign(model, number):
    node = _pick(_of(model, *PAIR), number)
    node.input[1] = _fresh(model, -_value(model, node.input[1]))


def change_scale(model, number):
    """At one end of a pair, or to no scale at all.

    Another plausible scale of a weight is another model: only golden frames can tell, where it
    matters to them.
    """
    node = _pick(_of(model, *PAIR), number)
    is_weight = _value(model, node.input[1]).size > 1
    factors = (0.0, np.nan) if is_weight else (0.0, 3.0, 0.25, np.nan)
    factor = np.float32(_pick(factors, number))
    node.input[1] = _fresh(model, _value(model, node.input[1]) * factor)


def change_zero_point(model, number):
    node = _pick(_of(model, *PAIR), number)
    zero = _value(model, node.input[2])
    node.input[2] = _fresh(model, zero + np.int8(1 + number % 5))


def unsigned_zero_point(model, number):
    node = _pick(_of(model, *PAIR), number)
    node.input[2] = _fresh(model, _value(model, node.input[2]).astype(np.uint8))


def swap_names(model, number, values):
    """Two states' names, at one end only."""
    named = [v for v in values if v.name.startswith("state_")]
    one = _pick(named, number)
    other = _pick([v for v in named if v is not one], number // len(named))
    swap = {one.name: other.name, other.name: one.name}
    for node in model.graph.node:
        for field in (node.input, node.output):
            for position, name in enumerate(field):
                field[position] = swap.get(name, name)


def swap_state_inputs(model, number):
    swap_names(model, number, model.graph.input)


def swap_state_outputs(model, number):
    swap_names(model, number, model.graph.output)


def swap_where(model, number):
    """Reset where there is none, and none where there is."""
    where = _pick(_of(model, "Where"), number)
    where.input[1], where.input[2] = where.input[2], where.input[1]


def mirror_weights(model, number):
    """The first or last layer's channels in reverse: valid in every way, for golden to find.

    In between a random network does not always say much else, as a trained one would.
    """
    if number % 2:
        node, position = next(n for n in _of(model, "Gemm") if "logits" in n.output), 1
    else:
        node, position = producer_of_weight(model, 0), 0
    mirrored = _value(model, node.input[position])[::-1]
    node.input[position] = _fresh(model, np.ascontiguousarray(mirrored))


def _producer(index, tensor):
    node = index.producer(tensor)
    assert node is not None
    return node


def change_state_type(model, number):
    states = [v for v in (*model.graph.input, *model.graph.output) if "state_" in v.name]
    kind = _pick(states, number).type.tensor_type
    kinds = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT16, TensorProto.UINT8)
    kind.elem_type = next(k for k in kinds[number % 2 :] if k != kind.elem_type)


def change_state_shape(model, number):
    states = [v for v in (*model.graph.input, *model.graph.output) if "state_" in v.name]
    _pick(states, number).type.tensor_type.shape.dim[1].dim_value += 1


MUTATIONS: tuple[Callable[[onnx.ModelProto, int], None], ...] = (
    drop_pair,
    drop_weight_dq,
    change_axis,
    drop_axis,
    turn_scale_sign,
    change_scale,
    change_zero_point,
    unsigned_zero_point,
    swap_state_inputs,
    swap_state_outputs,
    swap_where,
    mirror_weights,
    change_state_type,
    change_state_shape,
)


def found_by_checks(model, states) -> bool:
    return preflight(model, states=states, precision="int8") != []


def found_by_golden(model, states, expected) -> bool:
    try:
        logits, _ = run_steps(model, states, moving_frames(GOLDEN_STEPS), reset_at=RESET_AT)
        check_logits(logits, expected, "int8", "mutant")
    except (SessionError, *ORT_ERRORS):
        return True
    return False


def test_the_good_graph_passes_both(good):
    model, states, logits = good
    assert not found_by_checks(model, states)
    assert not found_by_golden(model, states, logits)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
@settings(max_examples=12)
@given(number=st.integers(0, 199))
def test_no_mutant_passes_both(good, mutate, number):
    model, states, logits = good
    mutant = onnx.ModelProto()
    mutant.CopyFrom(model)
    mutate(mutant, number)
    assert mutant != model
    assert found_by_checks(mutant, states) or found_by_golden(mutant, states, logits)
