"""Frames of a recording as numbered pictures in a folder.

Data sets name them in many ways (`00001.jpg`, `img_00001.jpg`, `image_00001.jpg`): the folder's
own names decide, in the order of their numbers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.preprocess import Picture
from runtime.sources.capture import quiet_native_logs, rgb_from_bgr
from runtime.sources.images import FLOW_PREFIX, SUFFIXES

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\.\w+)")
_FIELD = re.compile(r"\{(:0?\d*d)?\}")


class FrameFolder:
    """Frames of a folder of pictures by their number.

    Args:
        path: The folder.
        fps: Pictures a second.
        template: Names of the pictures as Python's `str.format` writes them, such as
            `img_{:05d}.jpg`; None reads it off the folder.

    Attributes:
        names: The pictures' file names in order.
        num_gaps: Numbers missing in the sequence; a gap keeps its time.

    Raises:
        DataError: No folder, no numbered pictures, or several kinds of names.
        ValueError: A wrong `fps` or template.
    """

    def __init__(self, path: Path, *, fps: float = 25.0, template: str | None = None) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be > 0, got {fps} ({path})")
        if not path.is_dir():
            raise DataError(f"{path} is not there; it should be a folder of pictures")
        quiet_native_logs()
        self.path = path
        found = _numbered(path, template)
        numbers = np.array(sorted(found), np.int64)
        self.names = [found[int(number)] for number in numbers]
        step = int(np.median(np.diff(numbers))) if len(numbers) > 1 else 1
        self.num_gaps = int((numbers[-1] - numbers[0]) // step + 1 - len(numbers))
        self.times_s: NDArray[np.float64] = (numbers - numbers[0]) / (step * fps)
        self.frame_s = 1 / fps

    @property
    def duration_s(self) -> float:
        """Seconds from the first picture to the end of the last."""
        return float(self.times_s[-1]) + self.frame_s

    def frames(self, indices: NDArray[np.int64]) -> list[Picture]:
        """Pictures by position.

        Args:
            indices: Positions 0..F-1, shape (N,), in any order, repeats allowed.

        Returns:
            N pictures, (H, W, 3), uint8, RGB. A repeated position gives the same array.

        Raises:
            ValueError: A position outside 0..F-1.
            DataError: A picture that cannot be decoded, or is cut short.
        """
        wanted = np.unique(np.asarray(indices, np.int64))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self.names):
            raise ValueError(
                f"{self.path} has frames 0..{len(self.names) - 1}, got {wanted[0]}..{wanted[-1]}"
            )
        found = {int(i): read_picture(self.path / self.names[i]) for i in wanted}
        return [found[int(i)] for i in indices]

    def close(self) -> None:
        """Nothing is kept open."""

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_picture(path: Path) -> Picture:
    """Read one picture file.

    Args:
        path: A JPEG, PNG, BMP or WebP file.

    Returns:
        The picture, shape (H, W, 3), uint8, RGB, turned as its EXIF data say.

    Raises:
        DataError: The file is missing, no picture, or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror}") from err
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise DataError(f"{path} is no picture or damaged ({len(data)} bytes); replace the file")
    return rgb_from_bgr(image)


def _numbered(path: Path, template: str | None) -> dict[int, str]:
    """File names by number, of the one kind that is there."""
    names = sorted(
        entry.name
        for entry in os.scandir(path)
        if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES
    )
    pattern = _NUMBERED if template is None else _pattern(template)
    kinds: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            kind = (match["before"], match["after"].lower())
            kinds.setdefault(kind, {})[int(match["number"])] = name
    if template is None and len(kinds) > 1:
        kinds = {
            kind: found for kind, found in kinds.items() if not kind[0].startswith(FLOW_PREFIX)
        }
    if not kinds:
        expected = f"named like {template}" if template else f"({', '.join(SUFFIXES)})"
        raise DataError(f"{path} holds no numbered pictures {expected}, of {len(names)} pictures")
    if len(kinds) > 1:
        shown = ", ".join(f"{before}…{after}" for before, after in sorted(kinds)[:4])
        raise DataError(f"{path} holds pictures of several kinds ({shown}); give a template")
    return next(iter(kinds.values()))


def _pattern(template: str) -> re.Pattern[str]:
    """A name template as a regular expression."""
    parts = _FIELD.split(template)
    if len(parts) != 3:
        raise ValueError(f"a template has one field such as {{:05d}}, got {template!r}")
    before, _, after = (re.escape(part or "") for part in parts)
    return re.compile(rf"(?P<before>{before})(?P<number>\d+)(?P<after>{after})")
