"""Writes annotated video: H.264 through an `ffmpeg` binary where there is one, else MPEG-4.

The file appears under its name when it is finished; an interrupted run finishes it too. So does one
whose disk fills up: the index that makes an MP4 playable comes last, and room is kept for it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from runtime.command import one_line
from runtime.errors import OutputError
from runtime.files import whole_file
from runtime.preprocess import Picture

DEFAULT_FPS = 25.0
LONGEST_REPEAT_S = 2.0
SUFFIXES = (".mp4", ".mkv", ".mov")
CLOSE_TIMEOUT_S = 60
END_TIMEOUT_S = 5  # of a video that ends early: the stream waits for it
# What a video needs from the last look at its disk to its end: the pictures of a second and those
# that the encoder holds, counted in pictures before encoding; an entry of the index for each; more.
ROOM_PICTURES = 4
INDEX_BYTES = 32
ROOM_BYTES = 1 << 20
BYTES_PER_MB = 1_000_000

logger = logging.getLogger(__name__)


class Encoder(Protocol):
    """Takes pictures of one size at a constant rate."""

    def write(self, image_rgb: Picture) -> None:
        """Encode one picture."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish the file within so many seconds."""
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
        OSError: Nothing can be written there; no frame is needed to know.
    """

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"a video's name must end in {', '.join(SUFFIXES)}, got {path}")
        _try_to_write(path)
        self._path = path
        self._fps = fps or DEFAULT_FPS
        self._files = ExitStack()
        self._part = path
        self._encoder: Encoder | None = None
        self._has_ended = False
        self._size_px = (0, 0)
        self._written = 0
        self._next_check = 0
        self._start_s = 0.0

    def write(self, image_rgb: Picture, time_s: float) -> None:
        """Add a picture.

        Args:
            image_rgb: Shape (H, W, 3), uint8, RGB; later sizes are fitted to the first.
            time_s: Its stream time; a jump backwards goes on from where the video is.

        Raises:
            OutputError: The encoder failed or the disk is as good as full. The video has ended:
                what is playable of it has its name, nothing else is left.
        """
        if self._has_ended:
            raise OutputError(f"{self._path} has ended; nothing can be added")
        try:
            if self._encoder is None:
                self._encoder = self._open(image_rgb, time_s)
            if image_rgb.shape[:2] != self._size_px:
                image_rgb = _resized(image_rgb, self._size_px)
            for _ in range(self._copies(time_s)):
                self._check_room()
                self._encoder.write(image_rgb)
                self._written += 1
        except (OutputError, OSError) as err:
            raise self._end(err) from err

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises:
            OutputError: The encoder failed; nothing is left but what is playable.
        """
        if self._has_ended:
            return
        try:
            if self._encoder is not None:
                self._encoder.close(CLOSE_TIMEOUT_S)
                _check_whole(self._part)
                self._encoder = None
                self._files.close()
        except (OutputError, OSError) as err:
            raise self._end(err) from err
        self._has_ended = True

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self, image_rgb: Picture, time_s: float) -> Encoder:
        height, width = image_rgb.shape[:2]
        self._size_px = (height, width)
        self._start_s = time_s
        self._check_room()
        self._part = self._files.enter_context(whole_file(self._path))
        ffmpeg = find_ffmpeg()
        if ffmpeg is not None:
            return _FfmpegEncoder(ffmpeg, self._part, self._size_px, self._fps)
        logger.warning("no ffmpeg with libx264 on PATH: %s is MPEG-4 Part 2", self._path)
        return _OpencvEncoder(self._part, self._size_px, self._fps)

    def _check_room(self) -> None:
        """Once a second of video: refuse to go on where its end might not fit on the disk."""
        if self._written < self._next_check:
            return
        self._next_check = self._written + round(self._fps)
        height, width = self._size_px
        needed = ROOM_BYTES + ROOM_PICTURES * 3 * height * width + INDEX_BYTES * self._written
        disk = shutil.disk_usage(self._path.parent)
        if disk.free < needed and disk.total > 0:  # some network disks say 0 of 0
            raise OutputError(
                f"no room: {disk.free / BYTES_PER_MB:.1f} MB are free on its disk, "
                f"{needed / BYTES_PER_MB:.1f} MB are needed to go on"
            )

    def _end(self, err: OutputError | OSError) -> OutputError:
        """Keep what is playable of a video that cannot go on, remove the rest, and say so."""
        encoder, self._encoder, self._has_ended = self._encoder, None, True
        left = "nothing of it is kept"
        try:
            if encoder is not None and _is_finished(encoder, self._part):
                self._files.close()
                left = f"it ends after {self._written / self._fps:.1f} s"
            elif encoder is not None and _plays_without_its_end(self._part):
                self._files.close()
                left = "what plays of it is kept"
            else:
                self._files.__exit__(type(err), err, err.__traceback__)
        except OSError:
            left = "nothing of it is kept"
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        return OutputError(f"{self._path}: {reason}; {left}")

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

    def close(self, timeout_s: float) -> None:
        """Finish the file within so many seconds."""
        try:
            _, complaint = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as err:
            self._process.kill()
            self._process.communicate()
            raise OutputError(f"ffmpeg did not finish within {timeout_s} s") from err
        if self._process.returncode != 0:
            raise OutputError(f"ffmpeg failed: {_last_line(complaint)}")

    def _complaint(self) -> str:
        try:
            complaint = self._process.communicate(timeout=END_TIMEOUT_S)[1]
        except subprocess.TimeoutExpired:
            self._process.kill()
            complaint = self._process.communicate()[1]
        return _last_line(complaint)


class _OpencvEncoder:
    """MPEG-4 Part 2 through OpenCV, which never says that a disk is full."""

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float) -> None:
        height, width = size_px
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, fps, (width, height))
        if not self._writer.isOpened():
            raise OutputError(f"OpenCV cannot write {path.suffix} video here; install ffmpeg")

    def write(self, image_rgb: Picture) -> None:
        """Encode one picture."""
        self._writer.write(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))

    def close(self, timeout_s: float) -> None:
        """Finish the file; it takes no longer than writing a picture."""
        self._writer.release()


def _try_to_write(path: Path) -> None:
    """Make the folder of a video, and a file in it that goes at once.

    Raises:
        OSError: Nothing can be written there.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.stem}.part", dir=path.parent):
            pass
    except OSError as err:
        raise OSError(
            f"--output {path} cannot be written: {err.strerror or one_line(err)}; give it a file "
            "in a folder that you may write"
        ) from err


def _resized(image_rgb: Picture, size_px: tuple[int, int]) -> Picture:
    height, width = size_px
    return np.asarray(cv2.resize(image_rgb, (width, height)), np.uint8)


def _is_finished(encoder: Encoder, path: Path) -> bool:
    try:
        encoder.close(END_TIMEOUT_S)
        _check_whole(path)
    except (OutputError, OSError):
        return False
    return True


def _plays_without_its_end(path: Path) -> bool:
    """Whether players show what there is of a cut video: of an MKV, but not of an MP4."""
    if path.suffix.lower() != ".mkv":
        return False
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return video.read()[0]
    finally:
        video.release()


def _check_whole(path: Path) -> None:
    """Look at a finished file: encoders may say that all is well where the disk took only a part.

    Raises:
        OutputError: An MP4 or MOV without its index, which comes last.
        OSError: An MKV that cannot grow; it is found so where it was cut, and has no better mark.
    """
    with path.open("r+b", buffering=0) as file:
        size = file.seek(0, 2)
        if path.suffix.lower() == ".mkv":
            file.write(b"\0")
            file.truncate(size)
        elif not _has_index(file, size):
            raise OutputError("the file could not be finished, as on a full disk")


def _has_index(file: FileIO, size: int) -> bool:
    """Whether the box `moov` of an MP4 or MOV is there and whole (ISO/IEC 14496-12, 4.2)."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if kind == b"moov":
            return start + length <= size
        start += max(8, length)
    return False


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    lines = [line for line in lines if "Last message repeated" not in line]
    return lines[-1] if lines else "no reason given"
