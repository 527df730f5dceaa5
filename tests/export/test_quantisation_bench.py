"""The measurement of the steps: the command, its table and its file."""

from __future__ import annotations

import json

import pytest

from export.quantisation_bench import bench, main, markdown_of
from runtime.command import run_command


@pytest.fixture(scope="module")
def found(checkpoint, data):
    return bench(checkpoint, data, budget=0.1)


def test_every_step_is_measured(found):
    names = [row.step for row in found.rows]
    assert names[0] == "nearest weights, minmax"
    assert {"weights rounded against their inputs", "corrected biases"} <= set(names)
    assert found.clips == 13
    for row in found.rows:
        assert row.int8_convs + row.float_convs == 12
        assert 0.5 < row.clip_agreement <= 1
        assert 15 < row.sqnr_db < 60
        assert row.pem_db is not None
        assert row.map_db is not None
        assert 15 < row.map_db < 60
        assert row.pem_db > row.map_db
        # what it loses is what it answers otherwise, at most
        assert abs(row.top1_loss) <= 1 - row.clip_agreement + 1e-9
    kept = [row for row in found.rows if row.kept]
    assert max(row.sqnr_db for row in kept) == kept[-1].sqnr_db
    assert len(found.kept_float) == found.rows[-1].float_convs


def test_the_table_has_a_line_for_each_step(found):
    lines = markdown_of(found).splitlines()
    assert lines[0].startswith("**small** (tiny): float top-1 ")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == len(found.rows) + 1
    assert len({line.count("|") for line in rows}) == 1
    assert lines[-1].startswith("Measured ")


@pytest.mark.slow
def test_the_command_writes_the_numbers(checkpoint, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "int8.json"
    main(["--checkpoint", str(checkpoint), "--data", str(data), "--json", str(path)])
    written = json.loads(path.read_text())
    assert written["backbone"] == "tiny"
    assert "| corrected biases |" in capsys.readouterr().out
    assert len(written["rows"]) >= 3


def test_a_budget_that_is_no_share(checkpoint, data, capsys, monkeypatch):
    given = ["--checkpoint", str(checkpoint), "--data", str(data), "--float-budget", "5"]
    assert run_command(lambda: main(given)) != 0
    assert "float_budget must be in 0..1, got 5" in capsys.readouterr().err
