"""What happens when in a video: a csv file with one action a line.

The header is `path,start_s,end_s,label`; paths are relative to the csv file's folder.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from runtime.errors import DataError
from runtime.files import whole_file

COLUMNS = ("path", "start_s", "end_s", "label")


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path} cannot be read: {err}") from err
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path} lacks the column {missing[0]!r}; it needs {','.join(COLUMNS)}")
    known = frozenset(labels)
    segments = [_segment(row, known, f"{path} line {reader.line_num}") for row in reader]
    if not segments:
        raise DataError(f"{path} lists no action")
    return segments


def _segment(row: dict[str, str | None], known: frozenset[str], where: str) -> Segment:
    label = row["label"] or ""
    if label not in known:
        names = ", ".join(sorted(known))
        raise DataError(f"{where}: unknown label {label!r}; known are {names}")
    start_s, end_s = _seconds(row, "start_s", where), _seconds(row, "end_s", where)
    if start_s < 0:
        raise DataError(f"{where}: start_s must be >= 0, got {start_s}")
    if end_s <= start_s:
        raise DataError(f"{where}: end_s must be after start_s {start_s}, got {end_s}")
    return Segment(row["path"] or "", start_s, end_s, label)


def _seconds(row: dict[str, str | None], column: str, where: str) -> float:
    try:
        value = float(row[column] or "")
    except ValueError as err:
        raise DataError(f"{where}: {column} must be a number, got {row[column]!r}") from err
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} must be finite, got {value}")
    return value
