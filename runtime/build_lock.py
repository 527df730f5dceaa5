"""One builder for one engine: a second process waits for it instead of building the same."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

POLL_S = 0.2


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Hold the right to write `path`; waits while another process or thread holds it.

    The system frees the lock when its holder ends, however it ends. Where there are no such locks
    (Windows, some network file systems) nobody waits: files are written whole all the same.

    Args:
        path: What is going to be written; its folder exists.
    """
    lock = path.with_name(f".{path.name}.lock")
    file = _acquired(lock)
    try:
        yield
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)  # while it is held: a waiter sees that it is gone
            file.close()


def _acquired(lock: Path) -> IO[str] | None:
    told = False
    while True:
        file = lock.open("w")
        try:
            lock_now(file.fileno())
        except BlockingIOError:
            file.close()
        except OSError as err:
            logger.warning("building without a lock: %s", err)
            return file
        except BaseException:
            file.close()
            raise
        else:
            if _is_still(lock, file):
                return file
            file.close()  # its holder has removed it: what we hold is no file any more
            continue
        if not told:
            logger.warning("another process builds this engine; waiting for it")
            told = True
        time.sleep(POLL_S)


def _is_still(lock: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def lock_now(descriptor: int) -> None:
        """Windows has no such lock."""

else:
    import fcntl

    def lock_now(descriptor: int) -> None:
        """Lock an open file, or raise `BlockingIOError`."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
