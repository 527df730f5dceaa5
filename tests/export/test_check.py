"""The command on good graphs, on bad ones, and on files that are nothing of the kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.check import main
from export.checks.named import CHECKS, markdown
from export.checks.step import states_by_name
from export.graph_view import load_graph
from export.report.verdict import REPORT_SCHEMA
from runtime.command import run_command
from runtime.files import sha256_of
from tests.export.bad_graphs import activation_only, local_path, weight_only
from tests.mini_bundle import write_mini_bundle
from tests.qdq_graphs import Edit, QdqRule, qdq_step_graph

CONV = "/layer.0/conv2/Conv"
BIG_BYTES = 2**31


@pytest.fixture
def run(capsys):
    """`run(*arguments)`: status, output, error of the command."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = run_command(lambda: main([str(argument) for argument in arguments]))
        return status, *capsys.readouterr()

    return command


def saved(folder: Path, *edits: Edit, rule: QdqRule | None = None) -> Path:
    model = qdq_step_graph(rule)
    for edit in edits:
        edit(model)
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


def foreign_graph(opset: int = 11, rows: int | str = "N") -> onnx.ModelProto:
    """A small network of someone else's: old opset, dynamic batch, no names, no states."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [rows, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [rows, 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def test_a_good_graph(run, tmp_path):
    status, out, err = run(saved(tmp_path))
    assert (status, err) == (0, "")
    assert "int8; opset 17, ir version 8, nodes" in out
    assert "convolutions 6, states 3" in out
    assert "cross a block border in float: 0\n  0 errors, 0 warnings, 0 notes\n" in out
    assert out.endswith("nothing stands against TensorRT 8.6 (opset up to 17)\n")


def test_findings_are_grouped_errors_first(run, tmp_path):
    status, out, err = run(saved(tmp_path, weight_only, local_path))
    assert status == 1
    assert err.startswith("error: ")
    assert "has 1 error and 2 warnings" in err
    assert err.count("\n") == 1
    heads = [line.strip() for line in out.splitlines() if line.endswith("(1)")]
    assert heads == ["error: conv-data (1)", "warning: local-path (1)", "warning: float-map (1)"]
    assert f"    {CONV}: data input has no Q/DQ, it runs in float; quantise its input" in out
    assert "cross a block border in float: 1, 0 of them listed" in out


def test_warnings_end_it_only_with_strict(run, tmp_path):
    path = saved(tmp_path, local_path)
    assert run(path)[0] == 0
    status, _, err = run(path, "--strict")
    assert status == 1
    assert "has 0 errors and 1 warning;" in err


def test_a_listed_convolution_is_shown_with_its_reason(run, tmp_path):
    path = saved(tmp_path, weight_only, activation_only)
    status, out, _ = run(path, "--float-conv", f"{CONV}=costs 2 points")
    assert status == 0
    assert "in float: 1, 1 of them listed" in out
    assert f"{CONV} stays in float: costs 2 points" in out
    status, out, _ = run(path, "--float-conv", "no/such/Conv")
    assert status == 1
    assert "kept-float (1)" in out


def test_many_findings_of_a_kind_are_cut(run, tmp_path):
    def anonymous(model):
        for node in model.graph.node:
            node.name = ""

    path = saved(tmp_path, anonymous, rule=QdqRule(blocks=6))
    assert "... and 6 more (--all)" in run(path)[1]
    assert "more (--all)" not in run(path, "--all")[1]


def test_json(run, tmp_path):
    status, out, _ = run(saved(tmp_path, weight_only), "--json", "--target", "10.3")
    assert status == 1
    found = json.loads(out)
    (graph,) = found["graphs"]
    assert found["target"] == "10.3"
    assert graph["counts"] == {"error": 1, "warning": 1, "info": 0}
    assert {finding["check"] for finding in graph["findings"]} == {"conv-data", "float-map"}
    assert graph["float_maps"] == [{"maker": "/layer.0/Relu_1", "reader": CONV, "reason": None}]
    assert graph["build"] is None


def test_someone_elses_graph(run, tmp_path):
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign_graph(), path)
    status, out, _ = run(path)
    assert status == 1
    for name in ("static-shape", "node-names", "not-a-step-graph"):
        assert f"{name} (" in out
    assert "step-io" not in out
    onnx.save(foreign_graph(rows=1), path)
    status, out, _ = run(path)
    assert status == 0
    assert "info: not-a-step-graph (1)" in out
    assert "0 errors, 1 warning, 1 note" in out


@pytest.mark.parametrize("opset", [7, 21, 99])
def test_other_opsets(run, tmp_path, opset):
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign_graph(opset, rows=1), path)
    status, out, _ = run(path)
    assert status == 1
    assert f"    {opset}: must be 9 ... 17 for this target; pass opset_version=17" in out
    assert (run(path, "--target", "rtx")[0] == 0) == (opset == 21)


def test_weights_in_another_file(run, tmp_path):
    path = tmp_path / "graph.onnx"
    onnx.save(
        qdq_step_graph(), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    status, out, _ = run(path)
    assert status == 0
    assert "warning: external-data (1)" in out
    assert "0 errors, 1 warning, 0 notes" in out  # scales and axes were read from there
    assert "external-data" not in run(path, "--external-data")[1]
    (tmp_path / "w.bin").write_bytes(b"short")
    status, out, _ = run(path, "--external-data")
    assert status == 1
    assert "which has 5; copy the file beside the graph" in out
    (tmp_path / "w.bin").unlink()
    assert "its weights are in w.bin, which is missing" in run(path)[1]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", ""])
def test_weights_outside_the_folder_are_not_opened(run, tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    model = qdq_step_graph()
    tensor = next(t for t in model.graph.initializer if t.name == "/fc/w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    status, out, _ = run(folder / "graph.onnx")
    assert status == 1
    assert f"its weights are in {location!r}, which is not in the graph's folder" in out


def test_large_weights_are_not_copied_about(run, tmp_path):
    """Shape inference copies a graph several times; 128 MB of weights must not show."""
    model = qdq_step_graph()
    weight = np.zeros((8192, 4096), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "large"))
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    assert run(path)[0] == 0


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        (b"", "is empty"),
        (b"no protobuf at all", "cannot be read as ONNX"),
        (b'{"schema_version": 1}', "cannot be read as ONNX"),
        (bytes(64), "cannot be read as ONNX"),
        (b"\x08\x08", "holds no graph"),
    ],
)
def test_not_a_graph(run, tmp_path, contents, match):
    path = tmp_path / "x.onnx"
    path.write_bytes(contents)
    status, out, err = run(path)
    assert (status, out) == (1, "")
    assert match in err
    assert err.startswith(f"error: {path}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_a_part_of_a_file(run, tmp_path, share):
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    status, out, err = run(path)
    assert (status, out) == (1, "")
    assert "only a part of one" in err


def test_too_large_a_file(run, tmp_path):
    path = tmp_path / "x.onnx"
    with path.open("wb") as file:
        file.truncate(BIG_BYTES)  # no byte of it is on the disk
    status, _, err = run(path)
    assert status == 1
    assert "has 2.1 GB" in err
    assert "save_as_external_data=True" in err


def test_no_file_and_no_bundle(run, tmp_path):
    assert run(tmp_path / "gone.onnx")[2] == (
        f"error: {tmp_path / 'gone.onnx'} is not a file; give an ONNX graph\n"
    )
    assert "is no bundle, it has no bundle.json" in run(tmp_path)[2]


def test_a_bundle_is_checked_against_its_manifest(run, tmp_path):
    bundle = write_mini_bundle(tmp_path)
    status, out, _ = run(tmp_path, "--json")
    graphs = {Path(g["file"]).name: g for g in json.loads(out)["graphs"]}
    assert set(graphs) == {spec.file for spec in bundle.graphs.values()}
    assert graphs["step.int8.onnx"]["precision"] == "int8"
    assert graphs["step.onnx"]["findings"] == []
    # this bundle's clip graph is made for ONNX Runtime alone
    assert {f["check"] for f in graphs["clip.onnx"]["findings"]} == {"uint8-cast"}
    assert status == 1


def test_a_bundles_report_lists_what_stays_in_float(run, tmp_path):
    write_mini_bundle(tmp_path)
    path = saved(tmp_path, weight_only, activation_only)
    path.replace(tmp_path / "step.int8.onnx")
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    states = states_by_name(load_graph(tmp_path / "step.int8.onnx"))
    manifest["graphs"]["step_int8"]["states"] = [state.to_json() for state in states]
    for kept in ([], [{"conv": CONV, "reason": "costs 3 dB", "macs_share": 0.1}]):
        report = {"schema_version": REPORT_SCHEMA, "quantisation": {"kept_float": kept}}
        (tmp_path / "report.json").write_text(json.dumps(report))
        for name in ("report.json", "step.int8.onnx"):
            manifest["sha256"][name] = sha256_of(tmp_path / name)
        (tmp_path / "bundle.json").write_text(json.dumps(manifest))
        _, out, _ = run(tmp_path, "--json")
        graphs = {Path(graph["file"]).name: graph for graph in json.loads(out)["graphs"]}
        assert graphs["step.int8.onnx"]["float_convs"] == ({CONV: "costs 3 dB"} if kept else {})
        assert graphs["step.int8.onnx"]["counts"]["error"] == (0 if kept else 2)
        assert graphs["step.onnx"]["counts"]["error"] == 0


def test_a_changed_bundle_is_refused(run, tmp_path):
    bundle = write_mini_bundle(tmp_path)
    with bundle.graph_path("step").open("ab") as file:
        file.write(b"x")
    status, out, err = run(tmp_path)
    assert (status, out) == (1, "")
    assert "step.onnx" in err


def test_the_real_bundle_is_clean(run, built):
    status, out, err = run(built.bundle.folder, "--strict")
    assert (status, err) == (0, "")
    assert out.count("0 errors, 0 warnings, 0 notes") == len(built.bundle.graphs)


def test_the_list(run):
    _, text, _ = run("--list")
    _, table, _ = run("--list", "--markdown")
    assert table == markdown() + "\n"
    for check in CHECKS:
        assert f"{check.name} ({check.severity})\n  finds    {check.finds}\n" in text
        assert check.fix in text


def test_names_are_stable_words():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)


def test_build_without_the_builder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("export.check.find_tensorrt", lambda names: None)
    status, _, err = run(saved(tmp_path), "--build")
    assert status == 1
    assert "pip install 'tdrl-edge[rtx]'" in err


@pytest.mark.rtx
def test_build_tells_layers_and_precision(run, tmp_path):
    status, out, _ = run(saved(tmp_path), "--build")
    assert status == 0
    assert "6 of 6 convolutions on INT8" in out
    assert "    convolutions: 6 on Int8\n" in out
    status, out, _ = run(saved(tmp_path, weight_only), "--build", "--json")
    built = json.loads(out)["graphs"][0]["build"]
    assert built["convolutions_by_type"] == {"Float": 1, "Int8": 5}
    assert built["other_convs"] == [CONV]
    assert len(built["layers"]) >= built["kernels"]


@pytest.mark.rtx
def test_build_finds_weights_in_another_file(run, tmp_path):
    path = tmp_path / "graph.onnx"
    onnx.save(qdq_step_graph(), path, save_as_external_data=True, size_threshold=0, location="w")
    status, out, _ = run(path, "--build")
    assert status == 0
    assert "6 of 6 convolutions on INT8" in out


@pytest.mark.rtx
def test_a_graph_that_the_builder_refuses(run, tmp_path):
    path = tmp_path / "foreign.onnx"
    model = foreign_graph(rows=1)
    model.graph.node[1].op_type = "NonZero"
    model.graph.node[1].output[0] = "b"
    onnx.save(model, path)
    status, out, _ = run(path, "--build")
    assert status == 1
    assert "error: NVIDIA's builder: TensorRT refuses the graph: node " in out
