"""A camera's pictures for the runtime's tables: 1280 × 720, 25 a second, H.264."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.preprocess import Picture
from train.data.video_file import write_h264

WIDTH_PX, HEIGHT_PX = 1280, 720
FPS = 25
NOISE = 3.0


def camera_pictures(
    count: int, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX
) -> Iterator[Picture]:
    """A bright bar that moves over a gradient, and noise; each (H, W, 3), uint8, RGB."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    ground = np.stack([40 + 60 * y / height_px, 90 + 60 * x / width_px, 30 + 0 * x], axis=2)
    # one field of noise, shifted from frame to frame: making it anew would take longer than coding
    noise = rng.normal(0, NOISE, ground.shape).astype(np.float32)
    for number in range(count):
        bar = 120 * np.exp(-(((x / width_px) - (number % 50) / 50) ** 2) / 0.01)
        picture = ground + bar[..., np.newaxis] + np.roll(noise, 37 * number, axis=1)
        yield np.clip(picture, 0, 255).astype(np.uint8)


def camera_file(
    folder: Path, seconds: float, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX
) -> Path:
    """The same as an H.264 file; made once."""
    path = folder / f"camera-{width_px}x{height_px}-{seconds:g}.mp4"
    if not path.exists():
        pictures = camera_pictures(max(2, round(seconds * FPS)), width_px, height_px)
        write_h264(path, pictures, FPS)
    return path
