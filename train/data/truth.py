"""What happens when in a video: a csv file with one action a line.

The header is `path,start_s,end_s,label`; paths are relative to the csv file's folder. More columns
may follow.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from runtime.errors import DataError
from runtime.files import whole_file
from train.data.formats.table import Table, near_match, read_table

COLUMNS = ("path", "start_s", "end_s", "label")
SEGMENTS_CSV = "segments.csv"


@dataclass(frozen=True)
class Segment:
    """One action in one video.

    Attributes:
        path: The video, relative to the truth file's folder.
        start_s: Where the action starts, seconds of stream time.
        end_s: Where it ends, > start_s.
        label: The action's class.
    """

    path: str
    start_s: float
    end_s: float
    label: str


def write_truth(path: Path, segments: Iterable[Segment]) -> None:
    """Write segments as csv, whole or not at all."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(segment) for segment in segments)


def read_truth(path: Path, labels: Sequence[str]) -> list[Segment]:
    """Read segments, in the file's order.

    Args:
        path: A csv file with at least the columns `path,start_s,end_s,label`.
        labels: The classes that may occur.

    Raises:
        DataError: The file is missing or empty, lacks a column, or a line is wrong; the message
            names the line.
    """
    return segments_of(read_table(path, COLUMNS), labels)


def segments_of(table: Table, labels: Sequence[str] | None) -> list[Segment]:
    """The segments of a table, row by row.

    Args:
        table: At least the columns `path,start_s,end_s,label`.
        labels: The classes that may occur; None lets any.

    Raises:
        DataError: It has no row, or one is wrong; the message names the line.
    """
    if not table.rows:
        raise DataError(f"{table.path} lists no action")
    known = None if labels is None else frozenset(labels)
    places = [table.columns.index(name) for name in COLUMNS]
    found = []
    for row, fields in enumerate(table.rows):
        path, start, end, label = (fields[place] for place in places)
        where = table.where(row)
        if not path:
            raise DataError(f"{where}: the path is empty")
        if not label:
            raise DataError(f"{where}: the label is empty")
        if known is not None and label not in known:
            raise DataError(f"{where}: unknown label {label!r}; {near_match(label, sorted(known))}")
        start_s, end_s = _seconds(start, "start_s", where), _seconds(end, "end_s", where)
        if start_s < 0:
            raise DataError(f"{where}: start_s must be >= 0, got {start_s}")
        if end_s <= start_s:
            raise DataError(f"{where}: end_s must be after start_s {start_s}, got {end_s}")
        found.append(Segment(path, start_s, end_s, label))
    return found


def _seconds(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise DataError(f"{where}: {column} must be a number, got {text!r}") from err
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} must be finite, got {value}")
    return value
