"""Reads several sources at once, each on a thread of its own.

A source is asked for its next frame only when the last one was taken: so a live one still drops
what nobody can take, newest frame first, and a file waits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import SourceLostError, TdrlError
from runtime.sources.frame import Frame, FrameSource

CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class End:
    """What comes after a source's last frame.

    Attributes:
        failure: Why it ended before it should; None where it did not.
    """

    failure: TdrlError | OSError | None


class Readers:
    """Hands over the frames of several sources as they come, one a source at a time.

    Args:
        sources: The sources; `close` stops them.
    """

    def __init__(self, sources: Sequence[FrameSource]) -> None:
        self._sources = sources
        self._is_closed = False
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._taken = [threading.Condition(lock) for _ in sources]
        self._slots: list[Frame | End | None] = [None] * len(sources)
        self._threads = [
            threading.Thread(target=self._read, args=(row,), name=f"take {row}", daemon=True)
            for row in range(len(sources))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, timeout_s: float) -> list[tuple[int, Frame | End]]:
        """What came since the last call, at most one a source; waits where there is nothing.

        Args:
            timeout_s: The longest wait; 0 for none.

        Returns:
            The source's number and its frame, or its end, which comes once.
        """
        with self._arrived:
            if timeout_s > 0 and not any(self._slots):
                self._arrived.wait(timeout_s)
            found = [(row, item) for row, item in enumerate(self._slots) if item is not None]
            for row, _ in found:
                self._slots[row] = None
                self._taken[row].notify()
            return found

    def close(self) -> None:
        """Stop the sources and the threads; a second call does nothing."""
        for source in self._sources:
            source.stop()
        with self._arrived:
            self._is_closed = True
            for taken in self._taken:
                taken.notify()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, row: int) -> None:
        source = self._sources[row]
        # for what nobody foresaw: Python prints it, and the stream ends instead of hanging
        end = End(SourceLostError(f"reading {source.name} failed; see the log"))
        try:
            for frame in source:
                if not self._hand_over(row, frame):
                    break
            end = End(None)
        except (TdrlError, OSError) as err:
            end = End(err)
        finally:
            self._hand_over(row, end)

    def _hand_over(self, row: int, item: Frame | End) -> bool:
        """Wait until the last item was taken; False when nobody takes any more."""
        with self._taken[row]:
            while self._slots[row] is not None and not self._is_closed:
                self._taken[row].wait()
            self._slots[row] = item
            self._arrived.notify()
            return not self._is_closed
