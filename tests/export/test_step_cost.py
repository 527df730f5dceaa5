"""Timings in any engine: what runs, what is divided by what, and what people read."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest

from export.step_cost import main
from export.step_engines import step_in
from export.step_ratios import (
    GRAPHS,
    PRECISIONS,
    kernel_counts,
    kernels_as_markdown,
    step_ratios,
    write_graphs,
)
from runtime.command import run_command
from runtime.errors import ExportError
from tests.export import bad_graphs
from tests.openvino_part import needs_openvino


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_graphs("tiny", 32, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(params=["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def engine(request):
    return request.param


@pytest.mark.parametrize("graph", GRAPHS)
def test_states_go_from_one_step_into_the_next(files, engine, graph):
    """The picture stays: the answer moves exactly where the past came along."""
    step = step_in(engine, files[graph])
    logits = [step().copy() for _ in range(4)]
    for before, after in pairwise(logits):
        assert (np.abs(after - before).max() > 1e-4) == graph.startswith("tdrl")


def test_ratios_are_of_the_graphs_they_name(files, engine, monkeypatch):
    """A clock that knows how long each graph takes: 2 and 3 ms in float, 1 and 2 ms in INT8."""
    takes = dict(zip(GRAPHS, (2, 3, 1, 2), strict=True))
    now = [0]
    monkeypatch.setattr("export.step_ratios.time.process_time_ns", lambda: now[0])

    def slow(engine, path):
        name = next(each for each, file in files.items() if file == path)
        return lambda: now.__setitem__(0, now[0] + takes[name] * 1_000_000)

    for path in files.values():
        step_in(engine, path)()  # all of them run
    monkeypatch.setattr("export.step_ratios.step_in", slow)
    found = step_ratios("tiny", 32, engine, files, rounds=3)
    assert found.ms == takes
    assert str(found.tdrl_float32) == "1.50 (1.50-1.50)"
    assert str(found.tdrl_int8) == "2.00 (2.00-2.00)"
    assert str(found.int8) == "0.67 (0.67-0.67)"


def test_kernels_are_divided_by_precision():
    counts = {"tiny": dict(zip(GRAPHS, (10, 20, 20, 30), strict=True))}
    assert kernels_as_markdown(counts).endswith("| tiny | 10 | 20 | 2.00 | 20 | 30 | 1.50 |")


@pytest.mark.rtx
def test_kernels_are_counted_where_int8_is_int8_and_float_is_float(files, tmp_path):
    counts = kernel_counts(files)
    assert counts is not None
    assert set(counts) == set(GRAPHS)
    assert all(counts[f"tdrl.{each}"] > counts[f"plain.{each}"] > 12 for each in PRECISIONS)
    model = onnx.load(files["tdrl.int8"])
    kept = bad_graphs.main_conv(model).name
    bad_graphs.activation_only(model)  # builds without a word
    onnx.save(model, tmp_path / "kept.onnx")
    with pytest.raises(ExportError, match=f"11 .* on INT8, expected 12; in float: {kept};"):
        kernel_counts({**files, "tdrl.int8": tmp_path / "kept.onnx"})
    with pytest.raises(ExportError, match="12 convolutions run on INT8, expected 0"):
        kernel_counts({**files, "plain.float32": files["plain.int8"]})


def test_without_openvino_the_way_out_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match="or --engine onnxruntime"):
        step_in("openvino", files["tdrl.float32"])


def test_the_table_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("export.step_ratios.find_tensorrt", lambda names: None)
    out = tmp_path / "found.json"
    arguments = ["--ratios", "tiny:32", "--engine", "onnxruntime", "--pairs", "2"]
    assert run_command(lambda: main([*arguments, "--json", str(out)])) == 0
    assert "| tiny | 32 | onnxruntime |" in capsys.readouterr().out
    assert '"tdrl_int8"' in out.read_text()


@pytest.mark.parametrize("case", ["resnet18", "resnet18:", "resnet18:-1", "resnet18:x"])
def test_a_case_that_is_none(case, capsys):
    with pytest.raises(SystemExit):
        main(["--ratios", case])
    assert "must be BACKBONE:SIZE, as resnet18:224" in capsys.readouterr().err
