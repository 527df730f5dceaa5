"""Every bad graph is found by its name, and NVIDIA's builder does with it what we say it does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from export.checks.named import BY_NAME, CHECKS
from export.checks.preflight import preflight, require_clean
from export.engines.build_log import check_messages, conv_node_names, parse_layers
from export.to_fp16 import fp16_onnx_from_model
from runtime.errors import EngineError, ExportError
from runtime.nvidia import find_tensorrt
from runtime.plan import build_plan
from tests.export.bad_graphs import BAD_GRAPHS, RTX_VERSION, BadGraph, document
from tests.export.small import PICTURE, int8_of

PAGE = Path(__file__).parents[2] / "docs" / "preflight.md"
# What no exported graph can have by one fault: `test_preflight.py` and `test_check.py` show these.
SHOWN_ELSEWHERE = {
    "onnx-valid",
    "shape-inference",
    "external-data",
    "external-missing",
    "unexpected-qdq",
    "unexpected-half",
    "not-a-step-graph",
    "state-order",
    "kept-float",
}
TYPE_OF = {"int8": "Int8", "float16": "Half"}


@pytest.fixture(scope="module")
def good(step_of, tmp_path_factory):
    """`good(precision)`: a fresh copy of a good exported graph."""
    folder = tmp_path_factory.mktemp("good")
    step = step_of("tiny", "pem-tsm")
    int8, _ = int8_of(step, folder)
    half = folder / "step.fp16.onnx"
    fp16_onnx_from_model(step.model, PICTURE, half)
    paths = {"int8": int8, "float16": half}
    return lambda precision: onnx.load(paths[precision])


@pytest.fixture
def made(good):
    """`made(bad)`: the graph with its fault."""

    def make(bad: BadGraph) -> onnx.ModelProto:
        model = good(bad.base)
        bad.edit(model)
        return model

    return make


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_graphs_they_are_made_from_are_clean(good, precision):
    assert preflight(good(precision), precision=precision) == []


@pytest.mark.parametrize("bad", BAD_GRAPHS, ids=lambda bad: bad.name)
def test_each_is_found_by_its_name(made, bad):
    findings = [f for f in preflight(made(bad), precision=bad.base) if f.check == bad.check]
    assert findings
    for finding in findings:
        assert finding.where
        assert finding.message.endswith(BY_NAME[bad.check].fix)
    with pytest.raises(ExportError, match=bad.check):
        require_clean(made(bad), precision=bad.base)


def test_every_check_is_shown():
    shown = {bad.check for bad in BAD_GRAPHS}
    assert {check.name for check in CHECKS} - shown == SHOWN_ELSEWHERE


def test_the_page_says_what_the_checks_say():
    assert PAGE.read_text(encoding="utf-8") == document(), "python -m tests.export.bad_graphs > it"


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize("bad", BAD_GRAPHS, ids=lambda bad: bad.name)
def test_what_the_builder_does(made, bad, tmp_path):
    """If one fails after an update, the builder has learnt something: change the table."""
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    model = made(bad)
    if bad.answer == "refuses":
        with pytest.raises(EngineError) as refused:
            build_plan(trt, model.SerializeToString())
        assert bad.said
        assert bad.said in str(refused.value)
        return
    built = build_plan(trt, model.SerializeToString())
    if bad.answer == "warns":
        assert bad.said in "\n".join(m.text for m in built.messages if m.severity == "WARNING")
    else:
        check_messages(built.messages)
    types = [layer.inputs[0] for layer in parse_layers(built.messages) if layer.is_conv]
    number = sum(node.op_type == "Conv" for node in model.graph.node)
    assert types.count(TYPE_OF[bad.base]) == number - (bad.answer == "in float")
    # a float convolution of three channels becomes generated code, which is no convolution line
    assert set(types) <= {TYPE_OF[bad.base], *["Float"] * (bad.answer == "in float")}


@pytest.mark.rtx
def test_the_page_names_the_builder_that_was_asked():
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    assert trt.__version__.startswith(RTX_VERSION)


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_good_graphs_run_as_they_claim(good, precision, tmp_path):
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    path = tmp_path / "good.onnx"
    onnx.save(good(precision), path)
    built = build_plan(trt, path.read_bytes())
    convs = [layer.inputs[0] for layer in parse_layers(built.messages) if layer.is_conv]
    assert convs == [TYPE_OF[precision]] * len(conv_node_names(path))
