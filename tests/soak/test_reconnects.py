"""Does a camera that is lost again and again cost memory? A minute and a half: `make soak`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from runtime.command import say
from runtime.errors import SourceError
from runtime.sources.capture import open_capture
from runtime.sources.uri import parse_source
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.videos import bikes_path

pytestmark = [pytest.mark.soak, pytest.mark.rtsp]

GROWTH = 1.01


def resident_kib():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


def connect(url):
    """Open a stream, read three pictures, and leave it; or fail to."""
    with suppress(SourceError):
        capture = open_capture(parse_source(url))
        for _ in range(3):
            capture.grab()
            capture.retrieve()
        capture.release()


def growth_of(url, times, capsys):
    """Resident memory after so many connections against that after a tenth of them."""
    for _ in range(times // 10):
        connect(url)
    before = resident_kib()
    for _ in range(times - times // 10):
        connect(url)
    after = resident_kib()
    with capsys.disabled():
        say(f"\n{times} connections: {before / 1024:.1f}, {after / 1024:.1f} MiB")
    return after / before


def test_failed_attempts_cost_no_memory(capsys):
    assert growth_of(f"rtsp://127.0.0.1:{free_port()}/video", 2000, capsys) <= GROWTH


def test_http_connections_cost_no_memory(capsys):
    with mjpeg_camera(free_port(), fps=200) as url:
        assert growth_of(url, 400, capsys) <= GROWTH


def test_rtsp_connections_cost_no_memory(capsys):
    need_rtsp_server()
    port = free_port()
    with rtsp_server(bikes_path(), port):
        assert growth_of(f"rtsp://127.0.0.1:{port}/video", 60, capsys) <= GROWTH
