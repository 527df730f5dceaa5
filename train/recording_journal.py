"""Which recordings a data folder has clips of: `.recordings.jsonl`, a line a clip."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from runtime.build_lock import lock_now
from runtime.errors import DataError
from runtime.files import write_all

NAME = ".recordings.jsonl"


@dataclass(frozen=True)
class Entry:
    """A clip out of a recording.

    Attributes:
        clip: Its file in the data folder, with slashes.
        recording_id: The recording.
        start_s: Stream time at which the clip begins.
        end_s: Stream time at which it ends.
        digest: SHA-256 of its pictures.
    """

    clip: str
    recording_id: str
    start_s: float
    end_s: float
    digest: str


class Journal:
    """The file, while nobody else writes clips of recordings into the folder.

    Args:
        root: The data folder.

    Raises:
        DataError: Another process adds a recording.
        OSError: The folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        self._file: FileIO = self._path.open("a+b", buffering=0)
        try:
            lock_now(self._file.fileno())
        except BlockingIOError as err:
            self._file.close()
            raise DataError(f"another process adds a clip to {root}; try again") from err

    def entries(self) -> list[Entry]:
        """What was added so far; a line that a power cut tore is none.

        Raises:
            DataError: A line is of another kind.
        """
        self._file.seek(0)
        *lines, _ = self._file.read().split(b"\n")
        try:
            return [Entry(**json.loads(line)) for line in lines if line]
        except (ValueError, TypeError) as err:
            raise DataError(f"{self._path} is damaged: {err}") from err

    def add(self, entry: Entry) -> None:
        """Note a clip.

        Raises:
            OSError: The disk is full; nothing is noted.
        """
        end = self._file.seek(0, 2)
        try:
            write_all(self._file, json.dumps(asdict(entry)).encode() + b"\n")
        except OSError:
            self._file.truncate(end)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
