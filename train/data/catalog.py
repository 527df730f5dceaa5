"""What a data folder holds.

DATA/labels.txt                  one class a line, in the order of the logits
DATA/SPLIT/segments.csv          path,start_s,end_s,label: parts of video files
DATA/SPLIT/frames.npy ...        clips in arrays (the demo's training split)
DATA/tape/tape.csv               live tapes: long videos with actions back to back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from train.data.arrow_of_time import LABELS, PAIRS, ArrayClips, load_arrays
from train.data.clips import ArrayClipSet, ClipRule, VideoClipSet, VideoSegment
from train.data.truth import Segment, read_truth

SEGMENTS_CSV = "segments.csv"
TAPE_CSV = "tape.csv"


@dataclass(frozen=True)
class Split:
    """One split of a data set: clips in arrays or segments of videos.

    Attributes:
        labels: Class names in the order of the logits.
        arrays: Clips in arrays, or None.
        segments: Segments of video files; empty where there are arrays.
    """

    labels: tuple[str, ...]
    arrays: ArrayClips | None
    segments: tuple[VideoSegment, ...]

    @property
    def lengths_s(self) -> list[float]:
        """Length of every clip, seconds."""
        if self.arrays is not None:
            used = sorted({clip for clip, _, _ in self._array_items(self.arrays)})
            return [float(length) for length in self.arrays.duration_s[used]]
        return [segment.end_s - segment.start_s for segment in self.segments]

    def clips(self, picture: PictureRule, rule: ClipRule) -> ArrayClipSet | VideoClipSet:
        """The split as a set of clips.

        Raises:
            DataError: Arrays of another size than the picture rule asks for.
        """
        if self.arrays is None:
            return VideoClipSet(self.segments, picture, rule)
        found = self.arrays.frames.shape[2:4]
        if found != (picture.height_px, picture.width_px):
            raise DataError(
                f"the training arrays hold {found[0]}×{found[1]} pictures, the recipe asks for "
                f"{picture.height_px}×{picture.width_px}; make the data with that --picture-px"
            )
        items = self._array_items(self.arrays)
        return ArrayClipSet(self.arrays.frames, self.arrays.duration_s, items, rule)

    def _array_items(self, arrays: ArrayClips) -> list[tuple[int, bool, int]]:
        """Clip, whether it runs backwards, and class, of the classes in use."""
        return [
            (clip, backwards, self.labels.index(name))
            for clip, label in enumerate(arrays.label)
            for backwards in (False, True)
            if (name := PAIRS[LABELS[label]] if backwards else LABELS[label]) in self.labels
        ]


def read_labels(data: Path, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names of a data folder.

    Args:
        data: The data folder.
        exclude: Classes to leave out.

    Raises:
        DataError: No folder, no `labels.txt`, fewer than two classes, a class twice, or a class to
            leave out that is not there.
    """
    path = data / "labels.txt"
    if not path.is_file():
        raise DataError(f"{path} not found; it lists one class a line, in the logits' order")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    unknown = [name for name in exclude if name not in lines]
    if unknown:
        raise DataError(f"exclude names {unknown[0]!r}, which {path} does not list")
    labels = tuple(line for line in lines if line and line not in exclude)
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise DataError(f"{path} must list at least two different classes, got {list(labels)}")
    return labels


def load_split(data: Path, name: str, labels: Sequence[str]) -> Split:
    """One split of a data folder.

    Args:
        data: The data folder.
        name: `train`, `validation` or `calibration`.
        labels: Classes to use; clips of other classes in `labels.txt` are left out.

    Raises:
        DataError: The split is missing, holds no clips, or names a file that is not there.
    """
    folder = data / name
    if (folder / "frames.npy").is_file():
        return Split(tuple(labels), load_arrays(folder), ())
    csv = folder / SEGMENTS_CSV
    if not csv.is_file():
        raise DataError(
            f"no clips in {folder}: neither {SEGMENTS_CSV} nor frames.npy is there; "
            "give a folder with train/ and validation/ as the README's “Your own data” shows"
        )
    rows = [row for row in read_truth(csv, read_labels(data)) if row.label in labels]
    if not rows:
        raise DataError(f"no clips in {csv} of the classes {', '.join(labels)}")
    missing = sorted({row.path for row in rows if not (folder / row.path).is_file()})
    if missing:
        raise DataError(
            f"{csv} names {len(missing)} files that are not there, first {folder / missing[0]}"
        )
    segments = [
        VideoSegment(folder / row.path, row.start_s, row.end_s, labels.index(row.label))
        for row in rows
    ]
    return Split(tuple(labels), None, tuple(segments))


def has_tape(data: Path, name: str, labels: Sequence[str]) -> bool:
    """Whether a tape is there and a model of these classes can be judged on it.

    A model that leaves classes out cannot: their actions have no right answer.
    """
    return (data / name).is_dir() and set(read_labels(data)) <= set(labels)


def load_tape(data: Path, name: str, labels: Sequence[str]) -> tuple[Path, list[Segment]]:
    """A live tape and its truth.

    Args:
        data: The data folder.
        name: `tape` or `tape_validation`.
        labels: The classes that may occur.

    Returns:
        The video and the actions on it, in order of time.

    Raises:
        DataError: No tape, more than one video, or a wrong truth file.
    """
    csv = data / name / TAPE_CSV
    rows = read_truth(csv, labels)
    paths = {row.path for row in rows}
    if len(paths) != 1:
        raise DataError(f"{csv} must describe one video, got {len(paths)}")
    video = csv.parent / rows[0].path
    if not video.is_file():
        raise DataError(f"{csv} describes {video}, which is not there")
    return video, sorted(rows, key=lambda row: row.start_s)
