"""The command on a real RTSP server that dies and comes back."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_stream import command, counts_of, records_of, wait_for
from tests.videos import bikes_path

pytestmark = [pytest.mark.rtsp, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def server_parts():
    need_rtsp_server()


def test_a_server_that_dies_and_comes_back(tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    events, port = tmp_path / "events.jsonl", free_port()
    url = f"rtsp://admin:hunter2@127.0.0.1:{port}/video"

    def decisions_after(kind):
        if not events.exists():
            return 0
        kinds = [record["type"] for record in records_of(events)]
        return kinds[kinds.index(kind) :].count("decision") if kind in kinds else 0

    with rtsp_server(bikes_path(), port):
        process = subprocess.Popen(
            command(bundle, "--source", url, "--headless", "--events", events),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: decisions_after("start") >= 6, process)
    with rtsp_server(bikes_path(), port):
        wait_for(lambda: decisions_after("reconnect") >= 6, process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert counts_of(stdout)["reconnects"] == 1
    records = records_of(events)
    kinds = [record["type"] for record in records]
    reset = records[kinds.index("reconnect") + 1 :]
    reset = next(record for record in reset if record["type"] == "reset")
    assert reset["reason"] == "reconnect"
    decisions = [record for record in records if record["type"] == "decision"]
    again = [d for d in decisions if d["monotonic_ns"] > reset["monotonic_ns"]]
    assert [decision["tick"] for decision in again[:4]] == [0, 1, 2, 3]
    assert [decision["warming"] for decision in again[:4]] == [True, True, True, False]
    assert [r["reason"] for r in records if r["type"] == "reset"] == ["start", "reconnect"]
    assert kinds[-1] == "end"
    assert "is back after" in stderr
    assert "hunter2" not in stderr + stdout + events.read_text()
