"""The report's numbers: verdict, intervals, changed clips, and that no path gets in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.report.changed_clips import MOST_CLIPS, changed_clips
from export.report.compose import compose, wilson
from export.report.verdict import (
    REPORT,
    REPORT_SCHEMA,
    kept_float_of,
    read_report,
    require_steady,
    verdict_of,
)
from runtime.errors import ExportError, GateError
from runtime.sampling import SamplingContract
from tests.export.report_example import gate_example, report_example, stream_example
from tests.export.small import SQUARE, UNITS
from tests.mini_bundle import write_mini_bundle
from train.checkpoint import Facts
from train.model.cost import cost_of
from train.model.tdrl import ModelConfig


def test_the_verdict_says_what_is_lost_and_at_what_size():
    verdict = verdict_of(report_example())
    assert verdict.ships
    assert verdict.line == (
        "Ships: INT8 loses 0.20 points on 500 held-out clips (95 % bound 0.53 points, allowed 0.50 "
        "points); loses nothing on 100 live actions; its graph has 0.50 MB, the float one 2.00 MB."
    )


def test_a_raised_limit_is_said_first():
    report = report_example()
    report["gate"]["allowed_loss"] = 0.03
    assert verdict_of(report).line.startswith("Ships, by a raised limit: INT8 loses")


def test_a_refusal_says_why():
    verdict = verdict_of(report_example(), "INT8 may lose 3 points")
    assert not verdict.ships
    assert verdict.line == "Do not ship: INT8 may lose 3 points."


@pytest.mark.parametrize("key", ["drift", "long_drift"])
def test_a_drift_refuses(key):
    report = {**report_example(), key: stream_example(grows=True)}
    assert verdict_of(report).line.startswith("Do not ship: INT8's distance to float grows")
    with pytest.raises(GateError, match=r"grows along a stream, 4\.\d times in 1,100 steps"):
        require_steady(report)


def test_a_stream_too_short_to_tell_refuses_nothing():
    report = {**report_example(), "drift": stream_example(grows=True, steps=110)}
    assert report["drift"]["int8"]["grows"]
    verdict = verdict_of(report)
    assert verdict.ships
    assert verdict.line.endswith("; drift not judged, the stream was too short.")
    require_steady(report)
    longer = {**report, "long_drift": stream_example()}
    assert "not judged" not in verdict_of(longer).line


def test_what_was_kept_in_float_comes_from_the_report(tmp_path):
    assert kept_float_of(tmp_path) == {}  # a bundle may come without its report
    kept = [{"conv": "c1", "reason": "costs 3 dB", "macs_share": 0.1}]
    report = {"schema_version": REPORT_SCHEMA, "quantisation": {"kept_float": kept}}
    (tmp_path / REPORT).write_text(json.dumps(report))
    assert kept_float_of(tmp_path) == {"c1": "costs 3 dB"}
    (tmp_path / REPORT).write_text("{")
    assert kept_float_of(tmp_path) == {}


def test_without_tape_and_int8_graph_the_verdict_still_reads():
    report = report_example()
    report["gate"]["live"] = None
    report["files"] = report["files"][:1]
    assert verdict_of(report).line.endswith("allowed 0.50 points).")


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_by_the_book(share, count, low, high):
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)


# --- changed clips


def test_changed_clips_by_hand():
    sure, torn = [4.0, 0.0, 0.0], [1.0, 0.9, 0.0]
    logits = np.array([sure, torn, sure, torn], np.float32)
    int8 = np.array([sure, [0.9, 1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    found = changed_clips(logits, int8, np.array([0, 1, 2, 0]), ("a", "b", "c"))
    assert (found["count"], found["changed"]) == (4, 2)
    assert [clip["number"] for clip in found["clips"]] == [4, 2, 3, 1]
    part = changed_clips(logits, int8, np.array([0, 1, 2, 0]), ("a", "b", "c"), (3, 5, 8, 13))
    assert [clip["number"] for clip in part["clips"]] == [13, 5, 8, 3]
    assert found["moves"] == [{"float": "a", "int8": "b", "count": 2}]
    second = found["clips"][1]
    assert (second["label"], second["float"], second["int8"]) == ("b", "a", "b")
    powers = np.exp([1.0, 0.9, 0.0])
    assert second["prob_float"] == pytest.approx(powers[0] / powers.sum(), abs=1e-6)
    assert second["moved"] == pytest.approx((powers[0] - powers[1]) / powers.sum(), abs=1e-6)
    json.dumps(found, allow_nan=False)


def test_equal_graphs_change_nothing_and_the_list_is_short():
    logits = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    found = changed_clips(logits, logits, np.zeros(100, np.int64), ("a", "b", "c"))
    assert found["changed"] == 0
    assert found["moves"] == []
    assert len(found["clips"]) == MOST_CLIPS


# --- composition


@pytest.fixture
def facts():
    return Facts(
        name="run",
        model=ModelConfig(backbone="tiny", num_classes=5, unit=UNITS["pem-tsm"]),
        labels=("a", "b", "c", "d", "e"),
        picture=SQUARE,
        sampling=SamplingContract(num_segments=8, window_s=2.0, consensus_len=4),
        metrics={"clip_top1": 0.9},
        recipe={
            "backbone": "tiny",
            "epochs": 3,
            "init": "/home/someone/weights.ckpt",
            "cache": r"C:\cache",
            "lr_steps": [1, 2],
            "window_s": None,
        },
    )


@pytest.fixture
def composed(facts, tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle")
    bundle = replace(bundle, accuracy={"clip_top1_float32": 0.9, "live_top1_int8": 0.5})
    return compose(bundle, facts, "kitchen", {"gate": gate_example(), "drift": {"steps": 1}})


def test_every_accuracy_has_its_n_and_interval(composed):
    rows = [(row["what"][:10], row["precision"], row["count"]) for row in composed["accuracy"]]
    assert rows == [("top-1 on h", "float32", 500), ("top-1 live", "int8", 100)]
    first = composed["accuracy"][0]
    assert (first["low"], first["high"]) == pytest.approx(wilson(0.9, 500), abs=1e-6)


def test_the_report_has_sizes_costs_and_what_was_measured(composed, facts, tmp_path):
    sizes = {file["kind"]: file["bytes"] for file in composed["files"]}
    assert sizes["step"] == (tmp_path / "bundle" / "step.onnx").stat().st_size
    cost = cost_of(facts.model, num_segments=8, height_px=32, width_px=32)
    assert composed["cost"]["step_macs"] == cost.step_macs
    assert composed["cost"]["clip_macs"] == cost.clip_macs
    assert composed["drift"] == {"steps": 1}
    json.dumps(composed, allow_nan=False)


def test_no_path_of_this_machine_is_in_the_report(composed):
    assert composed["training"]["recipe"] == {"backbone": "tiny", "epochs": 3}
    text = json.dumps(composed)
    assert "someone" not in text
    assert "cache" not in text
    assert str(Path.home()) not in text


# --- reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "schema_version None, this version reads 1"),
        ('{"schema_version": 99}', "schema_version 99, this version reads 1"),
    ],
)
def test_a_report_that_is_none_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / REPORT).write_text(content)
    with pytest.raises(ExportError, match=message):
        read_report(tmp_path)
