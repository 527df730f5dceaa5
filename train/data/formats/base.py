"""What all formats share: clips as their lists name them, and what is on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DataError
from runtime.sources.images import SUFFIXES as PICTURE_SUFFIXES
from train.data.formats.spec import DataSpec
from train.data.formats.table import near_match

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv", ".flv")
)
# Where data sets keep their lists.
LIST_FOLDERS = ("", "annotations", "labels", "annotation", "lists", "splits")
MAX_MISSING = 0.01  # share of the listed clips that may be missing


class NoSplitError(DataError):
    """A data set has no such split."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as a list names it: a video, a frame folder, or a part of one.

    Attributes:
        path: The video or frame folder, whether it is there or not.
        label: Its class by name.
        start_s: Start, seconds of stream time.
        end_s: End; None is the end of the file.
        group: Recording or session; empty where unknown.
        fps: Pictures a second of a frame folder.
        template: Names of its pictures; None reads them off.
    """

    path: Path
    label: str
    start_s: float = 0.0
    end_s: float | None = None
    group: str = ""
    fps: float | None = None
    template: str | None = None


@dataclass(frozen=True)
class Format:
    """How one kind of data set is read.

    Attributes:
        name: Its name in data.yaml.
        layout: What the folder holds, for people.
        fits: Whether a folder is of this kind.
        labels: Class names in the order of the logits.
        clips: Clips of a split, those that are missing on the disk among them; raises
            `NoSplitError` where the data have no such split.
        listed: What lists a split's clips, for messages.
        max_missing: Share of the listed clips that may be missing.
    """

    name: str
    layout: str
    fits: Callable[[Path], bool]
    labels: Callable[[DataSpec], tuple[str, ...]]
    clips: Callable[[DataSpec, str], list[Clip]]
    listed: Callable[[DataSpec, str], Path]
    max_missing: float = MAX_MISSING


def missing_of(paths: Iterable[Path]) -> set[str]:
    """Which of the paths are not there; every folder is listed once, no file is looked at alone."""
    folders: dict[str, dict[str, str]] = {}
    for path in paths:
        # as text: of 170,000 paths, hashing them as such costs seconds
        text = str(path)
        folder, _, name = text.rpartition(os.sep)
        folders.setdefault(folder, {})[name] = text
    missing: set[str] = set()
    for folder, wanted in folders.items():
        names = names_in(Path(folder or os.sep))
        missing.update(text for name, text in wanted.items() if name not in names)
    return missing


def names_in(folder: Path) -> frozenset[str]:
    """Names of all that is in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def folders_in(folder: Path) -> list[str]:
    """Names of a folder's folders, sorted, hidden ones aside."""
    try:
        with os.scandir(folder) as entries:
            found = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    except OSError:
        return []
    return sorted(found)


def is_video(name: str) -> bool:
    """Whether a file's name is a video's."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122  10 × faster


def is_picture(name: str) -> bool:
    """Whether a file's name is a picture's."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122


def find_file(root: Path, names: Iterable[str]) -> Path | None:
    """The first of the files that is there, in the root or where data sets keep their lists."""
    for name in names:
        for folder in LIST_FOLDERS:
            path = root / folder / name
            if path.is_file():
                return path
    return None


def require_file(root: Path, names: Sequence[str]) -> Path:
    """As `find_file`.

    Raises:
        DataError: None of them is there.
    """
    path = find_file(root, names)
    if path is None:
        raise DataError(f"{root / names[0]} not found; {' or '.join(names)} should be there")
    return path


def given_videos(spec: DataSpec, split: str) -> Path | None:
    """Folder of a split's videos as data.yaml says; None where it says nothing.

    Raises:
        DataError: It is not there.
    """
    given = spec.videos.get(split, spec.videos.get(""))
    if given is None:
        return None
    folder = spec.path_of(given)
    if not folder.is_dir():
        raise DataError(f"{spec.where_of('videos')}: videos names {folder}, which is no folder")
    return folder


def videos_folder(spec: DataSpec, split: str, usual: Sequence[str]) -> Path:
    """Folder of a split's videos: as data.yaml says, one of the usual ones, or the root.

    Raises:
        DataError: The folder that data.yaml names is not there.
    """
    given = given_videos(spec, split)
    if given is not None:
        return given
    return next((spec.root / name for name in usual if (spec.root / name).is_dir()), spec.root)


def require_label(label: str, known: frozenset[str], where: str) -> str:
    """A label as it is.

    Raises:
        DataError: It is empty or unknown.
    """
    if label not in known:
        if not label:
            raise DataError(f"{where}: the label is empty")
        raise DataError(f"{where}: unknown label {label!r}; {near_match(label, sorted(known))}")
    return label


def ordered(spec: DataSpec, names: Sequence[str]) -> tuple[str, ...]:
    """Names in their file's order, or sorted if data.yaml says so."""
    return tuple(sorted(names)) if spec.class_order == "sorted" else tuple(names)


def given_names(spec: DataSpec) -> tuple[str, ...] | None:
    """The names that data.yaml gives itself; None where it gives none or a file."""
    return spec.labels if isinstance(spec.labels, tuple) else None


def names_file(spec: DataSpec, usual: Sequence[str]) -> Path | None:
    """The file of class names: as data.yaml says, or one of the usual ones if it is there."""
    if isinstance(spec.labels, str):
        return spec.path_of(spec.labels)
    return find_file(spec.root, usual)
