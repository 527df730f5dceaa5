"""One labelled clip of a data set: a part of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VideoSegment:
    """A labelled part of a recording.

    Attributes:
        path: A video file, or a folder of pictures.
        start_s: Start, seconds of stream time.
        end_s: End, seconds of stream time; None is the recording's end.
        label: Class index.
        group: Recording or session it comes from; empty where unknown.
        fps: Pictures a second of a folder; None where the file says so.
        template: File names of a folder's pictures; None reads them off.
    """

    path: Path
    start_s: float
    end_s: float | None
    label: int
    group: str = ""
    fps: float | None = None
    template: str | None = None
