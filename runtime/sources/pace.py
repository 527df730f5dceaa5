"""Waiting so that a recording's time passes like real time."""

from __future__ import annotations

import time
from collections.abc import Callable

NAP_S = 0.05


class Pace:
    """Ties a recording's clock to the real one at its first frame."""

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def wait(self, stream_time_s: float, stopped: Callable[[], bool]) -> None:
        """Wait until a frame is due.

        Args:
            stream_time_s: The frame's time on the recording's clock.
            stopped: Whether to give up waiting; asked every few hundredths of a second.
        """
        now_s = time.monotonic()
        if self._offset_s is None:
            self._offset_s = now_s - stream_time_s
        due_s = stream_time_s + self._offset_s
        while not stopped() and (left_s := due_s - time.monotonic()) > 0:
            time.sleep(min(NAP_S, left_s))
