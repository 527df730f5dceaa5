"""Resident memory of the command over 200,000 ticks, with everything on: `make soak`."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import av
import numpy as np
import pytest

from runtime.command import say
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.runtime.test_stream import command, counts_of, environment
from tests.runtime.web.serving import ask, endless, wait_until
from tests.webhook_server import webhook_server

pytestmark = pytest.mark.soak

TICKS = 200_000
FIRST_TICKS = 10_000
GROWTH = 1.02
FPS = 25
BLOCK = np.ones((12, 16, 1), np.uint8)
SPARE_FRAMES = 3000  # so that it still runs when the last reading is taken


def long_video(path, frames):
    """So many small pictures; the colours change every ten seconds, so that actions come and go."""
    pictures = [
        np.kron(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8), BLOCK)
        for seed in range(16)
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
        for number in range(frames):
            picture = pictures[number // (10 * FPS) % len(pictures)]
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def resident_kib(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def steps_of(port):
    """Steps so far; 0 before the page is up."""
    try:
        text = ask(port, "/metrics").text
    except OSError:
        return 0
    found = re.search(r"^tdrl_steps_total\{.*\} (\d+)$", text, re.M)
    return 0 if found is None else int(found[1])


def read_on(port, path):
    """A browser that reads until the run ends."""
    with suppress(OSError, HTTPException), endless(port, path) as answer:
        while answer.read1(65536):
            pass


def test_resident_memory_does_not_grow(tmp_path, capsys):
    # a tick a frame: 0.16 s in 4 segments
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=0.16)
    video = long_video(tmp_path / "long.mp4", TICKS + SPARE_FRAMES)
    port = free_port()
    readings: dict[int, int] = {}
    with webhook_server() as hook:
        process = subprocess.Popen(
            command(bundle, "--source", video, "--headless", "--phases", 1, "--web", port,
                    "--events", tmp_path / "events.jsonl", "--events-max-mb", 5,
                    "--events-keep", 2, "--webhook", hook.url, "--stats-every", 5),
            cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: steps_of(port), 30)
        browsers = [
            threading.Thread(target=read_on, args=(port, path), daemon=True)
            for path in ("/events", "/stream.mjpg?view=overlay")
        ]
        for browser in browsers:
            browser.start()
        began_s = time.monotonic()
        while process.poll() is None and max(readings, default=0) < TICKS:
            time.sleep(0.05)
            steps = steps_of(port)
            if steps // FIRST_TICKS > max(readings, default=0) // FIRST_TICKS:
                readings[steps] = resident_kib(process)
        took_s = time.monotonic() - began_s
        stdout, _ = process.communicate(timeout=120)
    with capsys.disabled():
        say(f"\n{took_s:.0f} s, {len(hook.got)} posts; ticks, resident MiB:")
        say("\n".join(f"{steps:7d} {kib / 1024:7.1f}" for steps, kib in readings.items()))
    assert process.returncode == 0
    assert counts_of(stdout)["missed"] == 0
    first, last = min(readings), max(readings)
    assert FIRST_TICKS <= first < 2 * FIRST_TICKS
    assert last >= TICKS
    assert readings[last] <= GROWTH * readings[first]
