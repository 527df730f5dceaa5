"""Starts the real RTSP server of `tests/rtsp_server.py` for a test."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).resolve().parent / "rtsp_server.py"
PARTS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
needed = "qtdemux h264parse rtph264pay tsdemux avidemux jpegparse rtpjpegpay".split()
missing = [name for name in needed if Gst.ElementFactory.find(name) is None]
raise SystemExit(", ".join(missing) or 0)
"""


def need_rtsp_server() -> None:
    """Skip where the server cannot run."""
    try:
        probe = subprocess.run(
            [SYSTEM_PYTHON, "-c", PARTS], capture_output=True, text=True, check=False
        )
    except OSError as err:
        pytest.skip(f"no {SYSTEM_PYTHON}: {err}")
    if probe.returncode != 0:
        pytest.skip(f"no GStreamer RTSP server: {probe.stderr.strip().splitlines()[-1]}")


@contextmanager
def rtsp_server(
    video: Path, port: int, login: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Serve a video as rtsp://127.0.0.1:PORT/video; gives the process, which may be stopped."""
    process = subprocess.Popen(
        [SYSTEM_PYTHON, str(SERVER), str(video), str(port), *([login] if login else [])],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()
