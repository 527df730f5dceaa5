from __future__ import annotations

import io
import re

import pytest

import export.calibration_bar
from export.calibration_bar import LINE_EVERY_S, CalibrationBar


class Clock:
    """Time in the test's hands."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(export.calibration_bar, "time", made)
    return made


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_a_terminal(monkeypatch, *counts):
    """What a terminal shows at the end."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with CalibrationBar(20) as bar:
        started_s = bar._bar.start_t
        monkeypatch.setattr(bar._bar, "_time", lambda: started_s + 10)
        for count in counts:
            bar.advance(count)
        bar._bar.refresh()
    return terminal.getvalue().replace("\r", "\n").split("\n")[-2]


def test_a_terminal_shows_the_speed_and_what_is_left(monkeypatch):
    shown = on_a_terminal(monkeypatch, *[1] * 5)
    assert "calibrate:  25%" in shown
    assert re.search(r"5/20 \[00:10<00:\d\d, +\d\.\d\ds/clip\]", shown)


def test_clips_of_an_earlier_run_do_not_count_as_fast(monkeypatch):
    shown = on_a_terminal(monkeypatch, 15)
    assert "15/20 [00:10<?" in shown
    shown = on_a_terminal(monkeypatch, 15, 1)
    assert "16/20 [00:10<00:40, 10.00s/clip]" in shown


def test_elsewhere_a_line_comes_now_and_then(clock, capsys):
    with CalibrationBar(100) as bar:
        bar.advance(40)  # an earlier run's
        for _ in range(13):
            clock.now_s += 5
            bar.advance(1)
    out, err = capsys.readouterr()
    assert LINE_EVERY_S == 30
    assert out.splitlines() == [
        "calibrate: 46 of 100 clips, 0.20 clips/s, 04:30 left",
        "calibrate: 52 of 100 clips, 0.20 clips/s, 04:00 left",
    ]
    assert err == ""


def test_a_short_calibration_says_nothing(clock, capsys):
    with CalibrationBar(3) as bar:
        for _ in range(3):
            clock.now_s += 5
            bar.advance(1)
    with CalibrationBar(3) as bar:
        clock.now_s += 50
        bar.advance(3)  # all known
    assert capsys.readouterr().out == ""
