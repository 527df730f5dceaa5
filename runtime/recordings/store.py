"""The folder of recordings: whole ones only, the oldest go first, a full disk stops nothing.

A recording is written under a hidden name and renamed when it is complete; what a crash left is
cleared at the next start. Only folders that this program wrote are ever counted or removed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from runtime.build_lock import lock_now
from runtime.files import write_all
from runtime.recordings.manifest import RECORDING_JSON, Manifest, is_recording

LARGEST_SHARE = 4  # a single recording may fill this part of the room: a quarter
LOCK = ".lock"
FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_LABEL_CHARS = 40

_NAME = r"\d{8}T\d{6}\.\d{3}Z-[\w.-]*"
_WHOLE = re.compile(_NAME, re.ASCII)
_PART = re.compile(rf"\.{_NAME}\.part", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreCounts:
    """What became of recordings in this run.

    Attributes:
        written: Recordings that are whole.
        lost: Recordings that could not be written.
        removed: Older ones that made room, of earlier runs too.
    """

    written: int = 0
    lost: int = 0
    removed: int = 0


class RecordingStore:
    """Recordings of a run, of all its streams. Safe from any thread.

    Args:
        root: The folder; made if needed, for its user alone.
        max_bytes: Bytes of all recordings at most, > 0.

    Raises:
        OSError: The folder cannot be written, or another run writes it.
        ValueError: `max_bytes` is not > 0.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be > 0, got {max_bytes}")
        self.root = root
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._written = self._lost = self._removed = 0
        self._lost_now = 0
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                root.mkdir(FOLDER_MODE)
            self._file = _locked(root)
        except OSError as err:
            if not err.strerror:  # it says what to do
                raise
            raise OSError(
                f"--record {root} cannot be written: {err.strerror}; give it a folder that you may "
                "write"
            ) from err
        for part in _folders(root, _PART):
            shutil.rmtree(part, ignore_errors=True)
        # in order of age; new ones are added at the end, so a clock set back changes nothing
        self._whole = {path.name: _size_of(path) for path in _folders(root, _WHOLE)}
        self._open: dict[str, int] = {}

    @property
    def counts(self) -> StoreCounts:
        """What became of recordings so far."""
        with self._lock:
            return StoreCounts(self._written, self._lost, self._removed)

    def begin(self, label: str) -> OpenRecording:
        """Begin a recording.

        Raises:
            OSError: There is no room, or the folder is gone.
        """
        with self._lock:
            name = self._new_name(label)
            part = _part_of(self.root, name)
            part.mkdir(FOLDER_MODE)
            self._open[name] = 0
        return OpenRecording(self, name, part)

    def make_room(self, name: str, num_bytes: int) -> bool:
        """Reserve bytes for an open recording; older ones go.

        Returns:
            Whether it may grow: False where it is as large as a single one may be, or where there
            is nothing left that could go.
        """
        with self._lock:
            size = self._open[name] + num_bytes
            if size > self.max_bytes // LARGEST_SHARE:
                return False
            while sum(self._whole.values()) + sum(self._open.values()) + num_bytes > self.max_bytes:
                if not self._whole:
                    return False
                self._remove(next(iter(self._whole)))
            self._open[name] = size
            return True

    def finish(self, name: str, more_bytes: int) -> None:
        """Give a complete recording its name.

        Args:
            name: The recording.
            more_bytes: What was written without asking for room.

        Raises:
            OSError: The folder is gone.
        """
        with self._lock:
            _part_of(self.root, name).replace(self.root / name)
            size = self._whole[name] = self._open.pop(name) + more_bytes
            self._written += 1
            lost, self._lost_now = self._lost_now, 0
        if lost:
            logger.warning("%s: written again, %d recordings were lost", self.root, lost)
        logger.info("recorded %s (%.1f MB)", self.root / name, size / 1e6)

    def drop(self, name: str) -> None:
        """Remove an open recording."""
        with self._lock:
            self._open.pop(name, None)
        shutil.rmtree(_part_of(self.root, name), ignore_errors=True)

    def lose(self, reason: str) -> None:
        """Count a recording that could not be written; the first of a row is told."""
        with self._lock:
            self._lost += 1
            self._lost_now += 1
            is_news = self._lost_now == 1
        if is_news:
            logger.error(
                "%s: no recording can be written: %s; they are lost until it can, the stream goes "
                "on",
                self.root,
                reason,
            )

    def close(self) -> None:
        """Let other runs have the folder; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> RecordingStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _new_name(self, label: str) -> str:
        now = datetime.now(timezone.utc)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label)[:MAX_LABEL_CHARS]
        base = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{plain}"
        name, number = base, 2
        while name in self._whole or name in self._open or (self.root / name).exists():
            name, number = f"{base}-{number}", number + 1
        return name

    def _remove(self, name: str) -> None:
        """Remove a recording, hidden first: a crash leaves no half one."""
        self._whole.pop(name)
        part = _part_of(self.root, name)
        with suppress(FileNotFoundError):  # the user moved or deleted it
            (self.root / name).rename(part)
            shutil.rmtree(part, ignore_errors=True)
            self._removed += 1
            logger.debug("%s made room", name)


class OpenRecording:
    """A recording that is being written; from `RecordingStore.begin`.

    Attributes:
        num_frames: Pictures so far.
    """

    def __init__(self, store: RecordingStore, name: str, part: Path) -> None:
        self.num_frames = 0
        self._store = store
        self._name = name
        self._part = part

    def add(self, jpeg: bytes) -> bool:
        """Write the next picture.

        Returns:
            False, with nothing written, where the recording must not grow any more.

        Raises:
            OSError: The disk is full or the folder gone.
        """
        if not self._store.make_room(self._name, len(jpeg)):
            return False
        _write_new(self._part / f"{self.num_frames:06d}.jpg", jpeg)
        self.num_frames += 1
        return True

    def finish(self, manifest: Manifest) -> None:
        """Complete it; it appears under its name.

        Raises:
            OSError: The disk is full or the folder gone.
        """
        text = json.dumps(manifest.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
        data = text.encode() + b"\n"
        _write_new(self._part / RECORDING_JSON, data)
        self._store.finish(self._name, len(data))

    def drop(self) -> None:
        """Remove what is written."""
        self._store.drop(self._name)


def _part_of(root: Path, name: str) -> Path:
    return root / f".{name}.part"


def _locked(root: Path) -> IO[bytes]:
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        lock_now(file.fileno())
    except BlockingIOError as err:
        file.close()
        raise OSError(f"{root} is written by another run; give each its own --record") from err
    except OSError:
        file.close()
        raise
    return file


def _folders(root: Path, pattern: re.Pattern[str]) -> list[Path]:
    found = [path for path in root.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    return sorted(path for path in found if pattern is _PART or is_recording(path))


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        write_all(file, data)
