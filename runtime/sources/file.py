"""A video file: every frame, in order, the same ones every time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from runtime.errors import SourceError, SourceLostError
from runtime.sources.bgr_frame import frame_from_bgr
from runtime.sources.capture import nominal_fps, open_capture
from runtime.sources.clock import DEFAULT_FPS, FileClock
from runtime.sources.container import missing_bytes
from runtime.sources.frame import Frame, SourceCounts
from runtime.sources.pace import Pace
from runtime.sources.uri import SourceUri


class FileSource:
    """Reads a video file. Pictures are turned as the file's rotation says.

    Args:
        path: The video file.
        name: Its name for people; the path where it is None.
        realtime: Give frames no earlier than their stream time, as a camera would; none is
            dropped.

    Raises:
        SourceError: No such file, a folder, a name that OpenCV cannot take, or nothing that can
            be decoded.
    """

    is_live = False

    def __init__(self, path: Path, *, name: str | None = None, realtime: bool = False) -> None:
        self.name = name or str(path)
        self._path = path
        self._realtime = realtime
        self._captured = 0
        self._stopped = False
        _check_readable_name(path, self.name)
        self._capture = open_capture(SourceUri("file", str(path), self.name))
        self.fps = nominal_fps(self._capture)

    @property
    def counts(self) -> SourceCounts:
        """Frames decoded so far; a file drops none."""
        return SourceCounts(captured=self._captured)

    def __iter__(self) -> Iterator[Frame]:
        """Give every frame of the file.

        Raises:
            SourceLostError: The file was cut off; raised after the last frame that is there.
            SourceError: Not one frame could be decoded.
        """
        clock = FileClock(self.fps or DEFAULT_FPS)
        pace = Pace()
        while not self._stopped and self._capture.grab():
            grabbed_ns = time.monotonic_ns()
            time_s = clock.time_of(self._capture.get(cv2.CAP_PROP_POS_MSEC))
            decoded, image = self._capture.retrieve()
            if not decoded:
                continue
            if self._realtime:
                pace.wait(time_s, lambda: self._stopped)
                grabbed_ns = time.monotonic_ns()
            self._captured += 1
            yield frame_from_bgr(image, self._captured - 1, time_s, grabbed_ns)
        if not self._stopped:
            self._check_end(clock.last_s)

    def stop(self) -> None:
        """End the iteration before the next frame."""
        self._stopped = True

    def close(self) -> None:
        """Close the file."""
        self._stopped = True
        self._capture.release()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_end(self, last_s: float) -> None:
        if self._captured == 0:
            raise SourceError(f"{self.name} holds no frame that this OpenCV can decode")
        missing = missing_bytes(self._path)
        if missing:
            raise SourceLostError(
                f"{self.name} is cut off: it ends after {self._captured} frames at {last_s:.2f} s, "
                f"at least {missing} bytes are missing; copy the file again"
            )


def _check_readable_name(path: Path, name: str) -> None:
    """OpenCV (measured with 5.0.0) crashes the process at a path that is no UTF-8."""
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise SourceError(
            f"{name} cannot be opened: OpenCV reads no path that is not UTF-8; rename the file or "
            "its folder"
        ) from None
