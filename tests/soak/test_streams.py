"""Eight RTSP cameras on two cores, in one engine on one clock: does any tick go without a frame?

    make soak ARGS=tests/soak/test_streams.py
    TDRL_BUNDLE=artifacts/demo/bundle make soak ARGS=tests/soak/test_streams.py

Wants two cores for itself: under other load it tells about that load.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from runtime.bundle import load_bundle
from runtime.command import say
from runtime.machine import measured_on
from runtime.sampling import default_phases
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_stream import command, counts_of, environment, records_of
from tests.videos import drifting_pattern

pytestmark = [pytest.mark.soak, pytest.mark.rtsp]

STREAMS = 8
CORES = 2
SECONDS = 60.0
FPS = 25
SETTLED_S = 5.0  # connecting, and the burst that a connection begins with
TICKS_PER_S = 4.0
ONE_CALL_S = 0.005  # decisions of one call come within so much


@pytest.fixture
def bundle(tmp_path):
    """The bundle that `TDRL_BUNDLE` names, else one that costs next to nothing."""
    given = os.environ.get("TDRL_BUNDLE")
    if given:
        return load_bundle(Path(given))
    return write_mini_bundle(tmp_path / "bundle", num_segments=8, window_s=2.0)


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """640 x 360 at 25 frames a second, encoded once: serving it costs little."""
    path = tmp_path_factory.mktemp("camera") / "camera.mp4"
    pictures = drifting_pattern(64, 360, 640)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": f"{FPS}", "threads": "1"}
        for number in range(FPS * round(SECONDS + 60)):
            frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_eight_cameras_miss_no_tick(bundle, camera, tmp_path, capsys):
    need_rtsp_server()
    interval_s = bundle.sampling.spacing_s / default_phases(bundle.sampling)
    assert 1 / interval_s == pytest.approx(TICKS_PER_S)
    log, port = tmp_path / "events.jsonl", free_port()
    urls = [f"rtsp://127.0.0.1:{port}/video?camera={number}" for number in range(STREAMS)]
    sources = [argument for url in urls for argument in ("--source", url)]
    options = ("--headless", "--events", log, "--max-seconds", SECONDS)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:CORES]))
    with rtsp_server(camera, port):
        done = subprocess.run(
            ["taskset", "-c", cores, *command(bundle, *sources, *options)],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    decisions = [record for record in records_of(log) if record["type"] == "decision"]
    missed = [record for record in records_of(log) if record["type"] == "missed"]
    from_ns = max(_first_ns(decisions).values()) + SETTLED_S * 1e9
    settled = [record for record in decisions if record["monotonic_ns"] >= from_ns]
    lost = sum(record["count"] for record in missed if record["monotonic_ns"] >= from_ns)
    rows = Counter(_rows_of_calls(settled))
    latencies_ms = np.percentile([record["latency_ms"] for record in settled], [50, 95, 99])
    with capsys.disabled():
        say(f"\n{measured_on(('numpy', 'opencv-python', 'openvino', 'onnxruntime'))}")
        say(f"load of the machine: {os.getloadavg()[0]:.1f}; {counts_of(done.stdout)}")
        say(f"after {SETTLED_S:g} s: {len(settled)} decisions, missed ticks {lost}")
        say(f"grab to decision p50, p95, p99: {latencies_ms.round(1).tolist()} ms")
        say(f"rows that stepped together, and how often: {json.dumps(dict(sorted(rows.items())))}")
    assert len({record["source"] for record in settled}) == STREAMS
    assert lost == 0
    assert rows[STREAMS] >= 0.9 * sum(rows.values())


def _first_ns(decisions):
    first: dict[str, int] = {}
    for record in decisions:
        first.setdefault(record["source"], record["monotonic_ns"])
    assert len(first) == STREAMS
    return first


def _rows_of_calls(decisions):
    """How many rows each call stepped."""
    times_s = np.sort([record["monotonic_ns"] / 1e9 for record in decisions])
    starts = np.flatnonzero(np.diff(times_s, prepend=-np.inf) > ONE_CALL_S)
    return np.diff([*starts, len(times_s)]).tolist()
