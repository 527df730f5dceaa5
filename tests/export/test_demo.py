"""The demo's table, contact sheet and cost measurement; the whole demo runs in `make test-all`."""

import copy
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from export.demo import (
    Paths,
    _require_reached,
    _stream_tape,
    build_check,
    decisions_of,
    events_of,
    stage,
)
from export.demo_sheet import draw_contact_sheet
from export.demo_table import markdown_table, rows_of
from export.step_cost import measure
from runtime.errors import ExportError, GateError
from tests.mini_bundle import write_mini_bundle
from train.data.truth import Segment
from train.data.video_file import write_h264
from train.live_events import Event

COST = {"name": "x", "ratio": 0.1, "ratio_low": 0.09, "ratio_high": 0.2}
FACTS: dict[str, Any] = {
    "evaluation": {
        "clip_top1": 0.99,
        "order_control": 0.98,
        "live": {"live_top1": 0.964, "plain_event_f1": 0.5},
    },
    "control": {"order_control": 0.5},
    "report": {
        "gate": {"clips": {"loss": 0.001}, "agreement": 0.998},
        "parity": {"steps": 64, "relative": 1e-6},
    },
    "live": {"live_top1": 0.96, "num_scored": 100, "event_f1": None},
    "nvidia": {"int8": 12, "meant": 12, "float": []},
    "cost": [{**COST}, {**COST}],
    "seconds": {"data": 40.0, "total": 400.0},
}


def facts_with(path, value):
    facts = copy.deepcopy(FACTS)
    *parents, last = path.split(".")
    place: Any = facts
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return facts


def test_good_results_reach_everything():
    rows = rows_of(FACTS)
    assert [row.what for row in rows if row.reached is False] == []
    _require_reached(rows)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("evaluation.clip_top1", 0.969),
        ("control.order_control", 0.51),
        ("live.live_top1", 0.93),
        ("report.gate.clips.loss", 0.006),
        ("report.gate.agreement", 0.98),
        ("report.parity.relative", 2e-4),
        ("nvidia.int8", 11),
        ("nvidia.float", ["conv"]),
    ],
)
def test_a_missed_accuracy_or_equality_fails_the_demo(path, value):
    rows = rows_of(facts_with(path, value))
    assert sum(row.must and row.reached is False for row in rows) == 1
    with pytest.raises(GateError, match="the demo missed: "):
        _require_reached(rows)


@pytest.mark.parametrize(
    ("path", "value"),
    [("cost.0.ratio", 0.5), ("seconds.total", 900.0), ("evaluation.live.live_top1", 0.966)],
)
def test_what_a_machine_or_a_rounding_may_miss_is_shown_and_does_not_fail(path, value):
    rows = rows_of(facts_with(path, value))
    assert sum(row.reached is False for row in rows) == 1
    _require_reached(rows)


def test_a_skipped_build_check_is_neither_reached_nor_missed():
    rows = rows_of(facts_with("nvidia", None))
    assert [row.got for row in rows if "NVIDIA" in row.what] == ["not built (RTX=1)"]
    _require_reached(rows)


def test_the_table_names_processor_and_versions():
    table = markdown_table(rows_of(FACTS), FACTS)
    assert "| clip top-1, held out, float | ≥ 97 % | 99.0 % | yes |" in table
    assert "total 6:40 min" in table
    assert "onnxruntime" in table
    assert " cores, " in table


def test_the_sheet_shows_each_action_at_its_end_with_truth_and_answer(tmp_path):
    shades = [np.full((96, 96, 3), 10 * i, np.uint8) for i in range(20)]
    write_h264(tmp_path / "tape.mp4", shades, 10)
    truth = [Segment("tape.mp4", 0.0, 0.5, "rise"), Segment("tape.mp4", 0.5, 1.5, "fall")]
    said = [
        SimpleNamespace(stream_time_s=t, index=0, warming=False, label="rise") for t in (0.25, 1.0)
    ]
    draw_contact_sheet(tmp_path / "tape.mp4", truth, said, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet[130, 130].mean() == pytest.approx(40, abs=6)
    assert sheet[130, 260 + 130].mean() == pytest.approx(140, abs=6)
    right, wrong = sheet[280:, :260], sheet[280:, 260:520]
    assert (right[:, :, 1].astype(int) - right[:, :, 2]).max() > 60  # green caption, BGR
    assert (wrong[:, :, 2].astype(int) - wrong[:, :, 1]).max() > 60  # red caption


def test_a_short_video_is_refused_and_leaves_no_sheet(tmp_path):
    write_h264(tmp_path / "tape.mp4", [np.zeros((96, 96, 3), np.uint8)] * 5, 10)
    with pytest.raises(ExportError, match=r"ends before 3\.0 s"):
        draw_contact_sheet(
            tmp_path / "tape.mp4", [Segment("t", 0.0, 3.0, "rise")], [], tmp_path / "sheet.png"
        )
    assert not (tmp_path / "sheet.png").exists()


def test_decisions_are_read_from_the_event_log(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_text('{"type": "start"}\n{"type": "decision", "index": 2, "stream_time_s": 1.5}\n')
    assert [(d.index, d.stream_time_s) for d in decisions_of(log)] == [(2, 1.5)]


def test_events_are_those_that_the_runtime_reported(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_text(
        '{"type": "action_start", "label": "fall", "start_s": 1.0}\n'
        '{"type": "action", "label": "fall", "start_s": 1.0, "end_s": 2.5}\n'
    )
    assert events_of(log, ("rise", "fall")) == [Event(1.0, 2.5, 1)]


def test_step_cost_is_a_ratio_of_pairs(tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle")
    states = bundle.graph("step").states
    cost = measure("mini", bundle.graph_path("step"), bundle.graph_path("clip"), states, pairs=5)
    assert cost.pairs == 5
    assert 0 < cost.ratio_low <= cost.ratio <= cost.ratio_high


def test_the_live_tape_runs_in_int8_whatever_engine_is_here(monkeypatch, tmp_path):
    asked: list[str] = []

    def noted(*words):
        asked.extend(words)
        return 1.5

    monkeypatch.setattr("export.demo.stage", noted)
    assert _stream_tape(Paths(), tmp_path) == 1.5
    assert asked[asked.index("--precision") + 1] == "int8"


def test_a_failing_stage_stops_the_demo_and_is_named(capfd):
    with pytest.raises(ExportError, match=r"-m train\.fit ended with status"):
        stage("-m", "train.fit", "--recipe", "no-such-recipe", "--data", "nowhere")
    assert "no recipe 'no-such-recipe'" in capfd.readouterr().err


def test_without_nvidias_builder_the_check_is_skipped_with_a_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("export.demo.find_tensorrt", lambda names: None)
    assert build_check(write_mini_bundle(tmp_path / "bundle")) is None
    assert "skipped" in capsys.readouterr().out
