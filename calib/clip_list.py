"""The list of calibration clips: one JSON object a line, written by export, read here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.errors import DataError
from runtime.files import whole_file


@dataclass(frozen=True)
class CalibrationClip:
    """A labelled part of a recording.

    Attributes:
        path: A video file, or a folder of pictures.
        start_s: Start, seconds of stream time.
        end_s: End, seconds of stream time.
        label: Class name.
        fps: Pictures a second of a folder; 0 where the file says so.
    """

    path: str
    start_s: float
    end_s: float
    label: str
    fps: float

    def __post_init__(self) -> None:
        if not (isinstance(self.path, str) and isinstance(self.label, str)):
            raise TypeError(f"path and label must be text, got {self.path!r} and {self.label!r}")
        if not 0 <= self.start_s < self.end_s:
            raise ValueError(f"a clip needs 0 <= start_s < end_s, got {self.start_s}..{self.end_s}")


def write_clip_list(path: Path, clips: Iterable[CalibrationClip]) -> None:
    """Write a clip list, whole or not at all."""
    # ASCII: a path may hold bytes that are no UTF-8, or what Unicode calls a line separator
    lines = [json.dumps(asdict(clip)) + "\n" for clip in clips]
    with whole_file(path) as part:
        part.write_text("".join(lines), encoding="ascii")


def read_clip_list(path: Path) -> list[CalibrationClip]:
    """Read a clip list.

    Raises:
        DataError: The file is missing or empty, or a line is wrong; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path} cannot be read: {err}; export writes it") from err
    clips = []
    for number, line in enumerate(lines, start=1):
        try:
            clips.append(CalibrationClip(**json.loads(line)))
        except (ValueError, TypeError) as err:
            raise DataError(f"{path} line {number} is no calibration clip: {err}") from err
    if not clips:
        raise DataError(f"{path} lists no clips; calibration needs real ones")
    return clips
