from __future__ import annotations

import json

import pytest

from runtime.events import Event, EventLog, decision_to_json
from tests.runtime.test_decision import decision


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_on_disk_at_once(tmp_path):
    path = tmp_path / "new" / "events.jsonl"
    with EventLog(path) as log:
        for number in range(3):
            log.write({"type": "x", "number": number, "label": "über"})
            assert lines_of(path)[-1] == {"type": "x", "number": number, "label": "über"}


def test_a_log_is_continued_and_a_broken_line_ended(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"type": "a"}\n{"type": "dec')
    with EventLog(path) as log:
        log.write({"type": "b"})
    lines = path.read_text().splitlines()
    assert lines == ['{"type": "a"}', '{"type": "dec', '{"type": "b"}']
    with EventLog(path) as log:
        log.write({"type": "c"})
    assert path.read_text().splitlines() == [*lines, '{"type": "c"}']


def test_json_has_no_word_for_nan(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log, pytest.raises(ValueError, match="not JSON"):
        log.write({"prob": float("nan")})
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_all_lines_have_type_source_and_three_clocks():
    event = Event(
        kind="reset",
        source="s",
        stream_time_s=1.5,
        monotonic_ns=7,
        utc="2026-01-01T00:00:00+00:00",
        details={"reason": "gap"},
    )
    assert event.to_json()["reason"] == "gap"
    for record in (event.to_json(), decision_to_json(decision(), ["a", "b"])):
        assert {"type", "source", "stream_time_s", "monotonic_ns", "utc"} <= record.keys()
    record = decision_to_json(decision(prob=0.25), ["a", "b"])
    assert record["top"] == [["b", 0.75], ["a", 0.25]]
    assert json.loads(json.dumps(record)) == record
