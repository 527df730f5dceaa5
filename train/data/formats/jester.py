"""Jester V1: frame folders of 12 fps, and csv lists.

20bn-jester-v1/ID/00001.jpg ...
jester-v1-labels.csv                     one class a line, in the order of the logits
jester-v1-train.csv                      id;class; also -validation
"""

from __future__ import annotations

from pathlib import Path

from train.data.formats.base import Clip, Format, find_file
from train.data.formats.spec import DataSpec
from train.data.formats.twentybn import csv_clips, csv_file, csv_labels

PREFIX = "jester-v1"
USUAL_FOLDERS = ("20bn-jester-v1",)


def fits(root: Path) -> bool:
    """Whether the training list is there."""
    return find_file(root, (f"{PREFIX}-train.csv",)) is not None


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names in the order of the logits."""
    return csv_labels(spec, PREFIX)


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    return csv_clips(spec, split, PREFIX, USUAL_FOLDERS)


def listed(spec: DataSpec, split: str) -> Path:
    """The csv file of a split."""
    return csv_file(spec.root, PREFIX, split)


FORMAT = Format(
    "jester",
    f"{PREFIX}-{{labels,train,validation}}.csv and {USUAL_FOLDERS[0]}/ID/00001.jpg",
    fits,
    labels,
    clips,
    listed,
)
