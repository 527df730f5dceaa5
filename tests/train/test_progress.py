"""What people see while a run runs."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from types import SimpleNamespace

import pytest

import train.progress
from tests.train.test_resume import REPOSITORY, argv_of
from train.fit import fit
from train.progress import Pace
from train.trainer import Hardware


def test_the_pace_is_images_a_second_and_the_time_for_what_is_left(monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(train.progress, "time", clock)
    pace = Pace(num_images=32)
    now[0] = 500.0
    pace.start()
    assert pace.text(10) == {}, "nothing is known yet"
    for _ in range(4):
        pace.count()
    now[0] = 502.0
    assert pace.text(130) == {"img/s": "64", "left": "01:05"}
    assert pace.text(0) == {"img/s": "64", "left": "00:00"}
    pace.start()
    assert pace.text(10) == {}


def test_every_epoch_is_a_line_with_pace_and_time(recipe, tiny_data, tmp_path, capsys):
    fit(recipe, tiny_data, tmp_path, name="x", hardware=Hardware(accelerator="cpu"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == recipe.epochs
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"epoch {number} of 2: train/loss \d+\.\d+, train/top1 [01]\.\d+, "
            r"val/loss \d+\.\d+, val/top1 [01]\.\d+, img/s \d+, left \d\d:\d\d",
            line,
        )
    assert lines[-1].endswith("left 00:00")


def test_what_is_left_counts_from_where_a_run_goes_on(recipe, tiny_data, tmp_path, monkeypatch):
    left = []
    usual = Pace.text

    def text(pace, batches_left):
        left.append(batches_left)
        return usual(pace, batches_left)

    monkeypatch.setattr(Pace, "text", text)
    fit(replace(recipe, epochs=3), tiny_data, tmp_path, name="x")
    assert left == [20, 10, 0]


@pytest.mark.slow
def test_a_terminal_gets_a_bar(recipe, tiny_data, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    command = [sys.executable, "-m", "train.fit", *argv_of(recipe, tiny_data, tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux's end of a pseudo terminal
                break
            if not part:
                break
            seen += part
    os.close(ours)
    assert process.returncode == 0, seen.decode()
    text = seen.decode()
    assert re.search(r"Epoch 1: +\d+%\|.*10/10.*img/s=\d+, left=\d\d:\d\d", text)
    assert "val/top1=" in text
    assert "v_num" not in text
    assert "epoch 1 of 2:" not in text, "a bar or lines, not both"
    assert text.rstrip().splitlines()[-1].startswith("best checkpoint ")
