"""Writes annotated video: H.264 through an `ffmpeg` binary where there is one, else MPEG-4.

The file appears under its name when it is finished; an interrupted run finishes it too.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from runtime.errors import OutputError
from runtime.files import whole_file
from runtime.preprocess import Picture

DEFAULT_FPS = 25.0
LONGEST_REPEAT_S = 2.0
SUFFIXES = (".mp4", ".mkv", ".mov")
CLOSE_TIMEOUT_S = 60

logger = logging.getLogger(__name__)


class Encoder(Protocol):
    """Takes pictures of one size at a constant rate."""

    def write(self, image_rgb: Picture) -> None:
        """Encode one picture."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class VideoWriter:
    """A video file at a constant rate from frames that come when they come.

    Frames are repeated or left out so that the video plays at the stream's pace; a pause longer
    than two seconds is cut to two. Nothing is written if no frame comes.

    Args:
        path: The file to make, `.mp4`, `.mkv` or `.mov`; its folder is made if needed.
        fps: Frames a second of the video.

    Raises:
        ValueError: Another suffix.
        OSError: The folder cannot be made.
    """

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"a video's name must end in {', '.join(SUFFIXES)}, got {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._fps = fps or DEFAULT_FPS
        self._files = ExitStack()
        self._encoder: Encoder | None = None
        self._size_px = (0, 0)
        self._written = 0
        self._start_s = 0.0

    def write(self, image_rgb: Picture, time_s: float) -> None:
        """Add a picture.

        Args:
            image_rgb: Shape (H, W, 3), uint8, RGB; later sizes are fitted to the first.
            time_s: Its stream time; a jump backwards goes on from where the video is.

        Raises:
            OutputError: The encoder failed.
        """
        if self._encoder is None:
            self._encoder = self._open(image_rgb, time_s)
        if image_rgb.shape[:2] != self._size_px:
            image_rgb = _resized(image_rgb, self._size_px)
        try:
            for _ in range(self._copies(time_s)):
                self._encoder.write(image_rgb)
                self._written += 1
        except OutputError:
            self._encoder = None
            self._files.__exit__(*sys.exc_info())  # drops the unfinished file
            raise

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises:
            OutputError: The encoder failed; nothing is left behind.
        """
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        with self._files:
            encoder.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self, image_rgb: Picture, time_s: float) -> Encoder:
        height, width = image_rgb.shape[:2]
        self._size_px = (height, width)
        self._start_s = time_s
        part = self._files.enter_context(whole_file(self._path))
        ffmpeg = find_ffmpeg()
        if ffmpeg is not None:
            return _FfmpegEncoder(ffmpeg, part, self._size_px, self._fps)
        logger.warning("no ffmpeg with libx264 on PATH: %s is MPEG-4 Part 2", self._path)
        return _OpencvEncoder(part, self._size_px, self._fps)

    def _copies(self, time_s: float) -> int:
        """How often a picture is written so that the video is as long as the stream."""
        due = round((time_s - self._start_s) * self._fps) + 1 - self._written
        longest = round(LONGEST_REPEAT_S * self._fps)
        if 0 <= due <= longest or self._written == 0:
            return max(0, due)
        copies = 1 if due < 0 else longest
        self._start_s = time_s - (self._written + copies - 1) / self._fps
        return copies


def find_ffmpeg() -> str | None:
    """Path of an `ffmpeg` that can write H.264, None where there is none."""
    path = shutil.which("ffmpeg")
    if path is None:
        return None
    try:
        listing = subprocess.run(
            [path, "-hide_banner", "-encoders"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path if b" libx264 " in listing.stdout else None


class _FfmpegEncoder:
    """H.264 through a pipe into ffmpeg, which runs in a session of its own: Ctrl-C is not its."""

    def __init__(self, ffmpeg: str, path: Path, size_px: tuple[int, int], fps: float) -> None:
        height, width = size_px
        command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo"]
        command += ["-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6g}", "-i", "-"]
        command += ["-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "21"]
        command += ["-pix_fmt", "yuv420p", str(path)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def write(self, image_rgb: Picture) -> None:
        """Encode one picture."""
        if self._process.stdin is None:
            raise OutputError("ffmpeg has no input; this video is closed")
        try:
            self._process.stdin.write(np.ascontiguousarray(image_rgb).data)
        except OSError as err:
            raise OutputError(f"ffmpeg stopped: {self._complaint()}") from err

    def close(self) -> None:
        """Finish the file."""
        try:
            _, complaint = self._process.communicate(timeout=CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired as err:
            self._process.kill()
            self._process.communicate()
            raise OutputError(f"ffmpeg did not finish within {CLOSE_TIMEOUT_S} s") from err
        if self._process.returncode != 0:
            raise OutputError(f"ffmpeg failed: {_last_line(complaint)}")

    def _complaint(self) -> str:
        self._process.kill()
        return _last_line(self._process.communicate()[1])


class _OpencvEncoder:
    """MPEG-4 Part 2 through OpenCV."""

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float) -> None:
        height, width = size_px
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, fps, (width, height))
        if not self._writer.isOpened():
            raise OutputError(f"OpenCV cannot write {path.suffix} video here; install ffmpeg")

    def write(self, image_rgb: Picture) -> None:
        """Encode one picture."""
        self._writer.write(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()


def _resized(image_rgb: Picture, size_px: tuple[int, int]) -> Picture:
    height, width = size_px
    return np.asarray(cv2.resize(image_rgb, (width, height)), np.uint8)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
