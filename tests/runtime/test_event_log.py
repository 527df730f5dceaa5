from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from runtime import event_log
from runtime.errors import OutputError
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


@pytest.mark.parametrize(
    "tail",
    [
        b"{",
        b'{"typ',
        b'{"type": "dec',
        b'{"type": "decision", "label": "\xc3',
        b'{"type": "decision", "label": "a"}'[:-1] + b"\0" * 5000,
        b"\0" * 4096,
    ],
)
@pytest.mark.parametrize("before", [b"", b'{"type": "a"}\n{"type": "b"}\n'])
def test_half_a_line_that_a_power_cut_left_is_removed(tmp_path, caplog, before, tail):
    path = tmp_path / "events.jsonl"
    path.write_bytes(before + tail)
    for number in (1, 2):
        with EventLog(EventFile(path)) as log:
            log.write({"type": "c", "number": number})
    added = b'{"type": "c", "number": 1}\n{"type": "c", "number": 2}\n'
    assert path.read_bytes() == before + added
    (told,) = caplog.messages
    assert told.endswith(
        "events.jsonl ended within a line, as after a power cut: that line was removed"
    )


@pytest.mark.parametrize(
    "tail",
    [b'{"type": "b"}', b'{"name": "a list of mine', b"notes of mine", b"{}", b" ", b"\xff"],
)
def test_other_text_at_the_end_stays(tmp_path, caplog, tail):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "a"}\n' + tail)
    with EventLog(EventFile(path)) as log:
        log.write({"type": "c"})
    assert path.read_bytes() == b'{"type": "a"}\n' + tail + b'\n{"type": "c"}\n'
    assert not caplog.messages


def test_a_file_without_lines_is_not_searched_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "LONGEST_TAIL_BYTES", 40)
    path = tmp_path / "events.jsonl"
    for text in (b'{"type": ' + b"x" * 40, b'{"type": "a"}\n{"type": ' + b"x" * 40):
        path.write_bytes(text)
        EventLog(EventFile(path)).close()
        assert path.read_bytes() == text + b"\n"
    path.write_bytes(b'{"type": "a"}\n{"type": "dec')
    EventLog(EventFile(path)).close()
    assert path.read_bytes() == b'{"type": "a"}\n'


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


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    caplog.set_level(logging.WARNING)
    with EventLog(EventFile(path)) as log:
        log.write(record(0))
        with full_disk(path.stat().st_size + 50):  # half a line would fit
            for number in range(1, 6):
                log.write(record(number))
            assert numbers_of(path) == [0]
            assert path.read_text().endswith("\n"), "no half line is left"
        log.write(record(6))
        assert numbers_of(path) == list(range(7))
        log.write(record(7))
    assert lines_of(path) == [record(number) for number in range(8)]
    assert log.lost == 0
    began, ended = caplog.messages
    assert "events.jsonl cannot be written: File too large; events wait in memory" in began
    assert ended.endswith("written again, 5 lines were late and 0 were lost")


def test_a_disk_that_takes_some_lines_gets_each_once_and_in_order(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        log.write(record(0))
        line_bytes = path.stat().st_size
        for room in (1, 2.5, 5.5):  # in lines
            with full_disk(int(room * line_bytes)):
                for number in range(3):
                    log.write(record(round(10 * room) + number))
        assert numbers_of(path) == [0, 10, 11, 12, 25]
        log.write(record(99))
    assert numbers_of(path) == [0, 10, 11, 12, 25, 26, 27, 55, 56, 57, 99]
    assert log.lost == 0
    assert len(caplog.messages) == 2, "it was full all the time"


def test_of_too_many_lines_decisions_go_first_and_the_lost_are_counted(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(event_log, "MOST_WAITING", 3)
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        with full_disk(0):
            for number in range(10):
                log.write(record(number) | {"type": "action" if number < 2 else "decision"})
            assert log.lost == 5
            for number in range(10, 13):
                log.write(
                    record(number) | {"type": ["missed", "action", "action_start"][number - 10]}
                )
            assert log.lost == 7
        log.write(record(13))
        log.write(record(14))
    lines = lines_of(path)
    assert [line.get("number", line["type"]) for line in lines] == [
        *(1, 8, 9, 10, 11, 12), "lines_lost", 13, 14,
    ]  # fmt: skip
    clocks = {"source": "s", "stream_time_s": 0.5, "monotonic_ns": 13, "utc": "now"}
    assert lines[6] == {"type": "lines_lost", "count": 7} | clocks
    assert caplog.messages[-1].endswith("written again, 6 lines were late and 7 were lost")
    assert log.lost == 7


def test_each_outage_is_told_and_counted_by_itself(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(event_log, "MOST_WAITING", 1)
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        for start in (0, 10):
            with full_disk(path.stat().st_size + 10):
                log.write(record(start))
                log.write(record(start + 1))
            log.write(record(start + 2))
    assert [line["count"] for line in lines_of(path) if line["type"] == "lines_lost"] == [1, 1]
    assert numbers_of(path) == [1, 2, 11, 12]
    assert log.lost == 2
    assert len(caplog.messages) == 4
    assert all(text.endswith("1 lines were late and 1 were lost") for text in caplog.messages[1::2])


@pytest.mark.parametrize("name", ["/proc/events.jsonl", "folder"])
def test_a_place_that_cannot_be_written_is_named_with_its_option(tmp_path, name):
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    reason = "(No such file or directory|Is a directory)"
    told = f"^--events {path} cannot be written: {reason}; give it a file in a folder that you may"
    with pytest.raises(OSError, match=told):
        EventLog(EventFile(path))


def test_the_last_who_leaves_learns_that_lines_are_lost(tmp_path):
    with EventLog(EventFile(tmp_path / "events.jsonl")) as log, full_disk(0):
        log.join()
        log.join()
        log.write(record(0))
        assert log.leave() is None  # others go on, and the disk may get room
        told = "events.jsonl: the last event lines are lost: File too large; make room"
        failure = log.leave()
        assert isinstance(failure, OutputError)
        assert told in str(failure)
        log.close()


def test_lines_that_are_lost_after_all_have_left_are_an_error_at_the_end(tmp_path):
    log = EventLog(EventFile(tmp_path / "events.jsonl"))
    log.join()
    with full_disk(0):
        assert log.leave() is None
        log.write(record(0))
        with pytest.raises(OutputError, match="the last event lines are lost"):
            log.__exit__(None, None, None)


def test_lines_that_had_room_in_time_are_no_error(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        log.join()
        with full_disk(0):
            log.write(record(0))
        assert log.leave() is None
        log.write(record(1))
    assert numbers_of(path) == [0, 1]


@pytest.mark.parametrize("is_full_at_the_end", [False, True])
def test_what_waits_at_the_end_is_written_if_there_is_room(tmp_path, caplog, is_full_at_the_end):
    path = tmp_path / "events.jsonl"
    log = EventLog(EventFile(path))
    with full_disk(0):
        log.write(record(0))
        log.write(record(1))
        if is_full_at_the_end:
            log.close()
    log.close()
    log.close()
    assert numbers_of(path) == ([] if is_full_at_the_end else [0, 1])
    assert log.lost == (2 if is_full_at_the_end else 0)
    said = [text for text in caplog.messages if text.endswith("lost: File too large")]
    assert len(said) == is_full_at_the_end
    assert all("the last 2 lines are lost" in text for text in said)


@pytest.mark.parametrize("max_bytes", [None, 300])
def test_a_folder_that_goes_and_comes_back_stops_nothing(tmp_path, max_bytes):
    folder = tmp_path / "usb"
    path = folder / "events.jsonl"
    with EventLog(EventFile(path, max_bytes=max_bytes, keep=9)) as log:
        log.write(record(0))
        path.unlink()
        folder.rmdir()
        for number in range(1, 5):
            log.write(record(number))
        folder.mkdir()
        log.write(record(9))
        assert log.lost == 0
    files = sorted(folder.iterdir(), reverse=True)
    assert [number for file in files for number in numbers_of(file)] == [1, 2, 3, 4, 9]
    assert (len(files) > 1) == (max_bytes is not None)
    assert max_bytes is None or all(file.stat().st_size <= max_bytes for file in files)


def test_a_file_that_others_moved_away_is_begun_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(EventFile(path)) as log:
        log.write(record(0))
        path.rename(tmp_path / "moved")
        log.write(record(1))
        assert log.lost == 0
    assert (numbers_of(tmp_path / "moved"), numbers_of(path)) == ([0], [1])
