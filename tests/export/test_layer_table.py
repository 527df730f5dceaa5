"""The layer table: what runs on INT8, what does not, and why; from NVIDIA's real builder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

from export.engines.layer_table import LayerTable, layer_files, layer_table, write_layers
from export.report.verdict import REPORT_SCHEMA
from runtime.bundle import Bundle, Precision
from runtime.nvidia import LogMessage, find_tensorrt
from runtime.plan import BuiltPlan, build_plan
from tests.export import bad_graphs as faults
from tests.export.test_build_log import RTX_TABLE
from tests.mini_bundle import write_mini_bundle
from tests.qdq_graphs import Edit, QdqRule, qdq_step_graph

CONV = "/layer.0/conv2/Conv"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_mini_bundle(tmp_path / "bundle", height_px=8, width_px=8)


def _table(bundle: Bundle, model: onnx.ModelProto, precision: Precision = "int8") -> LayerTable:
    """Build a graph with the real builder, in the place of the bundle's."""
    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    onnx.save(model, bundle.graph_path("step_int8" if precision == "int8" else "step"))
    return layer_table(build_plan(trt, model.SerializeToString()), bundle, precision, "x.plan")


def _recorded(bundle: Bundle, log: str = RTX_TABLE) -> LayerTable:
    """The table of a recorded log, whose graph is not there."""
    built = BuiltPlan(b"", (LogMessage("VERBOSE", log),), 1.0)
    return layer_table(built, bundle, "int8", "x.plan")


@pytest.mark.rtx
def test_a_good_graph_has_every_convolution_on_int8(bundle: Bundle) -> None:
    table = _table(bundle, qdq_step_graph())
    assert (len(table.int8_convs), table.other_convs, table.remarks) == (6, (), ())
    assert "6 of 6 convolutions run on INT8" in str(table)
    assert "## Convolutions that do not run on INT8\n\nNone." in str(table)
    for row in table.rows:
        assert bool(row.why) == (row.runs != "INT8"), row
        assert row.runs == ("INT8" if row.kind == "correlation" else "FP32")


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (faults.weight_axis_1, "weight is quantised along axis 1"),
        (faults.weight_only, "data input has no Q/DQ"),
        (faults.activation_only, "weight has no DQ"),
    ],
)
def test_the_preflight_says_why_a_convolution_is_in_float(
    bundle: Bundle, fault: Edit, why: str
) -> None:
    model = qdq_step_graph()
    fault(model)
    table = _table(bundle, model)
    assert table.other_convs == (CONV,)
    (row,) = [row for row in table.rows if row.conv == CONV]
    assert row.runs == "FP32"
    assert why in row.why
    line = next(line for line in str(table).splitlines() if line.startswith(f"| {CONV} "))
    assert why in line


@pytest.mark.rtx
def test_what_was_kept_in_float_on_purpose(bundle: Bundle) -> None:
    kept = [{"conv": CONV, "reason": "costs 3 dB"}]
    report = {"schema_version": REPORT_SCHEMA, "quantisation": {"kept_float": kept}}
    (bundle.folder / "report.json").write_text(json.dumps(report))
    model = qdq_step_graph()
    faults.activation_only(model)
    (row,) = [row for row in _table(bundle, model).rows if row.conv == CONV]
    assert row.why.startswith("kept in float on purpose")


@pytest.mark.rtx
def test_a_float_graph_has_one_reason(bundle: Bundle) -> None:
    table = _table(bundle, qdq_step_graph(QdqRule(int8=False)), "float32")
    assert table.int8_convs == ()
    whys = {row.why for row in table.rows if row.conv}
    assert whys == {"the float32 graph is not quantised"}


def test_without_onnx_the_log_alone_tells(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("export.")]:
        monkeypatch.delitem(sys.modules, name)  # or the preflight's own import is not tried
    monkeypatch.setitem(sys.modules, "onnx", None)
    table = _recorded(bundle)
    assert table.remarks == ("Without onnx the reasons come from the build log alone.",)
    assert "Without onnx" in str(table)
    assert (table.int8_convs, table.other_convs) == (("/a/Conv",), ("/b [2], x/Conv",))
    (row,) = [row for row in table.rows if row.conv in table.other_convs]
    assert row.why == "neither its data nor its weight are INT8"


@pytest.mark.parametrize(
    ("data", "weight", "why"),
    [("Int8", "Float", "only its data are INT8"), ("Float", "Int8", "only its weight is INT8")],
)
def test_half_a_quantisation_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, data: str, weight: str, why: str
) -> None:
    line = (
        f"Name: /c/Conv_myl0_1, LayerType: correlation, Inputs: [ {{ Name: t, Datatype: {data} }}],"
        f" Constants: [ {{ Name: w, Datatype: {weight} }}], Outputs: [ {{ Name: o, Datatype: Float "
        "}], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: /c/Conv]"
    )
    monkeypatch.setattr("export.engines.layer_table._graph_facts", lambda _: (("/c/Conv",), {}))
    (row,) = _recorded(bundle, line).rows
    assert row.why.startswith(why)


def test_a_convolution_without_a_layer_of_its_own(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    convs = ("/a/Conv", "/fc/Gemm", "/gone/Conv")
    monkeypatch.setattr("export.engines.layer_table._graph_facts", lambda _: (convs, {}))
    rows = {row.conv: row for row in _recorded(bundle).rows if row.conv}
    assert rows["/fc/Gemm"].kind == rows["/gone/Conv"].kind == "merged"
    assert rows["/fc/Gemm"].why == "merged into gemm /fc/Gemm_myl0_3"
    assert rows["/gone/Conv"].why == "the build log does not name it"


def test_a_log_without_a_table_says_so(bundle: Bundle) -> None:
    table = _recorded(bundle, "nothing here")
    assert table.remarks[0] == "The build log has no layer table."
    assert "0 kernels" in str(table)


def test_the_table_lies_beside_the_engine(bundle: Bundle, tmp_path: Path) -> None:
    plan = tmp_path / "mini-int8-n1-sm86-0123.plan"
    as_text = write_layers(_recorded(bundle), plan)
    as_json, expected = layer_files(plan)
    assert as_text == expected == tmp_path / "mini-int8-n1-sm86-0123.layers.md"
    stored = json.loads(as_json.read_text())
    assert [row["name"] for row in stored["rows"]][:2] == [
        "__myl_CastTranConc_myl0_0",
        "/a/Conv_myl0_1",
    ]
    assert as_text.read_text().startswith("# Layers of x.plan\n")


def test_names_do_not_break_the_table(bundle: Bundle) -> None:
    table = _recorded(bundle, RTX_TABLE.replace("/fc/Gemm_myl0_3", "/fc|Gemm_myl0_3"))
    rows = [line for line in str(table).splitlines() if line.startswith("| 4 ")]
    assert "/fc\\|Gemm" in rows[0]
