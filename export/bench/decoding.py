"""What decoding a camera's stream costs, frame by frame, by the size of its picture."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bench.camera import FPS, camera_file
from export.bench.effort import Effort
from export.bench.resident import resident_mb
from export.bench.timed import timed
from export.bench.values import Table
from runtime.sources.capture import Capture, open_capture, rgb_from_bgr
from runtime.sources.uri import SourceUri

SIZES_PX = ((640, 360), (1280, 720), (1920, 1080))
DECODERS = 4
# FFmpeg's threads are idle when the process takes less CPU time than this while nobody calls it
LOOK_S, IDLE_MS, MOST_LOOKS = 0.002, 0.2, 100
TEXT = (
    "A frame of an H.264 file through OpenCV and FFmpeg in software, CPU time of all threads, "
    f"mean of a second ({FPS} frames, so that key frames count): decoding and BGR (RGB is made "
    "where somebody looks). A network's packets come on top. *Cores*: of one camera at 25 "
    "frames/s. *Memory*: of an open decoder."
)


def measure(effort: Effort, folder: Path) -> Table:
    """The table `decode`."""
    header = ("picture", "ms a frame", "cores", "memory, MB")
    table = Table("decode", "Decoding a camera's stream", TEXT, header)
    for width_px, height_px in SIZES_PX:
        video = camera_file(folder, effort.video_s, width_px, height_px)
        parts = frame_ms(video, effort.seconds * FPS)
        seconds = (parts["grab"] + parts["decode"]).reshape(-1, FPS).mean(axis=1)
        name = f"{width_px}x{height_px}"
        value = table.add(name, seconds, "ms")
        memory = table.add(f"{name}/memory", [_decoder_mb(video)], "MB")
        cores = f"{value.median * FPS / 1000:.3f}"
        table.rows.append((name, f"{value}", cores, f"{memory.median:.0f}"))
    return table


def frame_ms(video: Path, frames: int) -> dict[str, NDArray[np.float64]]:
    """CPU time of each frame's way from the file to RGB: `grab`, `decode`, `colour`.

    The file is read again from its start as often as needed.
    """
    times: dict[str, list[float]] = {"grab": [], "decode": [], "colour": []}
    capture = _open(video)
    while len(times["grab"]) < frames:
        grabbed, grab_ms = timed(partial(_grab, capture))
        if not grabbed:
            capture.release()
            capture = _open(video)
            continue
        (_, image), decode_ms = timed(capture.retrieve)
        _, colour_ms = timed(partial(rgb_from_bgr, image))
        for name, ms in (("grab", grab_ms), ("decode", decode_ms), ("colour", colour_ms)):
            times[name].append(ms)
    capture.release()
    return {name: np.array(each) for name, each in times.items()}


def _grab(capture: Capture) -> bool:
    """Grab a frame and let FFmpeg's threads finish what they decode ahead.

    They would otherwise run on beside what is measured next, and count there.
    """
    grabbed = capture.grab()
    for _ in range(MOST_LOOKS):
        _, busy_ms = timed(partial(time.sleep, LOOK_S))
        if busy_ms < IDLE_MS:
            break
    return grabbed


def _decoder_mb(video: Path) -> float:
    """What an open decoder keeps in memory, mean of some."""
    before_mb = resident_mb()
    captures = [_open(video) for _ in range(DECODERS)]
    for capture in captures:
        for _ in range(FPS):
            capture.grab()
        capture.retrieve()
    grown_mb = resident_mb() - before_mb
    for capture in captures:
        capture.release()
    return max(0.0, grown_mb) / DECODERS


def _open(video: Path) -> Capture:
    return open_capture(SourceUri("file", str(video), video.name))
