"""Something-Something and Jester name clips by id: what they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.errors import DataError
from train.data.formats.base import (
    Clip,
    NoSplitError,
    is_video,
    names_in,
    ordered,
    require_file,
    require_label,
    videos_folder,
)
from train.data.formats.spec import DataSpec
from train.data.formats.table import numbered_lines, read_names

FPS = 12.0  # of the frame folders, and of SSv2's videos
USUAL_FOLDERS = ("rawframes", "frames", "videos")


def clips_of(
    spec: DataSpec, split: str, usual: Sequence[str], labelled: Iterable[tuple[str, str]]
) -> list[Clip]:
    """Clips by id.

    Args:
        spec: The data.
        split: The split.
        usual: Folders in which the data set's videos or frame folders usually are.
        labelled: Id and class of every clip.
    """
    folder = videos_folder(spec, split, (*usual, *USUAL_FOLDERS))
    names = {name.rpartition(".")[0]: name for name in names_in(folder) if is_video(name)}
    fps = spec.fps or FPS
    return [
        Clip(folder / names[number], label, group=number)
        if number in names
        else Clip(folder / number, label, group=number, fps=fps, template=spec.template)
        for number, label in labelled
    ]


def csv_labels(spec: DataSpec, prefix: str) -> tuple[str, ...]:
    """Classes of PREFIX-labels.csv, one a line, in its order unless data.yaml says `sorted`."""
    return ordered(spec, read_names(csv_file(spec.root, prefix, "labels")))


def csv_clips(spec: DataSpec, split: str, prefix: str, usual: Sequence[str]) -> list[Clip]:
    """Clips of PREFIX-SPLIT.csv, rows `id;label`.

    Raises:
        NoSplitError: The data have no such split with labels.
        DataError: A line is wrong.
    """
    require_split(spec, split)
    path = csv_file(spec.root, prefix, split)
    known = frozenset(csv_labels(spec, prefix))
    found = []
    for line, text in numbered_lines(path):
        number, separator, label = text.partition(";")
        where = f"{path} line {line}"
        if not separator:
            raise DataError(f"{where}: expected `id;label`, got {text!r}")
        if not number.strip():
            raise DataError(f"{where}: the id is empty")
        found.append((number.strip(), require_label(label.strip(), known, where)))
    return clips_of(spec, split, usual, found)


def csv_file(root: Path, prefix: str, name: str) -> Path:
    """PREFIX-NAME.csv.

    Raises:
        DataError: It is not there.
    """
    return require_file(root, (f"{prefix}-{name}.csv",))


def require_split(spec: DataSpec, split: str) -> None:
    """Refuse splits without labels.

    Raises:
        NoSplitError: Neither train nor validation.
    """
    if split not in ("train", "validation"):
        raise NoSplitError(f"{spec.where} has no labelled split {split!r}")
