"""From the recognition loop to the thread that writes: in order, and never more than a bound."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

INBOX_BYTES = 64 << 20  # pictures of a second or two: 23 of 1280×720, 10 of 1920×1080
NOTE_BYTES = 1 << 10

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Items that wait for one taker.

    Args:
        max_bytes: Bytes that may wait.
        waits: Whether a giver waits for room, as a file may; a camera's loop must not.
    """

    def __init__(self, max_bytes: int = INBOX_BYTES, *, waits: bool) -> None:
        self._max_bytes = max_bytes
        self._waits = waits
        self._items: deque[tuple[Item, int]] = deque()
        self._num_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, num_bytes: int = NOTE_BYTES) -> bool:
        """Give an item.

        Args:
            item: Anything.
            num_bytes: Its size. One that is larger than the bound is taken when nothing waits.

        Returns:
            False where there was no room, or the inbox is closed.
        """
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._is_closed or self._has_room(num_bytes))
            if self._is_closed or not self._has_room(num_bytes):
                return False
            self._items.append((item, num_bytes))
            self._num_bytes += num_bytes
            self._changed.notify_all()
        return True

    def take(self) -> Item | None:
        """Wait for the next item; None once the inbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._items)
            if not self._items:
                return None
            item, num_bytes = self._items.popleft()
            self._num_bytes -= num_bytes
            self._changed.notify_all()
        return item

    def close(self) -> None:
        """Take no more; what waits can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        # notes have room of their own, so that a picture lost does not lose what it was kept for
        bound = self._max_bytes + (self._max_bytes // 8 if num_bytes == NOTE_BYTES else 0)
        return not self._items or self._num_bytes + num_bytes <= bound
