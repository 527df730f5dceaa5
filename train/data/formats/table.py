"""Text files of data sets: lists of names and csv tables, with the lines that errors name."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DataError

OTHER_SEPARATORS = (",", ";", "\t", " ")


@dataclass(frozen=True, eq=False)
class Table:
    """A csv file.

    Attributes:
        path: The file.
        columns: Their names.
        rows: Fields of every row, as many as there are columns.
        lines: Line of every row in the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """All fields of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.path} line {self.lines[row]}"


def read_text(path: Path) -> str:
    """A text file, without its byte order mark.

    Raises:
        DataError: It is missing or no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path} cannot be read: {err}") from err


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not empty, without spaces around it.

    Raises:
        DataError: The file is missing or no UTF-8 text.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        DataError: The file cannot be read, or names a class twice.
    """
    names: dict[str, int] = {}
    for number, name in numbered_lines(path):
        if name in names:
            raise DataError(
                f"{path} line {number} names {name!r} again (line {names[name]}); it must list "
                "at least two different classes, each once"
            )
        names[name] = number
    return tuple(names)


def read_table(path: Path, needed: Sequence[str]) -> Table:
    """A csv file with a header, fields separated by commas.

    Args:
        path: The file.
        needed: Columns that it must have.

    Raises:
        DataError: It cannot be read, lacks a column, or a row has another number of fields.
    """
    reader = csv.reader(read_text(path).split("\n"))
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in needed if name not in header]
    if missing:
        hint = _separator_hint(header, needed)
        raise DataError(
            f"{path} line 1 lacks the column {missing[0]!r}; it needs {','.join(needed)}{hint}"
        )
    rows, lines = [], []
    for row in reader:
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path} line {reader.line_num} has {len(row)} fields, the header has "
                f"{len(header)}; put quotes around a field with a comma"
            )
        rows.append([field.strip() for field in row])
        lines.append(reader.line_num)
    return Table(path, tuple(header), rows, lines)


def near_match(name: str, known: Sequence[str]) -> str:
    """A hint for a name that is unknown.

    Example:
        >>> near_match("wawe", ["wave", "rest"])
        'did you mean wave?'
        >>> near_match("jump", ["wave", "rest"])
        'known are rest, wave'
    """
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    shown = ", ".join(sorted(known)[:20])
    return f"known are {shown}" + (f" and {len(known) - 20} more" if len(known) > 20 else "")


def _separator_hint(header: Sequence[str], needed: Sequence[str]) -> str:
    for separator in OTHER_SEPARATORS[1:]:
        if len(header) == 1 and set(needed) <= set(header[0].split(separator)):
            return f" separated by commas, not by {separator!r}"
    return ""
