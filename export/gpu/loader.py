"""The loader on this machine: made H.264 recordings, decoded and varied as in training.

Needs the training libraries (Lightning, PyAV, OpenCV).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.gpu.effort import Effort
from export.gpu.row import Row, row_of
from runtime.preprocess import Picture
from train.data.truth import SEGMENTS_CSV, Segment, write_truth
from train.data.video_file import write_h264
from train.loader_speed import loader_speed
from train.recipe import Recipe

LABELS = ("wave", "point")
FPS = 25
CLIP_S = 2.0
CLIPS = 4  # in a recording
LONGER = 1.25  # a recording's height and width against the model's picture
BATCHES = 4
ROUNDS = 3


def loader_rows(effort: Effort) -> Iterator[Row]:
    """Clips a second of the loader, of the training step, and of both."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_recordings(data, effort)
        recipe = Recipe(
            backbone=effort.trained,
            height_px=effort.size_px,
            width_px=effort.size_px,
            num_segments=effort.num_segments,
            batch_size=min(effort.batch, effort.videos * CLIPS // 2),
            multi_scale_crop=True,
            flip=True,
            jitter=0.2,
            epochs=1,
            learning_rate=0.01,
            workers="auto" if effort.device == "cuda" else 0,
        )
        speed = loader_speed(recipe, data, num_batches=BATCHES, rounds=ROUNDS)
    note = f"{speed.num_workers} loader processes, H.264 of {_side_px(effort)} px"
    measured = {"loader alone": speed.loader, "training step alone": speed.step, "both": speed.both}
    for name, found in measured.items():
        yield row_of(name, found.rounds, "clips/s", note)
    ratio = [a / b for a, b in zip(speed.loader.rounds, speed.step.rounds, strict=True)]
    yield row_of("loader ÷ training step", ratio, "x", "≥ 1: the loader keeps up")


def write_recordings(data: Path, effort: Effort) -> None:
    """A data folder in the project's own format, one class after the other."""
    (data / "train").mkdir(parents=True)
    (data / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    segments = []
    for number in range(effort.videos):
        name = f"r{number}.mp4"
        write_h264(data / "train" / name, _pictures(number, _side_px(effort)), FPS)
        segments += [
            Segment(name, clip * CLIP_S, (clip + 1) * CLIP_S, LABELS[clip % len(LABELS)])
            for clip in range(CLIPS)
        ]
    write_truth(data / "train" / SEGMENTS_CSV, segments)


def _side_px(effort: Effort) -> int:
    return int(effort.size_px * LONGER) // 2 * 2


def _pictures(seed: int, side_px: int) -> Iterator[Picture]:
    """A bright square that wanders over noise."""
    ground = np.random.default_rng(seed).integers(0, 200, (side_px, side_px, 3), np.uint8)
    square_px = side_px // 4
    for number in range(int(CLIPS * CLIP_S * FPS)):
        frame = ground.copy()
        left = number * 2 % (side_px - square_px)
        frame[square_px : 2 * square_px, left : left + square_px] = 255
        yield frame
