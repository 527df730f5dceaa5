"""Lists of TSM, TDN, MMAction2 and their kin: one clip a line, classes as numbers from 0.

    videos       path label
    rawframes    path num_frames label

A list is of one kind: as `kind` in data.yaml says, else as its first line.
Fields are read from the right, so paths may hold spaces. White space separates them, or commas,
semicolons, or what `separator` says. Lists are found by their names (train_videofolder.txt and
val_videofolder.txt, …_train_list_videos.txt and …_val_list_videos.txt, train.csv and val.csv), or
are given in data.yaml as `train` and `validation`. Names of the classes come from `labels`, or
from labels.txt, classes.txt, category.txt or label_map.txt if one is there; else "0", "1", ….
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DataError
from train.data.decode import DEFAULT_FPS
from train.data.formats.base import (
    LIST_FOLDERS,
    Clip,
    Format,
    NoSplitError,
    given_names,
    given_videos,
    is_video,
    names_file,
    ordered,
)
from train.data.formats.spec import DataSpec
from train.data.formats.table import numbered_lines, read_names

NAME_FILES = ("labels.txt", "classes.txt", "category.txt", "label_map.txt")
VALIDATION_WORDS = ("validation", "val", "test")
USUAL_FOLDERS = ("videos", "rawframes", "frames", "data")
VIDEOS, RAWFRAMES = "path label", "path num_frames label"
# Entries that are looked for when the folder of relative paths is found.
NUM_TRIED = 50


@dataclass(frozen=True)
class Line:
    """One line of a list."""

    number: int
    path: str
    num_frames: int | None
    label: int


def fits(root: Path) -> bool:
    """Whether a training list with its validation list is there."""
    return bool(_pairs(root))


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names in the order of the logits.

    Raises:
        DataError: A list is wrong, or names a class that has no name.
    """
    names = _names(spec)
    if names is None:
        names = tuple(str(number) for number in range(_num_classes(spec)))
    return ordered(spec, names)


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    path = listed(spec, split)
    lines = _read(spec, path)
    names = _names(spec)
    if names is None:
        names = tuple(str(number) for number in range(_num_classes(spec)))
    folder = _folder(spec, split, path, lines)
    fps = spec.fps or DEFAULT_FPS
    found = []
    for line in lines:
        if line.label >= len(names):
            raise DataError(
                f"{path} line {line.number}: class {line.label}, but there are names for "
                f"{len(names)} classes (0..{len(names) - 1})"
            )
        name = names[line.label]
        if line.num_frames is None:
            found.append(Clip(folder / line.path, name))
        else:
            end_s = line.num_frames / fps
            found.append(
                Clip(folder / line.path, name, end_s=end_s, fps=fps, template=spec.template)
            )
    return found


def listed(spec: DataSpec, split: str) -> Path:
    """The list of a split.

    Raises:
        NoSplitError: There is none.
        DataError: There are several that could be meant.
    """
    if spec.lists:
        if split not in spec.lists:
            raise NoSplitError(f"{spec.where} names no list for {split!r}; add `{split}: LIST`")
        return spec.path_of(spec.lists[split])
    if split not in ("train", "validation"):
        raise NoSplitError(f"{spec.where} names no list for {split!r}")
    pairs = _pairs(spec.root)
    if len(pairs) != 1:
        found = ", ".join(str(train.relative_to(spec.root)) for train, _ in pairs) or "none"
        raise DataError(
            f"{spec.root} has several lists or none ({found}); name two in data.yaml: "
            "`train: LIST` and `validation: LIST`"
        )
    return pairs[0][("train", "validation").index(split)]


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """Training lists and their validation lists, by name."""
    found = []
    for folder in LIST_FOLDERS:
        files = {
            path.name: path
            for path in sorted((root / folder).glob("*.[tc][xs][tv]"))
            if path.suffix in (".txt", ".csv")
        }
        for name, path in files.items():
            if "train" in name.lower():
                others = (re.sub("(?i)train", word, name, count=1) for word in VALIDATION_WORDS)
                partner = next((files[other] for other in others if other in files), None)
                if partner is not None:
                    found.append((path, partner))
    return found


def _names(spec: DataSpec) -> tuple[str, ...] | None:
    path = names_file(spec, NAME_FILES)
    return given_names(spec) or (None if path is None else read_names(path))


def _num_classes(spec: DataSpec) -> int:
    """Classes that the training list names; no other list may name more.

    Raises:
        DataError: The validation list does.
    """
    train, validation = listed(spec, "train"), listed(spec, "validation")
    number = 1 + max(line.label for line in _read(spec, train))
    more = {line.label for line in _read(spec, validation) if line.label >= number}
    if more:
        raise DataError(
            f"{validation} has clips of the classes {', '.join(map(str, sorted(more)[:5]))}, "
            f"{train} has none above {number - 1}; both must be of one data set"
        )
    return number


def _read(spec: DataSpec, path: Path) -> list[Line]:
    """All lines of a list.

    Raises:
        DataError: It cannot be read, is empty, or a line is wrong.
    """
    lines = list(numbered_lines(path))
    if not lines:
        raise DataError(f"{path} lists no clip")
    separator = _separator(spec, lines[0][1])
    if spec.kind is not None:
        has_frames = spec.kind == "rawframes"
    else:
        has_frames = _has_frames(lines[0][1], separator) is not False
        _require_one_kind(path, lines, separator, has_frames)
    return [_line(path, number, text, separator, has_frames) for number, text in lines]


def _separator(spec: DataSpec, first: str) -> str | None:
    """What separates the fields; None is any white space."""
    if spec.separator is not None:
        return None if spec.separator.isspace() else spec.separator
    # white space last: it also follows commas
    for separator in (",", ";", None):
        fields = first.rsplit(separator, 1)
        if len(fields) == 2 and fields[1].strip().isdecimal():
            return separator
    return None


def _has_frames(text: str, separator: str | None) -> bool | None:
    """Whether a line is `path num_frames label`; None where that is not sure."""
    rest = text.rsplit(separator, 1)[0].strip()
    if is_video(rest.strip('"')):
        return False
    fields = rest.rsplit(separator, 1)
    return True if len(fields) == 2 and fields[1].strip().isdecimal() else None


def _require_one_kind(
    path: Path, lines: Sequence[tuple[int, str]], separator: str | None, has_frames: bool
) -> None:
    """Refuse a line of the other kind: read like the others it would name another path.

    Raises:
        DataError: There is one.
    """
    for number, text in lines:
        has_label = text.rsplit(separator, 1)[-1].strip().isdecimal()
        if has_label and _has_frames(text, separator) is (not has_frames):
            first, here = (RAWFRAMES, VIDEOS) if has_frames else (VIDEOS, RAWFRAMES)
            raise DataError(
                f"{path} line {number} is `{here}`, line {lines[0][0]} is `{first}`: got {text!r}; "
                "make two lists of them, or say `kind: videos` or `kind: rawframes` in data.yaml"
            )


def _line(path: Path, number: int, text: str, separator: str | None, has_frames: bool) -> Line:
    wanted = RAWFRAMES if has_frames else VIDEOS
    fields = [field.strip() for field in text.rsplit(separator, 2 if has_frames else 1)]
    numbers = fields[1:]
    if len(fields) != (3 if has_frames else 2) or not all(one.isdecimal() for one in numbers):
        shown = "white space" if separator is None else repr(separator)
        raise DataError(
            f"{path} line {number}: expected `{wanted}` separated by {shown}, classes as whole "
            f"numbers from 0, got {text!r}"
        )
    name = fields[0].strip('"')
    if not name or (has_frames and int(numbers[0]) < 1):
        raise DataError(f"{path} line {number}: no path or no frames in {text!r}")
    return Line(number, name, int(numbers[0]) if has_frames else None, int(numbers[-1]))


def _folder(spec: DataSpec, split: str, path: Path, lines: Sequence[Line]) -> Path:
    """What relative paths are relative to: as data.yaml says, or where the first ones are."""
    given = given_videos(spec, split)
    if given is not None:
        return given
    places = [spec.root, path.parent, *(spec.root / name for name in (*USUAL_FOLDERS, split))]
    tried = lines[:: max(1, len(lines) // NUM_TRIED)]
    hits = [sum((place / line.path).exists() for line in tried) for place in places]
    return places[hits.index(max(hits))]


FORMAT = Format(
    "lists",
    "train_videofolder.txt and val_videofolder.txt (or other lists of `path [num_frames] label`)",
    fits,
    labels,
    clips,
    listed,
)
