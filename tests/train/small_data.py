"""A small data set of real videos without any fault, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.preprocess import Picture
from train.data.truth import Segment, write_truth
from train.data.video_file import write_h264

CLIP_S = 0.5
CLASSES = ("wave", "point")


def pictures(seed: int, count: int = 100, height: int = 32, width: int = 48) -> Iterator[Picture]:
    """A square that wanders over noise: other pictures for every seed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 200, (height, width, 3), np.uint8)
    for i in range(count):
        frame = ground.copy()
        frame[4:12, (i % (width - 8)) :][:, :8] = 255
        yield frame


def write(path: Path, seed: int, count: int = 100) -> Path:
    """A video of 20 frames a second."""
    write_h264(path, pictures(seed, count), 20)
    return path


def rows_of(name: str) -> list[Segment]:
    """Ten clips of half a second, the classes in turn."""
    return [Segment(name, i * CLIP_S, (i + 1) * CLIP_S, CLASSES[i % 2]) for i in range(10)]


def write_clean(root: Path) -> Path:
    """Our own format: 40 training clips of half a second in 4 recordings, 10 for validation."""
    (root / "train").mkdir(parents=True)
    (root / "validation").mkdir()
    (root / "labels.txt").write_text("wave\npoint\n")
    names = [f"r{i}.mp4" for i in range(4)]
    for seed, name in enumerate(names):
        write(root / "train" / name, seed)
    write(root / "validation" / "v.mp4", 9)
    write_truth(root / "train/segments.csv", [row for name in names for row in rows_of(name)])
    write_truth(root / "validation/segments.csv", rows_of("v.mp4"))
    return root


def add(data: Path, *rows: tuple[str, float, float, str], split: str = "train") -> None:
    """Add lines to the list of a split."""
    with (data / split / "segments.csv").open("a") as file:
        file.writelines(f"{path},{start},{end},{label}\n" for path, start, end, label in rows)


def rename(data: Path, old: str, new: str) -> None:
    """Change a name in all lists."""
    for path in (data / "labels.txt", *data.glob("*/segments.csv")):
        path.write_text(path.read_text().replace(old, new))
