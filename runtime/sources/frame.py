"""What a source gives: frames with their times, and counts of what happened to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.preprocess import Picture


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream, and when it was taken.

    Attributes:
        image_rgb: The picture, shape (H, W, 3), uint8, RGB.
        index: Number of the frame since the source was opened; gaps are dropped frames.
        stream_time_s: Seconds on the stream's own clock.
        grabbed_ns: Monotonic clock when the frame was grabbed, before decoding to RGB.
        connection: How often the source was lost and opened again before this frame; with each
            time stream times may start anew.
    """

    image_rgb: Picture
    index: int
    stream_time_s: float
    grabbed_ns: int
    connection: int = 0


@dataclass(frozen=True)
class SourceCounts:
    """What a source did so far.

    Attributes:
        captured: Frames the source grabbed.
        dropped: Frames that a newer one replaced before anyone asked; 0 for files.
        reconnects: Times a live source was opened again after it was lost.
        attempts: Times that was tried, with or without success.
    """

    captured: int = 0
    dropped: int = 0
    reconnects: int = 0
    attempts: int = 0


class FrameSource(Protocol):
    """An open source of frames. Iterating gives them in order, once.

    Iterating raises SourceLostError where the source ends before it should; a clean end of a
    file just ends the iteration.
    """

    @property
    def name(self) -> str:
        """Name for people, logs and events; never holds a password."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether frames come in real time, and are dropped where nobody takes them."""
        ...

    @property
    def fps(self) -> float | None:
        """Nominal frames a second, None where the source does not say."""
        ...

    @property
    def counts(self) -> SourceCounts:
        """What the source did so far."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Give frames until the source ends or is stopped."""
        ...

    def stop(self) -> None:
        """Make the iteration end soon; safe in a signal handler and from any thread."""
        ...

    def close(self) -> None:
        """Free the device or file; a second call does nothing."""
        ...

    def __enter__(self) -> Any:
        """Return the source itself."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Close the source."""
        ...
