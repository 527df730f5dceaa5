"""Something-Something V1: frame folders of 12 fps, and csv lists.

    20bn-something-something-v1/ID/00001.jpg ...
    something-something-v1-labels.csv        one class a line
    something-something-v1-train.csv         id;class; also -validation

The order of the logits is that of labels.csv, as 20BN and MMAction2 have it; TSM and TDN sort the
classes, which is another order: `class_order: sorted` in data.yaml.
"""

from __future__ import annotations

from pathlib import Path

from train.data.formats.base import Clip, Format, find_file
from train.data.formats.spec import DataSpec
from train.data.formats.twentybn import csv_clips, csv_file, csv_labels

PREFIX = "something-something-v1"
USUAL_FOLDERS = ("20bn-something-something-v1",)


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
    "something_v1",
    f"{PREFIX}-{{labels,train,validation}}.csv and {USUAL_FOLDERS[0]}/ID/00001.jpg",
    fits,
    labels,
    clips,
    listed,
)
