"""The event file: whole JSON lines, rotated by size, and a full disk stops nothing.

Every line is handed to the system at once, so a crash of the program loses none and a power cut
the last seconds. `events.jsonl` is the newest file; `events.jsonl.1` is the one before it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runtime.build_lock import lock_now
from runtime.command import one_line
from runtime.files import write_all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventFile:
    """Where events are written.

    Attributes:
        path: The newest file.
        max_bytes: Its size at most, > 0; None for no limit.
        keep: How many older files are kept.
    """

    path: Path
    max_bytes: int | None = None
    keep: int = 5


class EventLog:
    """Appends lines to a file. Safe from any thread.

    Args:
        where: The file; made if needed, appended to if it is there.

    Attributes:
        lost: Lines that could not be written so far.

    Raises:
        OSError: The file cannot be written, or another process writes it.
    """

    def __init__(self, where: EventFile) -> None:
        self.lost = 0
        self._lock = threading.Lock()
        self._where = where
        self._lost_now = 0
        self._size = 0
        self._is_closed = False
        self._file: BinaryIO | None = None
        where.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object; where there is no room it is counted as lost.

        Raises:
            ValueError: A value that JSON has no word for, as NaN, or the log is closed.
        """
        with self._lock:
            self._write(record)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._forget()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._is_closed:
            raise ValueError(f"{self._where.path} is closed")
        line = _line(record)
        if self._lost_now:
            line = _line(_lines_lost(record, self._lost_now)) + line
        try:
            self._make_room(len(line))
            self._append(line)
        except OSError as err:
            self._lose(err)
            return
        if self._lost_now:
            logger.warning(
                "%s: written again, %d lines were lost", self._where.path, self._lost_now
            )
            self._lost_now = 0

    def _open(self) -> BinaryIO:
        path = self._where.path
        file = path.open("ab+", buffering=0)
        try:
            lock_now(file.fileno())
            self._size = _end_broken_line(file)
        except BlockingIOError as err:
            file.close()
            raise OSError(f"{path} is written by another run; give each its own file") from err
        except OSError:
            file.close()
            raise
        return file

    def _append(self, line: bytes) -> None:
        """Write a line whole, or nothing of it."""
        file = self._file
        if file is not None and not _is_at(file, self._where.path):  # moved or removed by others
            self._forget()
        if self._file is None:
            self._file = self._open()
        try:
            write_all(self._file, line)
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(line)

    def _make_room(self, num_bytes: int) -> None:
        """Begin a new file where a line would make this one too large."""
        limit = self._where.max_bytes
        if limit is None or self._size == 0 or self._size + num_bytes <= limit:
            return
        path, keep = self._where.path, self._where.keep
        self._older(max(1, keep)).unlink(missing_ok=True)
        for number in range(keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._older(number).replace(self._older(number + 1))
        with suppress(FileNotFoundError):
            if keep:
                path.replace(self._older(1))
            else:
                path.unlink()
        self._forget()

    def _forget(self) -> None:
        file, self._file, self._size = self._file, None, 0
        if file is not None:
            file.close()

    def _older(self, number: int) -> Path:
        return self._where.path.with_name(f"{self._where.path.name}.{number}")

    def _lose(self, err: OSError) -> None:
        self.lost += 1
        self._lost_now += 1
        if self._lost_now == 1:
            reason = err.strerror or one_line(err)
            logger.error(
                "%s cannot be written: %s; events are lost until it can, the stream goes on",
                self._where.path,
                reason,
            )


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _lines_lost(record: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The line that stands for lost ones, with the clocks of the first one after them."""
    clocks = ("source", "stream_time_s", "monotonic_ns", "utc")
    return {"type": "lines_lost", "count": count, **{name: record.get(name) for name in clocks}}


def _end_broken_line(file: BinaryIO) -> int:
    """A power cut may have left half a line: new ones start on their own; the file's size."""
    size = file.seek(0, 2)
    if size == 0:
        return 0
    file.seek(-1, 2)
    return size if file.read(1) == b"\n" else size + file.write(b"\n")
