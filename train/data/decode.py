"""One door to recordings: a video file or a folder of pictures, frames by number."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Picture
from train.data.frame_folder import FrameFolder
from train.data.packet_index import VideoFacts
from train.data.video_reader import VideoReader

DEFAULT_FPS = 25.0


class FrameReader(Protocol):
    """Frames of one recording by their number. A context manager that closes the file."""

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Times of the frames, shape (F,), ascending, seconds of stream time."""
        ...

    @property
    def frame_s(self) -> float:
        """Median spacing of the frames, seconds."""
        ...

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the stream to the end of the last frame."""
        ...

    def frames(self, indices: NDArray[np.int64]) -> list[Picture]:
        """Pictures (H, W, 3), uint8, RGB, for numbers 0..F-1 in any order."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def __enter__(self) -> FrameReader:
        """The reader itself."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Close the file."""
        ...


def open_frames(
    path: Path, *, fps: float = DEFAULT_FPS, template: str | None = None
) -> FrameReader:
    """Open a recording.

    Args:
        path: A video file, or a folder of numbered pictures.
        fps: Pictures a second of a folder; a video file has its own times.
        template: Names of a folder's pictures, such as `img_{:05d}.jpg`; None reads them off.

    Returns:
        A reader; the caller closes it.

    Raises:
        DataError: Missing, unreadable, cut short, without frames, or of an unknown codec.
    """
    if path.is_dir():
        return FrameFolder(path, fps=fps, template=template)
    return VideoReader(path)


def probe(path: Path, *, fps: float = DEFAULT_FPS, template: str | None = None) -> VideoFacts:
    """What a recording holds: a video's packets are listed and one frame is decoded.

    Args:
        path: As in `open_frames`.
        fps: As in `open_frames`.
        template: As in `open_frames`.

    Raises:
        DataError: As in `open_frames`; or a folder's first picture is broken.
    """
    if not path.is_dir():
        with VideoReader(path) as video:
            return video.index.facts
    with FrameFolder(path, fps=fps, template=template) as folder:
        height_px, width_px = folder.frames(np.array([0]))[0].shape[:2]
        return VideoFacts(
            num_frames=len(folder.names),
            duration_s=folder.duration_s,
            fps=fps,
            height_px=height_px,
            width_px=width_px,
            codec=Path(folder.names[0]).suffix.lower().lstrip("."),
            pix_fmt="",
            rotation=0,
        )
