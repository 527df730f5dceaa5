from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from runtime.batch_rows import with_open_rows, with_rows
from tests.mini_bundle import mini_model, step_graph


def dims(info):
    return [d.dim_value or d.dim_param for d in info.type.tensor_type.shape.dim]


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 300])
@pytest.mark.parametrize("int8", [False, True])
def test_only_the_rows_change(rows, int8):
    before = step_graph(mini_model(5), (1, 16, 12), int8=int8)
    after = onnx.load_from_string(with_rows(before.SerializeToString(), rows))
    onnx.checker.check_model(after, full_check=True)
    for old, new in zip(
        [*before.graph.input, *before.graph.output],
        [*after.graph.input, *after.graph.output],
        strict=True,
    ):
        assert dims(new) == [rows, *dims(old)[1:]]
        new.type.tensor_type.shape.dim[0].dim_value = 1
    assert after == before


@pytest.mark.parametrize("int8", [False, True])
def test_open_rows_are_named_and_nothing_else_changes(int8):
    before = step_graph(mini_model(5), (1, 16, 12), int8=int8)
    after = onnx.load_from_string(with_open_rows(before.SerializeToString()))
    onnx.checker.check_model(after, full_check=True)
    for old, new in zip(
        [*before.graph.input, *before.graph.output],
        [*after.graph.input, *after.graph.output],
        strict=True,
    ):
        assert dims(new) == ["N", *dims(old)[1:]]
        new.type.tensor_type.shape.dim[0].dim_value = 1
    assert after == before


def test_rows_compute_alone():
    model = step_graph(mini_model(5), (1, 16, 12))
    session = ort.InferenceSession(with_rows(model.SerializeToString(), 3))
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3), np.uint8)
    feeds = {
        "frame": frames,
        "reset": np.ones((3, 1), np.float32),
        "state_in_00": np.zeros((3, 3), np.float32),
        "state_in_01": np.zeros((3, 3, 4, 4), np.float32),
    }
    together = session.run(["logits"], feeds)[0]
    one = ort.InferenceSession(model.SerializeToString())
    alone = [
        one.run(["logits"], {name: value[row : row + 1] for name, value in feeds.items()})[0][0]
        for row in range(3)
    ]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5)


def test_names_scalars_and_inner_shapes():
    """A named batch axis gets a number, a scalar stays one, shapes in between go."""
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("between", TensorProto.FLOAT, [1, 3]),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["between"]),
        helper.make_node("Neg", ["between"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:3], value_info=values[3:])
    model = helper.make_model(graph, doc_string="kept")
    after = onnx.load_from_string(with_rows(model.SerializeToString(), 4))
    assert [dims(info) for info in after.graph.input] == [[4, 3], []]
    assert dims(after.graph.output[0]) == [4, 3]
    assert not after.graph.value_info
    assert after.doc_string == "kept"


def test_bad_input():
    model = step_graph(mini_model(3), (1, 8, 8)).SerializeToString()
    with pytest.raises(ValueError, match="rows must be >= 1, got 0"):
        with_rows(model, 0)
    for bad in (b"", b"no model at all", b"\xff" * 40, b"\x08\x07"):
        for stamp in (lambda model: with_rows(model, 2), with_open_rows):
            with pytest.raises(ValueError, match=r"no graph|no ONNX model"):
                stamp(bad)
    with pytest.raises(ValueError, match="cut off"):
        with_rows(model[:-100], 2)
