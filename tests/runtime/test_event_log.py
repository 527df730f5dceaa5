from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from runtime.event_log import EventFile, EventLog
from tests.full_disk import full_disk


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers_of(path):
    return [line["number"] for line in lines_of(path) if "number" in line]


def record(number, size=0):
    clocks = {"source": "s", "stream_time_s": 0.5, "monotonic_ns": number, "utc": "now"}
    return {"type": "x", "number": number, **clocks, "filler": "x" * size}


def test_every_line_is_on_disk_at_once(tmp_path):
    path = tmp_path / "new" / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        for number in range(3):
            log.write({"type": "x", "number": number, "label": "über"})
            assert lines_of(path)[-1] == {"type": "x", "number": number, "label": "über"}


def test_a_log_is_continued_and_a_broken_line_ended(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"type": "a"}\n{"type": "dec')
    with EventLog(EventFile(path)) as log:
        log.write({"type": "b"})
    lines = path.read_text().splitlines()
    assert lines == ['{"type": "a"}', '{"type": "dec', '{"type": "b"}']
    with EventLog(EventFile(path)) as log:
        log.write({"type": "c"})
    assert path.read_text().splitlines() == [*lines, '{"type": "c"}']


def test_json_has_no_word_for_nan(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log, pytest.raises(ValueError, match="not JSON"):
        log.write({"prob": float("nan")})
    assert path.read_bytes() == b""


def test_a_closed_log_takes_nothing(tmp_path):
    log = EventLog(EventFile(tmp_path / "events.jsonl"))
    log.close()
    log.close()
    with pytest.raises(ValueError, match="is closed"):
        log.write(record(1))


def test_two_runs_never_write_one_file(tmp_path):
    path = tmp_path / "events.jsonl"
    code = "import sys; from pathlib import Path; from runtime.event_log import *; "
    code += "EventLog(EventFile(Path(sys.argv[1])))"
    with EventLog(EventFile(path)):
        with pytest.raises(OSError, match="is written by another run; give each its own file"):
            EventLog(EventFile(path))
        other = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        assert "is written by another run" in other.stderr
    EventLog(EventFile(path)).close()


# ---- rotation


def test_files_are_rotated_by_size_and_the_oldest_go(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path, max_bytes=1000, keep=2)) as log:
        for number in range(100):
            log.write(record(number))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    newest_last = [
        n for name in (".2", ".1", "") for n in numbers_of(tmp_path / f"events.jsonl{name}")
    ]
    assert newest_last == list(range(newest_last[0], 100)), "whole lines, none lost in between"


def test_a_limit_holds_over_restarts(tmp_path):
    path = tmp_path / "events.jsonl"
    for number in range(20):
        with EventLog(EventFile(path, max_bytes=500, keep=1)) as log:
            log.write(record(number))
    assert path.stat().st_size <= 500
    assert sorted(file.name for file in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1"]
    assert numbers_of(path)[-1] == 19


def test_a_line_larger_than_a_file_is_written_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path, max_bytes=300, keep=5)) as log:
        log.write(record(0))
        log.write(record(1, size=1000))
        log.write(record(2))
    assert [numbers_of(tmp_path / f"events.jsonl{n}") for n in (".2", ".1", "")] == [[0], [1], [2]]


def test_no_older_file_may_be_wanted(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path, max_bytes=300, keep=0)) as log:
        for number in range(10):
            log.write(record(number))
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]
    assert numbers_of(path)[-1] == 9


def test_a_crash_between_two_renames_costs_no_line(tmp_path):
    path = tmp_path / "events.jsonl"
    (tmp_path / "events.jsonl.2").write_text('{"number": 1}\n')  # .1 is missing, as after a crash
    path.write_text('{"number": 2}\n')
    with EventLog(EventFile(path, max_bytes=100, keep=3)) as log:
        log.write(record(3))
    assert [numbers_of(tmp_path / f"events.jsonl{n}") for n in (".3", ".1", "")] == [[1], [2], [3]]


# ---- a full disk


def test_a_full_disk_loses_lines_once_told_and_writes_again(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    caplog.set_level(logging.WARNING)
    with EventLog(EventFile(path)) as log:
        log.write(record(0))
        with full_disk(path.stat().st_size + 50):  # half a line would fit
            for number in range(1, 6):
                log.write(record(number))
            assert log.lost == 5
            assert path.read_text().endswith("\n"), "no half line is left"
        log.write(record(6))
        log.write(record(7))
    assert numbers_of(path) == [0, 6, 7]
    lost = lines_of(path)[1]
    assert (lost["type"], lost["count"], lost["monotonic_ns"]) == ("lines_lost", 5, 6)
    texts = [message.getMessage() for message in caplog.records]
    assert len(texts) == 2
    assert "events.jsonl cannot be written: File too large; events are lost" in texts[0]
    assert texts[1].endswith("written again, 5 lines were lost")
    assert log.lost == 5


def test_each_outage_is_told_and_counted_by_itself(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        for start in (0, 10):
            with full_disk(path.stat().st_size + 10):
                log.write(record(start))
            log.write(record(start + 1))
    assert [line["count"] for line in lines_of(path) if line["type"] == "lines_lost"] == [1, 1]
    assert log.lost == 2
    assert len(caplog.records) == 4


@pytest.mark.parametrize("max_bytes", [None, 300])
def test_a_folder_that_goes_and_comes_back_stops_nothing(tmp_path, max_bytes):
    folder = tmp_path / "usb"
    path = folder / "events.jsonl"
    with EventLog(EventFile(path, max_bytes=max_bytes, keep=1)) as log:
        log.write(record(0))
        path.unlink()
        folder.rmdir()
        for number in range(1, 5):
            log.write(record(number))
        assert log.lost == 4
        folder.mkdir()
        log.write(record(9))
    assert numbers_of(path) == [9]


def test_a_file_that_others_moved_away_is_begun_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        log.write(record(0))
        path.rename(tmp_path / "moved")
        log.write(record(1))
        assert log.lost == 0
    assert (numbers_of(tmp_path / "moved"), numbers_of(path)) == ([0], [1])
