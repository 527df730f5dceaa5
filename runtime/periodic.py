"""A small job again and again on a thread of its own, for as long as something else runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

JOIN_S = 2.0

logger = logging.getLogger(__name__)


class Periodic:
    """Calls a job every so often, first after one interval.

    Args:
        interval_s: Seconds from one call to the next.
        job: What to call. One that fails is logged once and called again: it reports on the
            work, and must never end it.
        name: Name of the thread and of the job in the log.

    Raises:
        ValueError: `interval_s` is not > 0.
    """

    def __init__(self, interval_s: float, job: Callable[[], None], name: str) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s must be > 0, got {interval_s}")
        self._interval_s = interval_s
        self._job = job
        self._name = name
        self._failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def close(self) -> None:
        """End; waits for a call that is going on, but not for one that hangs."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def __enter__(self) -> Periodic:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            try:
                self._job()
            except Exception as err:  # noqa: BLE001  a report's failure is no reason to stop
                if not self._failed:
                    logger.warning("%s failed: %s: %s", self._name, type(err).__name__, err)
                self._failed = True
