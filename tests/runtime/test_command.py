"""How commands end: one line and a status, whatever ended them."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.command import run_command
from runtime.errors import DataError
from runtime.files import whole_file

ROOT = Path(__file__).parents[2]


def fails_with(err):
    def main():
        raise err

    return main


def system_error(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("err", "line"),
    [
        (DataError("no\n clips"), "no clips"),
        (MemoryError(), "MemoryError"),
        (OSError("it is wet"), "it is wet"),
        (
            system_error(errno.ENOSPC, "/a/b"),
            "/a/b: No space left on device; make room on that disk and run the command again",
        ),
        (
            system_error(errno.EROFS, "/a/b"),
            "/a/b: Read-only file system; choose another place, or change who may write there",
        ),
        (system_error(errno.ENOENT, "/a/b"), "/a/b: No such file or directory"),
        (system_error(errno.EIO), "Input/output error"),
        (shutil.Error("same place"), "same place"),
        (
            shutil.Error([("/a", "/b", "[Errno 28] No space left on device"), ("/c", "/d", "x")]),
            "/b: [Errno 28] No space left on device; "
            "make room on that disk and run the command again",
        ),
    ],
)
def test_a_failure_is_one_line_and_status_1(err, line, capsys):
    assert run_command(fails_with(err)) == 1
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_a_full_disk_is_about_the_file_that_was_to_be_whole(tmp_path, capsys):
    def main():
        with whole_file(tmp_path / "out.json"):
            raise system_error(errno.ENOSPC)

    assert run_command(main) == 1
    assert f"error: {tmp_path}/out.json: No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


WAITS = """
import sys, time
from pathlib import Path
from runtime.command import run_command
from runtime.files import whole_file

def main():
    with whole_file(Path(sys.argv[1])) as part:
        part.write_text("half")
        print("ready", flush=True)
        time.sleep(60)

sys.exit(run_command(main))
"""


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_leaves_nothing_half_written(tmp_path, number, status, line):
    command = [sys.executable, "-c", WAITS, str(tmp_path / "out.txt")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[1] == f"{line}\n"
    assert process.returncode == status
    assert list(tmp_path.iterdir()) == []


def test_the_handler_before_is_there_again():
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda: 0) == 0
    assert signal.getsignal(signal.SIGTERM) == before
