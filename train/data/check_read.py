"""Splits read for a look at them: where training would stop, this goes on and says so."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runtime.command import one_line
from runtime.errors import DataError
from train.data.catalog import FORMATS, detect_format, load_split
from train.data.formats import own, segments
from train.data.formats.base import Format, NoSplitError
from train.data.formats.spec import DataSpec
from train.data.formats.table import read_table
from train.data.split import Split
from train.data.truth import COLUMNS

SPLITS = ("train", "validation", "test", "calibration")
ANY_MISSING = 1 - 1e-9  # as `max_missing`: all but a whole split may be missing


def format_of(spec: DataSpec) -> Format:
    """The format of a data set."""
    name = detect_format(spec)
    return next(kind for kind in FORMATS if kind.name == name)


def read_splits(spec: DataSpec, labels: Sequence[str]) -> tuple[dict[str, Split], dict[str, str]]:
    """Every split there is, and what training will refuse."""
    splits: dict[str, Split] = {}
    refused: dict[str, str] = {}
    lenient = replace(spec, max_missing=ANY_MISSING)
    for name in SPLITS:
        try:
            if name == "calibration" and not _is_listed(spec, name):
                continue
            splits[name] = load_split(spec, name, labels, every_class=False)
        except NoSplitError as err:
            if name in ("train", "validation"):
                refused[name] = one_line(err)
        except DataError as err:
            refused[name] = one_line(err)
            try:
                splits[name] = load_split(lenient, name, labels, every_class=False)
            except DataError:
                continue
    return splits, refused


def _is_listed(spec: DataSpec, name: str) -> bool:
    """Whether the data have such a split themselves.

    Raises:
        DataError: Its list is wrong.
    """
    kind = format_of(spec)
    if kind is own.FORMAT and (spec.root / name / own.ARRAYS_NPY).is_file():
        return True
    try:
        return bool(kind.clips(spec, name))
    except NoSplitError:
        return False


def twins_of(splits: Mapping[str, Split]) -> dict[str, str]:
    """Splits with the very clips of an earlier one: some data have one list for two purposes."""
    names = [name for name in splits if splits[name].segments]
    return {
        later: earlier
        for place, later in enumerate(names)
        for earlier in names[:place]
        if "train" not in (earlier, later) and splits[later].segments == splits[earlier].segments
    }


def lines_of(spec: DataSpec, name: str) -> dict[tuple[Path, float, float | None], Iterator[str]]:
    """Lines of every clip in its csv file; none for formats with other lists."""
    kind = format_of(spec)
    if kind not in (own.FORMAT, segments.FORMAT):
        return {}
    table = read_table(kind.listed(spec, name), COLUMNS)
    folder = table.path.parent if kind is own.FORMAT else segments.video_folder(spec)
    columns = [table.column(column) for column in COLUMNS[:3]]
    lines: defaultdict[tuple[Path, float, float | None], list[str]] = defaultdict(list)
    for row, (path, start_s, end_s) in enumerate(zip(*columns, strict=True)):
        lines[folder / path, float(start_s), float(end_s)].append(table.where(row))
    return {place: iter(found) for place, found in lines.items()}


@contextmanager
def reading_warnings() -> Iterator[list[str]]:
    """Collect what the formats warn of instead of printing it."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("train.data.formats")
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
