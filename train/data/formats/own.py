"""Our own folders: labels.txt, and a segments.csv (or arrays) in a folder for every split.

    DATA/labels.txt                  one class a line, in the order of the logits
    DATA/SPLIT/segments.csv          path,start_s,end_s,label: parts of video files
    DATA/SPLIT/frames.npy ...        clips in arrays (the demo's training split)
    DATA/tape/tape.csv               live tapes: long videos with actions back to back

The splits are train, validation and, if they are there, calibration and test.
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import DataError
from train.data.formats.base import Clip, Format, NoSplitError
from train.data.formats.spec import SPLITS, DataSpec
from train.data.formats.table import read_names
from train.data.truth import SEGMENTS_CSV, read_truth

LABELS_TXT = "labels.txt"
ARRAYS_NPY = "frames.npy"


def fits(root: Path) -> bool:
    """Whether a split holds segments or arrays."""
    return any(
        (root / split / name).is_file() for split in SPLITS for name in (SEGMENTS_CSV, ARRAYS_NPY)
    )


def labels(spec: DataSpec) -> tuple[str, ...]:
    """The lines of labels.txt.

    Raises:
        DataError: It is missing, or names a class twice.
    """
    path = spec.root / LABELS_TXT
    if not path.is_file():
        raise DataError(f"{path} not found; it lists one class a line, in the logits' order")
    return read_names(path)


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Segments of a split.

    Raises:
        NoSplitError: It is missing.
        DataError: A line is wrong.
    """
    path = listed(spec, split)
    if not path.is_file():
        raise NoSplitError(
            f"no clips in {path.parent}: neither {SEGMENTS_CSV} nor {ARRAYS_NPY} is there; "
            "give a folder with train/ and validation/ as the README's “Your own data” shows"
        )
    return [
        Clip(path.parent / row.path, row.label, row.start_s, row.end_s, group=row.path)
        for row in read_truth(path, labels(spec))
    ]


def listed(spec: DataSpec, split: str) -> Path:
    """The csv file of a split."""
    return spec.root / split / SEGMENTS_CSV


FORMAT = Format(
    "own",
    f"{LABELS_TXT}, train/{SEGMENTS_CSV} and validation/{SEGMENTS_CSV}",
    fits,
    labels,
    clips,
    listed,
)
