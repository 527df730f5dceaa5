"""Short video files for data sets: H.264 written whole, and read back with their times.

PyAV brings its own encoder, so this room needs no ffmpeg; the device does not use this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.files import whole_file
from runtime.preprocess import Picture
from train.data.video_reader import VideoReader

# No B-frames, as a camera's encoder sends: decode order is display order for every reader.
# Same frames, same bytes: on one thread, whatever the number of cores, and without the macroblock
# tree, which on a busy machine gives one file in a hundred other bytes (docs/decisions.md).
X264_OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1", "mbtree": "0"}


def write_h264(path: Path, frames: Iterable[Picture], fps: int | Fraction) -> int:
    """Write frames to an H.264 mp4 file; they are encoded one by one as they come.

    Args:
        path: The file; it appears only when it is complete.
        frames: Frames of shape (H, W, 3), uint8, RGB, all of one size, H and W even.
        fps: Frames a second, >= 1.

    Returns:
        The number of frames written.

    Raises:
        ValueError: No frame came, or one of another shape; `fps` is below 1.
        DataError: The encoder failed.
        OSError: The folder cannot be written.
    """
    if fps < 1:
        raise ValueError(f"fps must be >= 1, got {fps}")
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"a video needs at least one frame, got none ({path})")
    _check_first(first)
    with whole_file(path) as part:
        try:
            return _encode(part, first.shape, chain([first], stream), fps)
        except av.FFmpegError as err:
            raise DataError(f"{path} cannot be encoded: {err}") from err


def read_video(path: Path) -> tuple[Picture, NDArray[np.float64]]:
    """Decode a whole video file.

    Args:
        path: A short video file: all of it is kept in memory.

    Returns:
        The frames, shape (T, H, W, 3), uint8, RGB, and their stream times, shape (T,), float64,
        seconds.

    Raises:
        DataError: The file is missing, unreadable, empty or cut short.
    """
    with VideoReader(path) as video:
        frames = video.frames(np.arange(len(video.times_s)))
        return np.stack(frames), video.times_s


def _check_first(frame: Picture) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    if frame.shape[0] % 2 or frame.shape[1] % 2:
        raise ValueError(f"H and W must be even for H.264, got {frame.shape[0]}×{frame.shape[1]}")


def _encode(
    path: Path, shape: tuple[int, ...], frames: Iterable[Picture], fps: int | Fraction
) -> int:
    count = 0
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=X264_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
        converter = VideoReformatter()
        for frame in frames:
            if frame.shape != shape:
                raise ValueError(f"frame {count} is {frame.shape}, the first was {shape}")
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(converter.reformat(picture, format="yuv420p", threads=1)))
            count += 1
        container.mux(stream.encode(None))
    return count
