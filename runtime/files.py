"""Files that are either whole or not there: write under a temporary name, then rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place only if the body succeeds.

    The temporary name keeps the suffix, because video and image writers choose by it.

    Raises:
        OSError: The folder cannot be written (full disk, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with about(path):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Name `path` in the system's errors that name no file: a write to a full disk knows none."""
    try:
        yield
    except OSError as err:
        if err.errno is not None and err.filename is None:
            err.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all."""
    with whole_file(path) as part:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def write_all(file: BinaryIO | FileIO, data: bytes) -> None:
    """Write bytes to an unbuffered file, which may take them in parts.

    Raises:
        OSError: The disk is full or gone; a part may be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
