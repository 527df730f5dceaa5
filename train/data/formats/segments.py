"""Untrimmed recordings with one list of segments.

    segments.csv      path,start_s,end_s,label[,split][,more columns]
    labels.txt        optional: one class a line, in the order of the logits; sorted without it

Whole recordings train or validate: as a column `split` says, or by `folds` in data.yaml, or by a
seeded choice that balances the classes. Every recording of the validation is a live tape as well.

A `background` class comes from the gaps between segments, `guard_s` away from them. Segments that
are dropped or filtered out are no gaps: what happens there is known, but not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from runtime.errors import DataError
from train.data.decode import probe
from train.data.folds import fill_part, grouped_split
from train.data.formats.base import (
    Clip,
    Format,
    NoSplitError,
    given_names,
    names_file,
    ordered,
)
from train.data.formats.spec import BACKGROUND, SPLITS, Background, DataSpec, Filter
from train.data.formats.table import Table, near_match, read_names, read_table
from train.data.truth import COLUMNS, SEGMENTS_CSV, Segment, segments_of

SPLIT_COLUMN = "split"
SPLIT_NAMES = {**{name: name for name in SPLITS}, "val": "validation"}


@dataclass(frozen=True)
class Listed:
    """The list: all segments, and those that are asked for.

    Attributes:
        every: All segments by recording, in the file's order.
        kept: Those that no filter takes out.
        split_of: Split by recording where the list has the column.
    """

    every: dict[str, list[Segment]]
    kept: list[Segment]
    split_of: dict[str, str]


def fits(root: Path) -> bool:
    """Whether the list is there."""
    return (root / SEGMENTS_CSV).is_file()


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names: of data.yaml or labels.txt, else those of the list, sorted."""
    names = _names(spec)
    if names is None:
        found = dict.fromkeys(row.label for rows in _read(spec).every.values() for row in rows)
        names = tuple(found) if spec.class_order == "file" else tuple(sorted(found))
    if spec.background is not None and BACKGROUND not in names:
        names = (*names, BACKGROUND)
    return names


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Segments of a split's recordings, and pieces of their gaps."""
    return clips_of(spec, recordings(spec, split))


def recordings(spec: DataSpec, split: str) -> list[str]:
    """Recordings of a split, as the list names them.

    Raises:
        NoSplitError: The data have no such split.
        DataError: The list is wrong, or holds a single recording.
    """
    found = _read(spec)
    if found.split_of:
        chosen = [path for path, name in found.split_of.items() if name == split]
        if not chosen:
            raise NoSplitError(f"{listed(spec, split)} has no recording with the split {split}")
        return chosen
    if split not in ("train", "validation"):
        raise NoSplitError(f"{listed(spec, split)} has no column {SPLIT_COLUMN!r} for {split!r}")
    wanted = [segment for segment in found.kept if segment.label not in spec.drop]
    names = [segment.path for segment in wanted]
    if len(set(names)) < 2:
        raise DataError(
            f"{listed(spec, split)} holds {len(set(names))} recordings; whole recordings train or "
            "validate, so at least two are needed"
        )
    into = {member: new for new, members in spec.merge.items() for member in members}
    classes = [into.get(segment.label, segment.label) for segment in wanted]
    shares = [1 - spec.validation_share, spec.validation_share]
    part = grouped_split(classes, names, shares, spec.seed)
    for number in (0, 1):  # few recordings, or a share close to 0 or 1
        fill_part(part, number, list(part), names)
    return [path for path in found.every if part.get(path) == ("train", "validation").index(split)]


def clips_of(spec: DataSpec, chosen: Sequence[str], *, whole_gaps: bool = False) -> list[Clip]:
    """Segments of some recordings, and their gaps if there is a background class.

    Args:
        spec: The data.
        chosen: The recordings.
        whole_gaps: Leave long gaps in one piece.
    """
    found = _read(spec)
    folder = video_folder(spec)
    kept: dict[str, list[Segment]] = {}
    for row in found.kept:
        kept.setdefault(row.path, []).append(row)
    rule = spec.background
    if rule is not None and whole_gaps:
        rule = replace(rule, piece_s=math.inf)
    clips = []
    for name in chosen:
        path = folder / name
        clips += [
            Clip(path, row.label, row.start_s, row.end_s, group=name) for row in kept.get(name, ())
        ]
        if rule is not None:
            clips += [
                Clip(path, BACKGROUND, start_s, end_s, group=name)
                for start_s, end_s in gaps(found.every[name], length_of(path), rule)
            ]
    return clips


def gaps(
    segments: Sequence[Segment], length_s: float | None, rule: Background
) -> list[tuple[float, float]]:
    """Pieces of a recording in which nothing is listed.

    Args:
        segments: All segments of the recording.
        length_s: Its length; None where it cannot be read: what follows the last segment is left.
        rule: How they are cut.

    Returns:
        Start and end of every piece, seconds, ascending.

    Example:
        >>> rows = [Segment("a.mp4", 3.0, 5.0, "wave"), Segment("a.mp4", 5.2, 6.0, "wave")]
        >>> gaps(rows, 9.0, Background(guard_s=0.5, min_s=1.0))
        [(0.0, 2.5), (6.5, 9.0)]
    """
    free: list[tuple[float, float]] = []
    free_from = 0.0
    for row in sorted(segments, key=lambda row: row.start_s):
        free.append((free_from, row.start_s - rule.guard_s))
        free_from = max(free_from, row.end_s + rule.guard_s)
    if length_s is not None:
        free.append((free_from, length_s))
    pieces = []
    for start_s, end_s in free:
        if end_s - start_s >= rule.min_s:
            number = math.ceil(round((end_s - start_s) / rule.piece_s, 9)) or 1
            step_s = (end_s - start_s) / number
            pieces += [(start_s + i * step_s, start_s + (i + 1) * step_s) for i in range(number)]
    return pieces


def listed(spec: DataSpec, split: str = "") -> Path:
    """The list; all splits have the same."""
    return spec.path_of(spec.segments or SEGMENTS_CSV)


def video_folder(spec: DataSpec) -> Path:
    """What the list's paths are relative to: `videos` of data.yaml, or the list's folder."""
    given = spec.videos.get("")
    if spec.videos and given is None:
        where = spec.where_of("videos")
        raise DataError(f"{where}: videos must be one folder for data of the format segments")
    return listed(spec).parent if given is None else spec.path_of(given)


def length_of(path: Path) -> float | None:
    """Length of a recording, seconds; None where it cannot be read, as its reader will say."""
    try:
        changed = path.stat()
        return _length(path, changed.st_mtime_ns, changed.st_size)
    except (OSError, DataError):
        return None


@lru_cache(maxsize=4096)
def _length(path: Path, changed_ns: int, size: int) -> float:
    return probe(path).duration_s


def _names(spec: DataSpec) -> tuple[str, ...] | None:
    """Class names of data.yaml or labels.txt."""
    path = names_file(spec, ("labels.txt",))
    names = given_names(spec) or (None if path is None else read_names(path))
    return None if names is None else ordered(spec, names)


def _read(spec: DataSpec) -> Listed:
    table = read_table(listed(spec), COLUMNS)
    names = _names(spec)
    segments = segments_of(table, names)
    keep = [True] * len(segments)
    for rule in spec.filter:
        _apply(rule, spec, table, segments, keep)
    every: dict[str, list[Segment]] = {}
    for segment in segments:
        every.setdefault(segment.path, []).append(segment)
    kept = [segment for segment, stays in zip(segments, keep, strict=True) if stays]
    return Listed(every, kept, _splits(table, segments))


def _apply(
    rule: Filter, spec: DataSpec, table: Table, segments: Sequence[Segment], keep: list[bool]
) -> None:
    """Take out the segments of a class that are not in the range."""
    known, where = {segment.label for segment in segments}, spec.where_of("filter")
    if rule.label not in known:
        hint = near_match(rule.label, sorted(known))
        raise DataError(f"{where}: filter names the class {rule.label!r}; {hint}")
    if rule.column not in table.columns:
        hint = near_match(rule.column, table.columns)
        raise DataError(f"{where}: filter names the column {rule.column!r}; {hint}")
    for row, text in enumerate(table.column(rule.column)):
        if segments[row].label != rule.label:
            continue
        try:
            keep[row] &= rule.above < float(text) < rule.below
        except ValueError as err:
            raise DataError(
                f"{table.where(row)}: {rule.column} must be a number, got {text!r}"
            ) from err


def _splits(table: Table, segments: Sequence[Segment]) -> dict[str, str]:
    """Split by recording; empty where the list has no such column."""
    if SPLIT_COLUMN not in table.columns:
        return {}
    found: dict[str, str] = {}
    for row, text in enumerate(table.column(SPLIT_COLUMN)):
        where, path = table.where(row), segments[row].path
        name = SPLIT_NAMES.get(text)
        if name is None:
            raise DataError(f"{where}: unknown split {text!r}; {near_match(text, list(SPLITS))}")
        if found.setdefault(path, name) != name:
            raise DataError(
                f"{where}: {path} is in {found[path]} and in {name}; pieces of one recording are "
                "near duplicates, put a recording into one split"
            )
    return found


FORMAT = Format(
    "segments",
    f"{SEGMENTS_CSV} with path,start_s,end_s,label of untrimmed recordings",
    fits,
    labels,
    clips,
    listed,
)
