"""Opening cv2 captures: backends, time limits, colour, and errors that say what to do.

Everything past this module is RGB.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError
from runtime.preprocess import Picture
from runtime.sources.uri import SourceUri

OPEN_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 2.0
# -8 is AV_LOG_QUIET. FFmpeg prints URLs with their passwords when it cannot open them.
FFMPEG_LOG_VARIABLE = "OPENCV_FFMPEG_LOGLEVEL"
FFMPEG_QUIET = "-8"
OPENCV_SILENT = 0


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use."""

    def grab(self) -> bool:
        """Take the next frame; False when there is none."""
        ...

    def retrieve(self) -> tuple[bool, NDArray[Any]]:
        """Decode the frame taken last, (H, W, 3) uint8 BGR."""
        ...

    def get(self, propId: int) -> float:  # noqa: N803  cv2's name
        """Read a property."""
        ...

    def release(self) -> None:
        """Free the device."""
        ...


def open_capture(uri: SourceUri) -> cv2.VideoCapture:
    """Open a source with time limits.

    Args:
        uri: What to open.

    Returns:
        An open capture. The caller releases it.

    Raises:
        SourceError: It cannot be opened; the message says what was found and what to do.
    """
    quiet_native_logs()
    explain_unusable(uri)
    try:
        capture = _open(uri)
    except cv2.error as err:
        raise SourceError(f"{uri.name} cannot be opened ({type(err).__name__})") from err
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{uri.name} cannot be opened; {_advice(uri)}")
    return capture


def explain_unusable(uri: SourceUri) -> None:
    """Refuse early what can be seen without opening anything.

    Raises:
        SourceError: No such file or device, a folder, no permission.
    """
    if uri.kind == "network":
        return
    path = _device_path(uri) if uri.kind == "camera" else Path(uri.target)
    if path is None:
        return
    if not path.exists():
        raise SourceError(
            f"{uri.name} cannot be opened: no such {_noun(uri)} ({path}){_others(uri)}"
        )
    if path.is_dir():
        raise SourceError(f"{uri.name} is a folder; --source takes one video file")
    if not os.access(path, os.R_OK):
        group = "; add the user to the group `video`" if uri.kind == "camera" else ""
        raise SourceError(f"{uri.name} cannot be opened: no permission to read {path}{group}")


def rgb_from_bgr(image: NDArray[Any]) -> Picture:
    """OpenCV's picture as RGB.

    Args:
        image: Shape (H, W, 3) BGR or (H, W) grey, uint8.

    Returns:
        The picture, shape (H, W, 3), uint8, RGB.
    """
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def nominal_fps(capture: Capture) -> float | None:
    """Frames a second that the header states; None where it does not, or states nonsense."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0.1 <= fps <= 1000 else None


def quiet_native_logs() -> None:
    """Keep FFmpeg's and OpenCV's own lines off stderr, unless the user asked for them.

    FFmpeg reads the variable when a capture is first opened in the process.
    """
    os.environ.setdefault(FFMPEG_LOG_VARIABLE, FFMPEG_QUIET)
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    native_log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4.6 has the call in cv2 itself
    native_log.setLogLevel(OPENCV_SILENT)


def _open(uri: SourceUri) -> cv2.VideoCapture:
    if uri.kind == "camera":
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        if uri.target.isdecimal():
            return cv2.VideoCapture(int(uri.target), backend)
        return cv2.VideoCapture(uri.target, backend)
    # absolute, so that FFmpeg cannot read a file name as a protocol
    target = uri.target if uri.kind == "network" else str(Path(uri.target).resolve())
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(OPEN_TIMEOUT_S * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(READ_TIMEOUT_S * 1000),
    ]
    return cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)


def _device_path(uri: SourceUri) -> Path | None:
    """The device file of a camera; None where cameras have none."""
    if uri.target.isdecimal():
        return Path(f"/dev/video{uri.target}") if sys.platform == "linux" else None
    return Path(uri.target)


def _others(uri: SourceUri) -> str:
    if uri.kind == "file":
        return ""
    cameras = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"; cameras here: {', '.join(cameras) or 'none'}"


def _noun(uri: SourceUri) -> str:
    return "camera" if uri.kind == "camera" else "file"


def _advice(uri: SourceUri) -> str:
    if uri.kind == "camera":
        return "is another program using it? (fuser /dev/video*)"
    if uri.kind == "network":
        return f"check address, password and network (waited up to {OPEN_TIMEOUT_S:g} s)"
    return "it is no video, damaged, or of a format that this OpenCV cannot decode"
