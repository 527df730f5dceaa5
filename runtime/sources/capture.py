"""Opening cv2 captures: backends, time limits, colour, and errors that say what to do.

Everything past this module is RGB.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError, SourceLostError, SourceRefusedError
from runtime.preprocess import Picture
from runtime.sources.gstreamer import (
    GstCapture,
    check_gstreamer,
    has_jetson_decoder,
    has_jetson_jpeg_decoder,
    missing_elements,
    warn_once,
)
from runtime.sources.network import check_address, explain_failure
from runtime.sources.pipelines import (
    Pipeline,
    csi_pipeline,
    rtsp_pipeline,
    usb_pipeline,
    user_pipeline,
)
from runtime.sources.uri import SourceUri, Wish

OPEN_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 2.0
# One to fill while another is read: pictures must not wait in a queue.
CAMERA_BUFFERS = 2
RTSP_SCHEMES = ("rtsp://", "rtsps://")
CSI_ELEMENTS = ("nvarguscamerasrc", "nvvidconv")
# -8 is AV_LOG_QUIET. FFmpeg prints URLs with their passwords when it cannot open them.
FFMPEG_LOG_VARIABLE = "OPENCV_FFMPEG_LOGLEVEL"
FFMPEG_QUIET = "-8"
OPENCV_SILENT = 0
# OpenCV's own option, and no counting of frames to guess a rate: a camera of 5 frames a second is
# open after 1.6 s instead of 5.2 (docs/measurements/soak.md). Where a rate was only to be guessed,
# FFmpeg may then say the double.
FFMPEG_OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
NETWORK_OPTIONS = "rtsp_flags;prefer_tcp|fpsprobesize;0"
# OpenCV waits 10 s for a V4L2 camera's picture otherwise.
V4L2_TIMEOUT_VARIABLE = "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"

logger = logging.getLogger(__name__)


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


def open_capture(uri: SourceUri, *, software_decode: bool = False) -> Capture:
    """Open a source with time limits.

    Args:
        uri: What to open.
        software_decode: Decode RTSP and Motion-JPEG on the CPU where a Jetson's hardware could.

    Returns:
        An open capture. The caller releases it.

    Raises:
        SourceLostError: It cannot be opened, and only a new process may; see `GstCapture`.
        SourceError: It cannot be opened; the message says what was found and what to do.
    """
    quiet_native_logs()
    explain_unusable(uri)
    if uri.kind == "network":
        check_address(uri, OPEN_TIMEOUT_S)
    pipeline = _pipeline(uri, software_decode=software_decode)
    try:
        if pipeline is None:
            return _open_with_opencv(uri)
        if uri.kind == "camera":
            return _open_camera_in_hardware(uri, pipeline)
        return _open_pipeline(uri, pipeline)
    except (SourceRefusedError, SourceLostError):
        raise
    except SourceError as err:
        if uri.kind != "network":
            raise
        if pipeline is not None:
            err = SourceError(f"{err}; --software-decode takes the CPU instead")
        raise explain_failure(uri) or err from None


def explain_unusable(uri: SourceUri) -> None:
    """Refuse early what can be seen without opening anything.

    Raises:
        SourceError: No such file or device, no permission, no GStreamer.
    """
    if uri.kind in ("csi", "pipeline"):
        check_gstreamer(uri.name)
    path = _path_of(uri)
    if path is not None:
        _explain_unusable_path(uri, path)


def _explain_unusable_path(uri: SourceUri, path: Path) -> None:
    noun = "camera" if uri.kind == "camera" else "file"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError(
            f"{uri.name} cannot be opened: no such {noun} ({_shown(uri, path)}){_others(uri)}"
        ) from None
    except (OSError, ValueError) as err:  # no folder on the way, a name too long
        reason = getattr(err, "strerror", None) or type(err).__name__
        raise SourceError(f"{uri.name} cannot be opened: {reason}") from None
    if uri.kind == "camera" and not stat.S_ISCHR(mode):
        raise SourceError(f"{uri.name} is no camera device; a file is given without /dev")
    if uri.kind == "file" and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SourceError(f"{uri.name} is no regular file; a pipe is read by gst:fdsrc or filesrc")
    if not os.access(path, os.R_OK):
        group = "; add the user to the group `video`" if uri.kind == "camera" else ""
        raise SourceError(
            f"{uri.name} cannot be opened: no permission to read {_shown(uri, path)}{group}"
        )


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

    The variables are read when a capture is first opened in the process.
    """
    os.environ.setdefault(FFMPEG_LOG_VARIABLE, FFMPEG_QUIET)
    os.environ.setdefault(V4L2_TIMEOUT_VARIABLE, str(round(READ_TIMEOUT_S)))
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    native_log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4.6 has the call in cv2 itself
    native_log.setLogLevel(OPENCV_SILENT)


def ask_for(capture: cv2.VideoCapture, wish: Wish, name: str) -> None:
    """Ask a V4L2 camera for a format, and say what it gives instead.

    Args:
        capture: The open camera.
        wish: What to ask for.
        name: The camera's name, for the log.
    """
    capture.set(cv2.CAP_PROP_BUFFERSIZE, CAMERA_BUFFERS)
    wanted: list[tuple[int, float | None, str]] = [
        (cv2.CAP_PROP_FRAME_WIDTH, wish.width_px, "width"),
        (cv2.CAP_PROP_FRAME_HEIGHT, wish.height_px, "height"),
        (cv2.CAP_PROP_FPS, wish.fps, "fps"),
    ]
    # the pixel format first: sizes and rates depend on it
    if wish.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, _fourcc_number(wish.fourcc))
    for key, value, _ in wanted:
        if value is not None:
            capture.set(key, value)
    given = {label: (value, capture.get(key)) for key, value, label in wanted if value is not None}
    other = [
        f"{label} {got:g} instead of {value:g}"
        for label, (value, got) in given.items()
        if abs(got - value) > 0.5
    ]
    if wish.fourcc is not None and capture.get(cv2.CAP_PROP_FOURCC) != _fourcc_number(wish.fourcc):
        other.append(f"another format than {wish.fourcc}")
    if other:
        logger.warning("%s gives %s (v4l2-ctl --list-formats-ext)", name, ", ".join(other))


def _fourcc_number(fourcc: str) -> int:
    return int.from_bytes(fourcc.encode("ascii"), "little")


def _pipeline(uri: SourceUri, *, software_decode: bool) -> Pipeline | None:
    """The GStreamer pipeline of a source; None where OpenCV reads it by itself."""
    if uri.kind == "csi":
        missing = missing_elements(CSI_ELEMENTS)
        if missing:
            raise SourceError(
                f"{uri.name} is for a Jetson's CSI camera, and this GStreamer has no "
                f"{' and no '.join(missing)}; a USB camera is --camera 0"
            )
        return csi_pipeline(int(uri.target), uri.wish)
    if uri.kind == "pipeline":
        return user_pipeline(uri.target)
    if software_decode:
        return None
    is_rtsp = uri.target.lower().startswith(RTSP_SCHEMES)
    if uri.kind == "network" and is_rtsp and has_jetson_decoder():
        return rtsp_pipeline(uri.target, hardware=True)
    device = _path_of(uri)
    is_jpeg = uri.kind == "camera" and uri.wish.fourcc == "MJPG"
    if is_jpeg and device is not None and has_jetson_jpeg_decoder():
        return usb_pipeline(str(device), uri.wish)
    return None


def _open_camera_in_hardware(uri: SourceUri, pipeline: Pipeline) -> Capture:
    """A USB camera by its pipeline; by OpenCV, which takes the nearest size, where that fails."""
    try:
        return _open_pipeline(uri, pipeline)
    except SourceLostError:
        raise
    except SourceError as err:
        warn_once(
            f"{err} (sizes and rates: v4l2-ctl --list-formats-ext); OpenCV reads it, on the CPU"
        )
        return _open_with_opencv(uri)


def _open_pipeline(uri: SourceUri, pipeline: Pipeline) -> Capture:
    return GstCapture(
        pipeline, uri.name, open_timeout_s=OPEN_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S
    )


def _open_with_opencv(uri: SourceUri) -> Capture:
    try:
        capture = _video_capture(uri)
    except cv2.error as err:
        raise SourceError(f"{uri.name} cannot be opened ({type(err).__name__})") from err
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{uri.name} cannot be opened; {_advice(uri)}")
    if uri.kind == "camera":
        ask_for(capture, uri.wish, uri.name)
    return capture


def _video_capture(uri: SourceUri) -> cv2.VideoCapture:
    if uri.kind == "camera":
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        if uri.target.isdecimal():
            return cv2.VideoCapture(int(uri.target), backend)
        return cv2.VideoCapture(uri.target, backend)
    if uri.kind == "network":
        os.environ.setdefault(FFMPEG_OPTIONS_VARIABLE, NETWORK_OPTIONS)
    # absolute, so that FFmpeg cannot read a file name as a protocol
    target = uri.target if uri.kind == "network" else str(Path(uri.target).resolve())
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(OPEN_TIMEOUT_S * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(READ_TIMEOUT_S * 1000),
    ]
    return cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)


def _path_of(uri: SourceUri) -> Path | None:
    """The file behind a source; None where there is none to look at."""
    if uri.kind == "file":
        return Path(uri.target)
    if uri.kind != "camera":
        return None
    if uri.target.isdecimal():
        return Path(f"/dev/video{uri.target}") if sys.platform == "linux" else None
    return Path(uri.target)


def _shown(uri: SourceUri, path: Path) -> str:
    return uri.name if uri.kind == "file" else str(path)


def _others(uri: SourceUri) -> str:
    if uri.kind == "file":
        return ""
    cameras = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"; cameras here: {', '.join(cameras) or 'none'} (--list-cameras)"


def _advice(uri: SourceUri) -> str:
    if uri.kind == "camera":
        return "is another program using it? (fuser /dev/video*)"
    if uri.kind == "network":
        return f"it gave no video that this OpenCV can decode within {OPEN_TIMEOUT_S:g} s"
    return "it is no video, damaged, or of a format that this OpenCV cannot decode"
