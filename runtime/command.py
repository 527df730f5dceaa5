"""How every command of the project ends: one clear line and a status, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from runtime.errors import TdrlError

INTERRUPTED = 130  # the shell's number for a command ended by Ctrl-C


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's body and turn the world's failures into one line and a status.

    Args:
        main: The command; returns its status, None for 0.

    Returns:
        The status to exit with: 0 fine, 1 for anything a user can cause, 130 after Ctrl-C.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
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
        print(f"error: {one_line(err)}", file=sys.stderr)  # noqa: T201  the command's last line
        return 1
    return status


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
