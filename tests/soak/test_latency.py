"""Does a source that is faster than the machine make decisions later and later? `make soak`."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess

import av
import numpy as np
import pytest

from runtime.command import say
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_stream import command, counts_of, environment, records_of
from tests.videos import drifting_pattern

pytestmark = [pytest.mark.soak, pytest.mark.rtsp]

MINUTES = float(os.environ.get("TDRL_SOAK_MINUTES", "30"))
FPS = 100
SETTLED_S = 15.0
GROWTH_S = 0.1


def fast_video(path, seconds):
    """A hundred frames a second, 320 x 180."""
    pictures = drifting_pattern(64, 180, 320)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "100", "threads": "1"}
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_latency_does_not_grow(tmp_path, capsys):
    need_rtsp_server()
    # a tick a frame, and a step on a picture so large that it takes longer than a frame
    bundle = write_mini_bundle(
        tmp_path / "bundle", num_segments=4, window_s=4 / FPS, height_px=1080, width_px=1920
    )
    seconds = 60 * MINUTES
    video, port = fast_video(tmp_path / "fast.mp4", seconds + 20), free_port()
    log = tmp_path / "events.jsonl"
    with rtsp_server(video, port):
        process = subprocess.Popen(
            command(bundle, "--source", f"rtsp://127.0.0.1:{port}/video", "--headless",
                    "--phases", 1, "--events", log, "--events-max-mb", 1000,
                    "--max-seconds", seconds),
            cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            stdout, _ = process.communicate(timeout=seconds + 120)
        finally:
            process.send_signal(signal.SIGKILL)
    counts = counts_of(stdout)
    decisions = [record for record in records_of(log) if record["type"] == "decision"]
    times_s = np.array([decision["monotonic_ns"] / 1e9 for decision in decisions])
    behind_s = times_s - [decision["stream_time_s"] for decision in decisions]
    minutes = ((times_s - times_s[0] - SETTLED_S) // 60).astype(int)
    lags_s = [np.median(behind_s[minutes == m]) for m in range(minutes[-1])]
    latencies_ms = [
        statistics.median(
            d["latency_ms"] for d, at in zip(decisions, minutes, strict=True) if at == m
        )
        for m in range(minutes[-1])
    ]
    with capsys.disabled():
        say(f"\n{counts}; minute, behind the first minute ms, grab to decision ms (medians):")
        for minute, (lag_s, latency_ms) in enumerate(zip(lags_s, latencies_ms, strict=True)):
            say(f"{minute:3d} {1000 * (lag_s - lags_s[0]):7.1f} {latency_ms:7.1f}")
    assert counts["reconnects"] == 0
    # it was faster than the machine
    assert counts["missed"] > counts["used"] / 10
    assert lags_s[-1] - lags_s[0] < GROWTH_S
    assert max(latencies_ms) < latencies_ms[0] + 1000 * GROWTH_S
