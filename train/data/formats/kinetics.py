"""Kinetics-400 (and its kin): videos cut by their lists' times.

    kinetics_train.csv    label,youtube_id,time_start,time_end,split; also kinetics_val.csv
    train/abseiling/ID_000010_000020.mp4     or without the label's folder

Many videos of the lists are gone from the net: up to half of them may be missing here
(`max_missing` in data.yaml). The order of the logits is that of the sorted classes.
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import DataError
from train.data.formats.base import (
    Clip,
    Format,
    NoSplitError,
    find_file,
    folders_in,
    given_names,
    is_video,
    names_file,
    names_in,
    ordered,
    require_label,
    videos_folder,
)
from train.data.formats.spec import DataSpec
from train.data.formats.table import Table, read_names, read_table, read_text

COLUMNS = ("label", "youtube_id", "time_start", "time_end")
MAX_MISSING = 0.5
ALIASES = {
    "train": ("train",),
    "validation": ("val", "validate", "validation"),
    "test": ("test",),
}


def fits(root: Path) -> bool:
    """Whether the training list is there, with its columns."""
    path = _find(root, "train")
    if path is None:
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    return set(COLUMNS) <= {name.strip().strip('"') for name in header.split(",")}


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names, sorted; or as data.yaml's `labels` say.

    Raises:
        DataError: Train and validation have other classes.
    """
    given = given_names(spec)
    path = names_file(spec, ())
    if given is not None or path is not None:
        return ordered(spec, given or (() if path is None else read_names(path)))
    in_train = set(_read(spec, "train").column("label"))
    in_validation = set(_read(spec, "validation").column("label"))
    for one, other, split in (
        (in_validation, in_train, "train"),
        (in_train, in_validation, "validation"),
    ):
        if one - other:
            raise DataError(
                f"{listed(spec, split)} has no clip of {', '.join(sorted(one - other)[:5])}, the "
                "other list has; both must be of one data set"
            )
    return tuple(sorted(in_train))


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    table = _read(spec, split)
    known = frozenset(labels(spec))
    folder = videos_folder(spec, split, _usual_folders(split))
    files = _videos_by_stem(folder)
    found = []
    places = [table.columns.index(name) for name in COLUMNS]
    for row, fields in enumerate(table.rows):
        label, video, start, end = (fields[place] for place in places)
        if label not in known:
            require_label(label, known, table.where(row))
        stem = f"{video}_{_seconds(table, row, start):06d}_{_seconds(table, row, end):06d}"
        found.append(Clip(folder / files.get(stem, f"{stem}.mp4"), label, group=video))
    return found


def listed(spec: DataSpec, split: str) -> Path:
    """The csv file of a split.

    Raises:
        NoSplitError: There is none.
    """
    path = _find(spec.root, split)
    if path is None:
        names = " or ".join(_file_names(split)) or "a list"
        raise NoSplitError(f"{spec.root} has no split {split!r}: {names} should be there")
    return path


def _find(root: Path, split: str) -> Path | None:
    return find_file(root, _file_names(split))


def _file_names(split: str) -> tuple[str, ...]:
    """Names of a split's list; of kinetics_train.csv and train.csv the first is taken."""
    aliases = ALIASES.get(split, ())
    starts = ("kinetics_", "kinetics400_", "kinetics-400_", "k400_", "")
    return tuple(f"{start}{alias}.csv" for start in starts for alias in aliases)


def _usual_folders(split: str) -> tuple[str, ...]:
    starts = ("", "videos_", "videos/", "kinetics_")
    places = [f"{start}{alias}" for alias in ALIASES.get(split, ()) for start in starts]
    return (*places, "videos")


def _read(spec: DataSpec, split: str) -> Table:
    path = listed(spec, split)
    table = read_table(path, COLUMNS)
    empty = [row for row, label in enumerate(table.column("label")) if not label]
    if empty:
        raise DataError(f"{table.where(empty[0])}: the label is empty")
    if not table.rows:
        raise DataError(f"{path} lists no clip ({len(read_text(path))} characters)")
    return table


def _seconds(table: Table, row: int, text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError) as err:
        raise DataError(f"{table.where(row)}: a time must be a number, got {text!r}") from err


def _videos_by_stem(folder: Path) -> dict[str, str]:
    """Videos of a folder and its label folders: path relative to the folder by name."""
    found = {name.rpartition(".")[0]: name for name in names_in(folder) if is_video(name)}
    for label in folders_in(folder):
        for name in names_in(folder / label):
            if is_video(name):
                found[name.rpartition(".")[0]] = f"{label}/{name}"
    return found


FORMAT = Format(
    "kinetics",
    "kinetics_train.csv, kinetics_val.csv and train/[CLASS/]ID_000010_000020.mp4",
    fits,
    labels,
    clips,
    listed,
    MAX_MISSING,
)
