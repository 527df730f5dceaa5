"""A folder of pictures as a source: in natural order, at a constant rate."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError
from runtime.sources.bgr_frame import frame_from_bgr
from runtime.sources.capture import quiet_native_logs
from runtime.sources.clock import DEFAULT_FPS
from runtime.sources.frame import Frame, SourceCounts
from runtime.sources.pace import Pace

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SHOWN_FAILURES = 5
# Some data sets keep optical flow beside the pictures: `flow_x_00001.jpg`.
FLOW_PREFIX = "flow"

logger = logging.getLogger(__name__)


class ImageFolder:
    """Gives a folder's pictures, `2.jpg` before `10.jpg`; their sizes may differ.

    Pictures of optical flow are left out where there are others.

    A picture that cannot be read is left out and counted, and its time passes.

    Args:
        path: The folder.
        name: Its name for people; the path where it is None.
        fps: Pictures a second; 25 where it is None.
        times_s: Stream time of every picture, instead of a constant rate.
        realtime: Give pictures no earlier than their time.

    Attributes:
        unreadable: Pictures left out so far.

    Raises:
        SourceError: No such folder, no picture in it, or not as many as times.
    """

    is_live = False

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        fps: float | None = None,
        times_s: Sequence[float] | None = None,
        realtime: bool = False,
    ) -> None:
        quiet_native_logs()
        self.name = name or str(path)
        self.fps = fps or (_rate(times_s) if times_s else DEFAULT_FPS)
        self.unreadable = 0
        self._pace = Pace() if realtime else None
        self._captured = 0
        self._stopped = False
        self._paths = _pictures_of(path)
        self._times_s = times_s
        if times_s is not None and len(times_s) != len(self._paths):
            raise SourceError(
                f"{self.name} should hold {len(times_s)} pictures and holds {len(self._paths)}; "
                "copy it again"
            )
        if fps is None and times_s is None:
            logger.warning("%s: %g pictures a second; say ?fps= if not", self.name, self.fps)

    @property
    def counts(self) -> SourceCounts:
        """Pictures read so far."""
        return SourceCounts(captured=self._captured)

    def __iter__(self) -> Iterator[Frame]:
        """Give every picture that can be read.

        Raises:
            SourceError: Not one of them could be read.
        """
        for number, path in enumerate(self._paths):
            if self._stopped:
                return
            grabbed_ns = time.monotonic_ns()
            picture = self._read(path)
            if picture is None:
                continue
            time_s = number / self.fps if self._times_s is None else self._times_s[number]
            if self._pace is not None:
                self._pace.wait(time_s, lambda: self._stopped)
                grabbed_ns = time.monotonic_ns()
            self._captured += 1
            yield frame_from_bgr(picture, number, time_s, grabbed_ns)
        if self.unreadable:
            logger.warning("%s: %d pictures could not be read", self.name, self.unreadable)
        if self._captured == 0:
            raise SourceError(f"{self.name}: none of {len(self._paths)} pictures can be read")

    def stop(self) -> None:
        """End the iteration before the next picture."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is kept open."""
        self._stopped = True

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, path: Path) -> NDArray[Any] | None:
        """A picture, (H, W, 3) uint8 BGR; None, counted, where the file is missing or damaged."""
        try:
            data = path.read_bytes()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except (OSError, cv2.error):  # a size that OpenCV refuses is an error, damage is None
            image = None
        if image is not None:
            return image
        self.unreadable += 1
        if self.unreadable <= SHOWN_FAILURES:
            logger.warning("%s cannot be read; left out", path)
        return None


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value.

    Example:
        >>> sorted(["f10.jpg", "f9.jpg", "f01.jpg"], key=natural_key)
        ['f01.jpg', 'f9.jpg', 'f10.jpg']
    """
    parts = re.split(r"([0-9]{1,18})", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)] + [(0, name)]


def _rate(times_s: Sequence[float]) -> float:
    """Pictures a second, on average; of one picture the default."""
    length_s = times_s[-1] - times_s[0]
    return (len(times_s) - 1) / length_s if length_s > 0 else DEFAULT_FPS


def _pictures_of(path: Path) -> list[Path]:
    try:
        found = [
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        ]
    except OSError as err:
        raise SourceError(f"{path} cannot be opened: {err.strerror}") from err
    if not found:
        raise SourceError(
            f"{path} holds no pictures ({', '.join(SUFFIXES)}); a folder source needs them"
        )
    pictures = [entry for entry in found if not entry.name.startswith(FLOW_PREFIX)] or found
    return sorted(pictures, key=lambda entry: natural_key(entry.name))
