"""The event file: whole JSON lines, rotated by size, and a full disk stops nothing.

Every line is handed to the system at once, so a crash of the program loses none and a power cut
the last seconds; half a line that it left is removed. Lines that the disk does not take wait in
memory. `events.jsonl` is the newest file; `events.jsonl.1` is the one before it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runtime.build_lock import lock_now
from runtime.command import one_line
from runtime.errors import OutputError
from runtime.files import write_all

MOST_WAITING = 1000
FREQUENT = ("decision", "missed")  # they must not push out the others while the disk is full
LINE_START = b'{"type": '
LONGEST_TAIL_BYTES = 1 << 20  # no line is longer; a file without a shorter one is not ours

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

    Where there is no room, the newest thousand decisions and the newest thousand other lines wait
    in memory; they are written in order as soon as there is.

    Args:
        where: The file; made if needed, appended to if it is there. Half a line at its end, which
            a power cut left, is removed.

    Attributes:
        lost: Lines that were not written and never will be.

    Raises:
        OSError: The file cannot be written, or another process writes it.
    """

    def __init__(self, where: EventFile) -> None:
        self.lost = 0
        self._lock = threading.Lock()
        self._where = where
        self._lost_now = 0
        self._num_users = 0
        self._failure: OutputError | None = None  # that was told, or is at the end
        self._late_now = 0
        self._is_behind = False
        self._waiting = _Waiting()
        self._size = 0
        self._is_closed = False
        self._file: BinaryIO | None = None
        try:
            where.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as err:
            if not err.strerror:  # it says what to do
                raise
            raise OSError(
                f"--events {where.path} cannot be written: {err.strerror}; give it a file in a "
                "folder that you may write"
            ) from err

    def join(self) -> None:
        """Count one more who writes here and will `leave`."""
        with self._lock:
            self._num_users += 1

    def leave(self) -> OutputError | None:
        """Count one less, who may yet write a last line; when nobody is left, write what waits.

        Returns:
            Why it could not be written; None where it could, or where others go on.
        """
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                try:
                    self._catch_up()
                except OSError as err:
                    self._failure = self._lines_are_lost(err)
            return self._failure

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object; where there is no room it waits, and the oldest may be lost.

        Raises:
            ValueError: A value that JSON has no word for, as NaN, or the log is closed.
        """
        with self._lock:
            self._write(record)

    def close(self) -> None:
        """Write what waits, if there is room by now, and close the file; once is enough."""
        with self._lock:
            if not self._is_closed and len(self._waiting):
                self._write_last()
            self._is_closed = True
            self._forget()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Close it.

        Raises:
            OutputError: The last lines are lost, which `leave` did not tell and no error hides.
        """
        is_told = self._failure is not None or kind is not None
        self.close()
        if self._failure is not None and not is_told:
            raise self._failure

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._is_closed:
            raise ValueError(f"{self._where.path} is closed")
        line = _line(record)
        try:
            if self._is_behind:
                self._catch_up()
            lost = _line(_lines_lost(record, self._lost_now)) if self._lost_now else b""
            self._add(lost + line)
        except OSError as err:
            self._put_off(record.get("type") in FREQUENT, line, err)
            return
        if self._is_behind:
            logger.warning(
                "%s: written again, %d lines were late and %d were lost",
                self._where.path,
                self._late_now,
                self._lost_now,
            )
            self._is_behind, self._late_now, self._lost_now = False, 0, 0

    def _catch_up(self) -> None:
        """Write the lines that wait, as far as there is room."""
        while (line := self._waiting.first()) is not None:
            self._add(line)
            self._waiting.drop_first()
            self._late_now += 1

    def _write_last(self) -> None:
        try:
            self._catch_up()
        except OSError as err:
            self._failure = self._failure or self._lines_are_lost(err)
            count = len(self._waiting)
            self.lost += count
            logger.error(
                "%s: the last %d lines are lost: %s", self._where.path, count, _reason(err)
            )

    def _lines_are_lost(self, err: OSError) -> OutputError:
        return OutputError(
            f"{self._where.path}: the last event lines are lost: {_reason(err)}; make room there, "
            "or give --events another file"
        )

    def _add(self, line: bytes) -> None:
        self._make_room(len(line))
        self._append(line)

    def _open(self) -> BinaryIO:
        path = self._where.path
        file = path.open("ab+", buffering=0)
        try:
            lock_now(file.fileno())
            self._size = _end_of_lines(file, path)
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

    def _put_off(self, is_frequent: bool, line: bytes, err: OSError) -> None:
        lost = self._waiting.put(line, is_frequent=is_frequent)
        self.lost += lost
        self._lost_now += lost
        if not self._is_behind:
            self._is_behind = True
            logger.error(
                "%s cannot be written: %s; events wait in memory until it can, the stream goes on",
                self._where.path,
                _reason(err),
            )


class _Waiting:
    """Lines in the order they came, of two kinds: each keeps its newest."""

    def __init__(self) -> None:
        self._count = 0
        self._rare: deque[tuple[int, bytes]] = deque()
        self._frequent: deque[tuple[int, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._rare) + len(self._frequent)

    def put(self, line: bytes, *, is_frequent: bool) -> int:
        """Add a line; the number of lines that went for it, 0 or 1."""
        lines = self._frequent if is_frequent else self._rare
        lines.append((self._count, line))
        self._count += 1
        if len(lines) <= MOST_WAITING:
            return 0
        lines.popleft()
        return 1

    def first(self) -> bytes | None:
        """The oldest line; None where there is none."""
        lines = self._oldest()
        return lines[0][1] if lines else None

    def drop_first(self) -> None:
        """Remove the oldest line."""
        self._oldest().popleft()

    def _oldest(self) -> deque[tuple[int, bytes]]:
        rare, frequent = self._rare, self._frequent
        return rare if rare and (not frequent or rare[0] < frequent[0]) else frequent


def _reason(err: OSError) -> str:
    return err.strerror or one_line(err)


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


def _end_of_lines(file: BinaryIO, path: Path) -> int:
    """Make the file end with a whole line; its size.

    A power cut may have left half a line of ours, or zeros: they go. Any other text stays, on a
    line of its own.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - LONGEST_TAIL_BYTES))
    tail = file.read().rpartition(b"\n")[2]
    if not tail:
        return size
    if not _is_half_of_ours(tail):
        return size + file.write(b"\n")
    logger.warning("%s ended within a line, as after a power cut: that line was removed", path)
    return file.truncate(size - len(tail))


def _is_half_of_ours(tail: bytes) -> bool:
    text = tail.rstrip(b"\0")
    if not (text.startswith(LINE_START) or LINE_START.startswith(text)):
        return False
    try:
        json.loads(tail)
    except ValueError:  # bytes that are no UTF-8 are one too
        return True
    return False
