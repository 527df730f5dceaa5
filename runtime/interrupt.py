"""Ctrl-C and SIGTERM as a request to finish, instead of an exception anywhere."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ECHO_S = 1.0
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


def stop_numbers() -> tuple[signal.Signals, ...]:
    """The signals that mean: finish. Ctrl-C, SIGTERM, and a terminal that was closed.

    SIGHUP without a terminal, as service managers and their tools send it, is no reason to end.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    return (*numbers, HANGUP) if HANGUP is not None and _has_terminal() else numbers


@contextmanager
def outlive_hangup() -> Iterator[None]:
    """Ignore SIGHUP within the block where no terminal could be closed.

    Raises:
        ValueError: Called outside the main thread.
    """
    if HANGUP is None or _has_terminal():
        yield
        return
    usual = signal.signal(HANGUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(HANGUP, usual)


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` on the first of `stop_numbers` that comes within the block.

    One that comes a second or more later acts as usual, for a run that does not finish. Sooner
    it is an echo: `timeout`, shells and service managers signal a process and then its group.

    Args:
        stop: Called in a signal handler: it may set a flag, and wait for nothing.

    Yields:
        The signals that came, in order.

    Raises:
        ValueError: Called outside the main thread.
    """
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in stop_numbers()}

    first_s = math.inf

    def finish(number: int, _: FrameType | None) -> None:
        nonlocal first_s
        received.append(number)
        now_s = time.monotonic()
        if now_s - first_s >= ECHO_S:
            signal.signal(number, usual[signal.Signals(number)])
            signal.raise_signal(number)
        first_s = min(first_s, now_s)
        stop()

    for number in usual:
        signal.signal(number, finish)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    """Whether a terminal is on the standard input: not under a service manager or nohup."""
    try:
        return os.isatty(0)
    except OSError:
        return False
