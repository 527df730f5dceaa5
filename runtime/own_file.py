"""Files that only this user can have written: plans are executable code."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.errors import EngineError


def own_bytes(path: Path) -> bytes:
    """Read a file that belongs to this user and that nobody else can write.

    Owner and contents come from one open file: it cannot be exchanged in between.

    Raises:
        EngineError: It cannot be read, or it is not this user's alone.
    """
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as err:
        raise EngineError(f"{path} cannot be read ({err.strerror}); run `make engine`") from err


def make_private(folder: Path) -> None:
    """Make a folder and, if it is new, keep it to this user.

    Raises:
        EngineError: It cannot be made or written.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
    except OSError as err:
        raise EngineError(
            f"the engine folder {folder} cannot be made ({err.strerror}); pass --engine-dir"
        ) from err
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EngineError(f"the engine folder {folder} cannot be written; pass --engine-dir")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows: the cache folder's own rights protect it
        return
    if status.st_uid != os.geteuid():
        raise EngineError(
            f"{path} belongs to user {status.st_uid}, you are {os.geteuid()}; a plan is executable "
            "code and only your own is run: delete it and run `make engine`"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{path} can be written by others; a plan is executable code: delete it and run "
            "`make engine`"
        )
