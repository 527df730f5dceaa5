"""How every command of the project ends: one clear line and a status, never a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from runtime.errors import TdrlError

# the shell's numbers for a command ended by Ctrl-C and by SIGTERM
INTERRUPTED, TERMINATED = 130, 143
NO_ROOM = "make room on that disk and run the command again"
NOT_ALLOWED = "choose another place, or change who may write there"
ADVICE = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: NOT_ALLOWED,
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a command as Ctrl-C does, and nothing is left half-written."""


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's body and turn the world's failures into one line and a status.

    Args:
        main: The command; returns its status, None for 0.

    Returns:
        The status to exit with: 0 fine, 1 for anything a user can cause, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    try:
        with _sigterm_unwinds():
            status = main() or 0
            sys.stdout.flush()
    except _Terminated:
        print("terminated", file=sys.stderr)  # noqa: T201  the command's last line
        return TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201  the command's last line
        return INTERRUPTED
    except BrokenPipeError:
        # `command | head` closed our output: no news for anyone, and no second complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TdrlError, ValueError, OSError, ImportError, MemoryError) as err:
        if os.environ.get("TDRL_DEBUG"):
            raise
        print(f"error: {_said(err)}", file=sys.stderr)  # noqa: T201  the command's last line
        return 1
    return status


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Turn a SIGTERM within the block into an exception, unless somebody answers it already."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _said(err: BaseException) -> str:
    """An error on one line; one of the system's own with what it is about and what to do."""
    if isinstance(err, shutil.Error) and isinstance(err.args[0], list):
        _, where, text = err.args[0][0]  # all failures of a copied folder: the first is enough
    elif isinstance(err, OSError) and err.strerror:
        where, text = err.filename, err.strerror
    else:
        return one_line(err)
    advice = next((say for number, say in ADVICE.items() if os.strerror(number) in text), "")
    said = f"{where}: {text}" if where else text
    return " ".join(f"{said}; {advice}".rstrip("; ").split())


def say(text: str) -> None:
    """Print a command's result, or a part of it, at once: others may read it as it comes."""
    print(text, flush=True)  # noqa: T201  what a command is for


def one_line(err: BaseException) -> str:
    r"""What an error says, on one line.

    Example:
        >>> one_line(ValueError("window_s must be > 0,\n  got -1"))
        'window_s must be > 0, got -1'
        >>> one_line(MemoryError())
        'MemoryError'
    """
    return " ".join(str(err).split()) or type(err).__name__
