"""Stream times that only rise, from timestamps that do not always.

OpenCV states 0 for a frame without a timestamp: all frames of an elementary stream, the first
frame of most RTSP connections, what a decoder flushes when its connection dies.
"""

from __future__ import annotations

DEFAULT_FPS = 25.0


class FileClock:
    """Stream times of a file's frames: its timestamps, or counted by its frame rate.

    Example:
        >>> clock = FileClock(fps=25)
        >>> [clock.time_of(pos_msec) for pos_msec in (0, 0, 40, 120)]
        [0.0, 0.04, 0.08, 0.12]
    """

    def __init__(self, fps: float) -> None:
        self.last_s = 0.0
        self._fps = fps
        self._first = True

    def time_of(self, pos_msec: float) -> float:
        """Stream time in seconds of the next frame.

        Args:
            pos_msec: The timestamp that the capture states, in milliseconds.
        """
        stated_s = pos_msec / 1000
        if self._first:
            self.last_s = max(0.0, stated_s)
            self._first = False
        else:
            self.last_s = stated_s if stated_s > self.last_s else self.last_s + 1 / self._fps
        return self.last_s


class LiveClock:
    """Stream times of one connection: its timestamps, or counted by the frames' grab times.

    FFmpeg (measured with OpenCV 5.0) states no time for the first frame of most RTSP connections,
    and counts the others from the second: so a first 0 is no time where the next is not later. Then
    the first is given at once as 0, the second one frame after it, and the others follow.

    Args:
        fps: Nominal frames a second: how far apart those two are.

    Example:
        >>> clock = LiveClock(fps=25)
        >>> [round(clock.time_of(pos_msec, grabbed_ns), 3)
        ...  for pos_msec, grabbed_ns in ((80, 0), (120, 40e6), (0, 81e6), (200, 120e6))]
        [0.08, 0.12, 0.161, 0.2]
        >>> clock = LiveClock(fps=25)
        >>> [round(clock.time_of(pos_msec, 0), 3) for pos_msec in (0, -120, -80, -40)]
        [0.0, 0.04, 0.08, 0.12]
    """

    def __init__(self, fps: float) -> None:
        self._interval_s = 1 / fps
        self._shift_s = 0.0
        self._may_lack_first = False
        self._last: tuple[float, int] | None = None

    def time_of(self, pos_msec: float, grabbed_ns: int) -> float:
        """Stream time in seconds of the next frame.

        Args:
            pos_msec: The timestamp that the capture states, in milliseconds.
            grabbed_ns: Monotonic clock when the frame was grabbed.
        """
        stated_s = pos_msec / 1000
        if self._may_lack_first and stated_s <= 0:
            self._shift_s = self._interval_s - stated_s
        self._may_lack_first = self._last is None and stated_s == 0
        time_s = stated_s + self._shift_s
        if self._last is not None and time_s <= self._last[0]:
            time_s = self._last[0] + (grabbed_ns - self._last[1]) / 1e9
        self._last = (time_s, grabbed_ns)
        return time_s
