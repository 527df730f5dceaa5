"""The last seconds of a stream as JPEG bytes, from which a recording takes its beginning.

Kept are the frames that the model used, without which nothing can be replayed, and others between
them where they are sparse, so that people see motion and a training clip has frames to draw from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A frame between two used ones is kept this long after the last kept one: 30 frames a second
# become 15, 25 become 12.5, 15 stay 15.
SPARE_GAP_S = 0.06
RING_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Kept:
    """A frame that is kept.

    Attributes:
        time_s: Its stream time.
        jpeg: The picture.
        tick_s: Stream time of the tick that it served; None where the model did not see it.
        may_start: Whether a replay may begin with it: it served a tick of phase 0.
        decision: What the model said at it, as a line of the event file; None for nothing.
        lost_before: Frames right before it that should have been kept and were lost.
    """

    time_s: float
    jpeg: bytes
    tick_s: float | None = None
    may_start: bool = False
    decision: Mapping[str, Any] | None = None
    lost_before: int = 0


class FrameRing:
    """Frames of the last seconds.

    Args:
        hold_s: Seconds to keep, > 0.
        max_bytes: Bytes at most. Frames that the model did not use go first, then the oldest.

    Attributes:
        num_bytes: Bytes of its pictures.
    """

    def __init__(self, hold_s: float, max_bytes: int = RING_BYTES) -> None:
        self.num_bytes = 0
        self._hold_s = hold_s
        self._max_bytes = max_bytes
        self._frames: list[Kept] = []

    def __len__(self) -> int:
        """Frames in it."""
        return len(self._frames)

    def add(self, frame: Kept) -> None:
        """Add the newest frame; what is too old or too much goes."""
        self._frames.append(frame)
        self.num_bytes += len(frame.jpeg)
        while self._frames[0].time_s < frame.time_s - self._hold_s:
            self._remove(0)
        while self.num_bytes > self._max_bytes and len(self._frames) > 1:
            unused = (i for i, kept in enumerate(self._frames[:-1]) if kept.tick_s is None)
            self._remove(next(unused, 0))

    def clear(self) -> None:
        """Forget all: states start from zero, so nothing before can matter."""
        self._frames = []
        self.num_bytes = 0

    def since(self, time_s: float) -> list[Kept]:
        """The frames of a recording that should begin at a time.

        Returns:
            Frames from the last one at or before `time_s` that a replay may begin with, else from
            the first such; none where there is none.
        """
        starts = [i for i, kept in enumerate(self._frames) if kept.may_start]
        if not starts:
            return []
        early = [i for i in starts if self._frames[i].time_s <= time_s]
        return self._frames[early[-1] if early else starts[0] :]

    def _remove(self, place: int) -> None:
        self.num_bytes -= len(self._frames.pop(place).jpeg)
