"""How far calibration is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm import tqdm

from runtime.command import say

LINE_EVERY_S = 30.0


class CalibrationBar:
    """Clips a second and the time that is left.

    Args:
        total: Clips in all.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._known = self._done = 0
        self._started_s = self._line_s = time.monotonic()
        self._bar = tqdm(total=total, desc="calibrate", unit="clip", disable=None)

    def __enter__(self) -> CalibrationBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """So many more clips are done; several at once are from an earlier run."""
        self._done += count
        if count > 1:
            self._known += count
        if self._bar.disable:
            self._say()
        elif count > 1:  # they say nothing about the speed
            self._bar.initial = self._bar.n = self._bar.last_print_n = self._done
            self._bar.refresh()
        else:
            self._bar.update(1)

    def _say(self) -> None:
        now_s = time.monotonic()
        if now_s - self._line_s < LINE_EVERY_S or self._done == self._known:
            return
        self._line_s = now_s
        rate = (self._done - self._known) / (now_s - self._started_s)
        left = tqdm.format_interval(int((self._total - self._done) / rate))
        say(
            f"calibrate: {self._done} of {self._total} clips, {rate:.2f} clips/s, {left} left",
        )
