"""Several real RTSP streams in one engine: a server that dies takes none of the others along."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_several_sources import of_source, sources
from tests.runtime.test_stream import command, records_of, wait_for
from tests.videos import bikes_path

pytestmark = [pytest.mark.rtsp, pytest.mark.slow]


def test_a_server_that_dies_takes_no_other_stream_along(tmp_path):
    need_rtsp_server()
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    events, ports = tmp_path / "events.jsonl", (free_port(), free_port())
    urls = [f"rtsp://me:hunter2@127.0.0.1:{ports[0]}/video?camera={n}" for n in (1, 2)]
    urls.append(f"rtsp://me:hunter2@127.0.0.1:{ports[1]}/video")
    steady = [f"rtsp://***@127.0.0.1:{ports[0]}/video?***{again}" for again in ("", " (2)")]
    mortal = f"rtsp://***@127.0.0.1:{ports[1]}/video"

    def count(name, kind):
        records = records_of(events) if events.exists() else []
        return sum(record["type"] == kind for record in of_source(records, name))

    with rtsp_server(bikes_path(), ports[0]):
        with rtsp_server(bikes_path(), ports[1]):
            process = subprocess.Popen(
                command(bundle, *sources(*urls), "--headless", "--events", events),
                cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            wait_for(
                lambda: all(count(name, "decision") >= 6 for name in (*steady, mortal)), process
            )
        before = [count(name, "decision") for name in steady]
        lost = count(mortal, "decision")
        wait_for(
            lambda: all(
                count(name, "decision") >= n + 6 for name, n in zip(steady, before, strict=True)
            ),
            process,
        )
        assert count(mortal, "decision") <= lost + 2
        with rtsp_server(bikes_path(), ports[1]):
            wait_for(lambda: count(mortal, "decision") >= lost + 8, process)
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    records = records_of(events)
    resets = {
        name: [r["reason"] for r in of_source(records, name) if r["type"] == "reset"]
        for name in (*steady, mortal)
    }
    assert resets[mortal] == ["start", "reconnect"]
    assert all("reconnect" not in resets[name] for name in steady)
    assert [record["type"] for record in records[-3:]] == ["end"] * 3
    assert len(stdout.splitlines()) == 4
    assert "hunter2" not in stderr + stdout + events.read_text()
