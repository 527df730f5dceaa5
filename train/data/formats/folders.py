"""A folder of videos for each class.

    train/CLASS/*.mp4 and validation/CLASS/*.mp4      also val/, valid/; test/ if no other is there
    CLASS/*.mp4                                       split here
    CLASS/SESSION/*.mp4, CLASS/SESSION_0001.mp4       with the session of a recording

Videos may also be folders of pictures. Where the data are not split, whole sessions validate:
clips of one session look alike. Clips without a session, and classes that were recorded in one
session only, are split clip by clip, and a warning says so.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import DataError
from train.data.folds import fill_part, grouped_split
from train.data.formats.base import (
    Clip,
    Format,
    NoSplitError,
    folders_in,
    given_names,
    is_picture,
    is_video,
    names_file,
)
from train.data.formats.spec import DataSpec, at_line
from train.data.formats.table import near_match, numbered_lines, read_names

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test"),
    "calibration": ("calibration",),
    "test": ("test",),
}
# Folders beside the classes that are none.
NO_CLASSES = frozenset(("tape", "tape_validation", "calibration"))
NUM_TRIED = 20

# SESSION_0001.mp4, as train.collect names clips
_NUMBERED = re.compile(r"(?P<session>.+)_\d+")


def fits(root: Path) -> bool:
    """Whether there are folders with clips, of a training split or of classes."""
    folder = _split_folder(root, "train") or root
    return any(_has_clips(folder / name) for name in _classes_in(folder)[:NUM_TRIED])


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Names of the class folders, sorted; or as data.yaml or labels.txt say.

    Raises:
        DataError: Train and validation have other classes, or the given names are others.
    """
    train = _split_folder(spec.root, "train")
    found = _classes_in(train or spec.root)
    if train is not None:
        _require_same(train, set(found), listed(spec, "validation"))
    path = names_file(spec, ("labels.txt",))
    names = given_names(spec) or (None if path is None else read_names(path))
    if names is None:
        return tuple(found)
    for name in names:
        if name not in found:
            hint = near_match(name, found)
            where = _named_at(spec, path, name)
            raise DataError(f"{where} names the class {name!r}, no folder; {hint}")
    for name in found:
        if name not in names:
            hint = near_match(name, names)
            where = _named_at(spec, path)
            raise DataError(f"{where} does not name the folder {name!r}; {hint}")
    return tuple(sorted(names)) if spec.class_order == "sorted" else names


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    folder = listed(spec, split)
    every = [clip for name in _classes_in(folder) for clip in _clips_in(spec, folder / name)]
    if _split_folder(spec.root, "train") is not None:
        return every
    groups, leaking = _groups(every)
    if leaking and split == "train":
        logger.warning(
            "%s: %s no sessions (CLASS/SESSION/clip.mp4 or SESSION_0001.mp4, two or more a class); "
            "clips of one recording may be in train and in validation, which flatters the accuracy",
            spec.root,
            "the clips have" if len(leaking) > 3 else f"the clips of {', '.join(leaking)} have",
        )
    shares = [1 - spec.validation_share, spec.validation_share]
    part = grouped_split([clip.label for clip in every], groups, shares, spec.seed)
    sessions = [group for group in part if not group.startswith("\0")]
    if len(sessions) > 1:
        fill_part(part, 1, sessions, groups)
    wanted = ("train", "validation").index(split)
    return [clip for clip, group in zip(every, groups, strict=True) if part[group] == wanted]


def listed(spec: DataSpec, split: str) -> Path:
    """Folder with the classes of a split.

    Raises:
        NoSplitError: There is none.
    """
    folder = _split_folder(spec.root, split)
    if folder is not None:
        return folder
    is_split = _split_folder(spec.root, "train") is not None
    if is_split or split not in ("train", "validation"):
        names = " or ".join(SPLIT_FOLDERS.get(split, (split,)))
        raise NoSplitError(f"{spec.root} has no folder {names} for the split {split!r}")
    return spec.root


def _named_at(spec: DataSpec, path: Path | None, name: str | None = None) -> str:
    """File and line that name a class, or where the names begin."""
    if path is None:
        return spec.where_of("labels")
    lines = [number for number, text in numbered_lines(path) if name in (None, text)]
    return at_line(path, lines[0] if lines else 1)


def _split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split; only beside a training folder, else the name is a class's."""
    if not any((root / name).is_dir() for name in SPLIT_FOLDERS["train"]):
        return None
    places = (root / name for name in SPLIT_FOLDERS.get(split, ()))
    return next((place for place in places if place.is_dir()), None)


def _require_same(train: Path, classes: set[str], validation: Path) -> None:
    others = set(_classes_in(validation))
    for missing, folder in ((classes - others, validation), (others - classes, train)):
        if missing:
            raise DataError(
                f"{folder} has no folder {', '.join(sorted(missing)[:5])}; train and validation "
                "must have the same classes"
            )


def _classes_in(folder: Path) -> list[str]:
    return [name for name in folders_in(folder) if name not in NO_CLASSES]


def _has_clips(folder: Path) -> bool:
    return next(_clip_paths(folder), None) is not None


def _clips_in(spec: DataSpec, folder: Path) -> list[Clip]:
    """Clips of one class, with their sessions."""
    fps, template = spec.fps, spec.template
    return [
        Clip(path, folder.name, group=session)
        if is_video(path.name)
        else Clip(path, folder.name, group=session, fps=fps, template=template)
        for path, session in _clip_paths(folder)
    ]


def _clip_paths(folder: Path, session: str = "") -> Iterator[tuple[Path, str]]:
    """Clips of a class folder, or of a session's folder in it, and their sessions."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if is_video(entry.name):
                match = _NUMBERED.fullmatch(Path(entry.name).stem)
                yield Path(entry.path), session or (match["session"] if match else "")
        elif _holds_pictures(entry.path):
            yield Path(entry.path), session
        elif not session:
            yield from _clip_paths(Path(entry.path), entry.name)


def _holds_pictures(folder: str) -> bool:
    with os.scandir(folder) as found:
        return any(is_picture(entry.name) for entry in found)


def _groups(clips: list[Clip]) -> tuple[list[str], list[str]]:
    """What stays together, clip by clip; and the classes in which clips have no session.

    A name that all clips of a class share says nothing: `wave_0001.mp4` is no session `wave`.
    """
    sessions: defaultdict[str, set[str]] = defaultdict(set)
    for clip in clips:
        sessions[clip.label].add(clip.group)
    once = {name for name, found in sessions.items() if len(found - {""}) < 2}
    leaking = [name for name, found in sessions.items() if name in once or "" in found]
    groups = [
        f"\0{clip.path}" if clip.label in once or not clip.group else clip.group for clip in clips
    ]
    return groups, leaking


FORMAT = Format(
    "folders",
    "train/CLASS/*.mp4 and validation/CLASS/*.mp4, or CLASS/*.mp4",
    fits,
    labels,
    clips,
    listed,
)
