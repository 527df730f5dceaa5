"""Frames that are already in memory, as a source: tapes in evaluation, tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from runtime.preprocess import Picture
from runtime.sources.frame import Frame, SourceCounts


class MemorySource:
    """Gives frames from any iterable, in order, as fast as they are taken.

    Example:
        >>> import numpy as np
        >>> pictures = np.zeros((3, 8, 8, 3), np.uint8)
        >>> [frame.stream_time_s for frame in MemorySource.of_pictures(pictures, fps=4)]
        [0.0, 0.25, 0.5]
    """

    is_live = False

    def __init__(
        self, frames: Iterable[Frame], *, fps: float | None = None, name: str = "memory"
    ) -> None:
        self.name = name
        self.fps = fps
        self._frames = frames
        self._captured = 0
        self._stopped = False

    @classmethod
    def of_pictures(cls, pictures: Iterable[Picture], *, fps: float) -> MemorySource:
        """A source of pictures at a constant rate, the first one at 0 s.

        Args:
            pictures: Each (H, W, 3), uint8, RGB.
            fps: Frames a second, > 0.

        Raises:
            ValueError: `fps` is not > 0.
        """
        if not fps > 0:
            raise ValueError(f"fps must be > 0, got {fps}")
        frames = (
            Frame(picture, index, index / fps, time.monotonic_ns())
            for index, picture in enumerate(pictures)
        )
        return cls(frames, fps=fps)

    @property
    def counts(self) -> SourceCounts:
        """Frames given so far."""
        return SourceCounts(captured=self._captured)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            if self._stopped:
                return
            self._captured += 1
            yield frame

    def stop(self) -> None:
        """End the iteration before the next frame."""
        self._stopped = True

    def close(self) -> None:
        """Nothing to free."""
        self._stopped = True

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
