"""Recordings decoded once: small JPEG pictures, any of them read at once.

A cache is a folder with one file a recording, NAME-DIGEST.frames; the digest is of the
recording's path relative to the folder that holds the cache, so that data and cache move together.

    8 bytes   b"TDRLJPG1"
    8         size of the source in bytes (of a folder: number of files), int64
    8         longest allowed short side of the pictures, int64, pixels
    8         F, int64
    8         seconds a frame is shown, float64
    8 · F     times of the frames, float64, seconds of stream time
    8 · (F+1) where each picture starts in the file, and the file's size, int64
    rest      the pictures, JPEG

Numbers are little-endian. A file is whole or not there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.files import whole_file
from runtime.preprocess import Picture, resize
from train.data.decode import DEFAULT_FPS, FrameReader, open_frames

MAGIC = b"TDRLJPG1"
HEAD_BYTES = 40
SUFFIX = ".frames"
SHORT_SIDE_PX = 256
JPEG_QUALITY = 95
CHUNK_BYTES = 256 << 20  # of pictures decoded at a time


class CachedFrames:
    """Frames of one recording from a cache, by number; a `FrameReader`.

    Args:
        path: The cache's file.

    Attributes:
        path: The cache's file.
        source_size: Size of the recording it was made from.
        short_side_px: What the pictures' short side was limited to.
        times_s: Times of the frames, shape (F,), seconds of stream time.
        frame_s: Median spacing of the frames, seconds.

    Raises:
        DataError: No cache file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as err:
            raise DataError(f"{path} cannot be read: {err}; make the cache again") from err
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        head = self._file.read(HEAD_BYTES)
        if len(head) != HEAD_BYTES or head[:8] != MAGIC:
            raise self._damaged("it is no cache file")
        numbers = np.frombuffer(head, "<i8", 3, len(MAGIC))
        self.source_size, self.short_side_px, count = (int(number) for number in numbers)
        self.frame_s = float(np.frombuffer(head, "<f8", 1, HEAD_BYTES - 8)[0])
        size = os.fstat(self._file.fileno()).st_size
        if not 1 <= count <= size // 16:
            raise self._damaged(f"it says {count} frames in {size} bytes")
        table = self._file.read(8 * (2 * count + 1))
        self.times_s = np.frombuffer(table, "<f8", count).astype(np.float64)
        self._starts = np.frombuffer(table, "<i8", count + 1, 8 * count).astype(np.int64)
        if self._starts[-1] != size:
            raise self._damaged(f"it should have {self._starts[-1]} bytes, it has {size}")

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the stream to the end of the last frame."""
        return float(self.times_s[-1]) + self.frame_s

    def frames(self, indices: NDArray[np.int64]) -> list[Picture]:
        """Pictures for frame numbers 0..F-1, shape (H, W, 3), uint8, RGB.

        Raises:
            ValueError: A number outside 0..F-1.
            DataError: The file is damaged.
        """
        wanted = np.asarray(indices, np.int64)
        count = len(self.times_s)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < count:
            raise ValueError(f"{self.path} has frames 0..{count - 1}, got {wanted.tolist()}")
        found = {int(i): self._frame(int(i)) for i in np.unique(wanted)}
        return [found[int(i)] for i in wanted]

    def _frame(self, index: int) -> Picture:
        start, stop = int(self._starts[index]), int(self._starts[index + 1])
        self._file.seek(start)
        jpeg = np.frombuffer(self._file.read(max(0, stop - start)), np.uint8)
        bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR) if len(jpeg) else None
        if bgr is None:
            raise self._damaged(f"frame {index} does not decode")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CachedFrames:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self.path} is damaged: {reason}; delete it and make the cache again")


def cache_file(cache: Path, source: Path) -> Path:
    """Where a recording lies in a cache, whether it is there or not."""
    relative = os.path.relpath(source.absolute(), cache.absolute().parent)
    digest = hashlib.sha256(Path(relative).as_posix().encode()).hexdigest()
    return cache / f"{source.stem}-{digest[:16]}{SUFFIX}"


def write_cache(
    source: Path,
    cache: Path,
    short_side_px: int = SHORT_SIDE_PX,
    *,
    fps: float = DEFAULT_FPS,
    template: str | None = None,
) -> Path:
    """Put all frames of a recording in a cache.

    Args:
        source: A video file or a folder of pictures.
        cache: Folder of the cache.
        short_side_px: Short side of the pictures kept; smaller sources keep their size.
        fps: As in `open_frames`.
        template: As in `open_frames`.

    Returns:
        The cache's file; one that is up to date is left as it is.

    Raises:
        ValueError: `short_side_px` is below 8.
        DataError: The recording cannot be read.
        OSError: The cache cannot be written.
    """
    if short_side_px < 8:
        raise ValueError(f"short_side_px must be >= 8, got {short_side_px}")
    path = cache_file(cache, source)
    if _is_current(path, source, short_side_px):
        return path
    with open_frames(source, fps=fps, template=template) as reader, whole_file(path) as part:
        count = len(reader.times_s)
        starts = np.empty(count + 1, "<i8")
        with part.open("wb") as file:
            file.write(MAGIC + np.array([_size_of(source), short_side_px, count], "<i8").tobytes())
            file.write(np.array([reader.frame_s, *reader.times_s], "<f8").tobytes())
            place = file.tell()
            file.write(starts.tobytes())
            for index, jpeg in enumerate(_jpegs(reader, short_side_px)):
                starts[index] = file.tell()
                file.write(jpeg)
            starts[count] = file.tell()
            file.seek(place)
            file.write(starts.tobytes())
    return path


def open_cached(
    source: Path,
    cache: Path | None,
    *,
    fps: float = DEFAULT_FPS,
    template: str | None = None,
) -> FrameReader:
    """A recording from a cache; from the source where the cache has it not, or an older one.

    The source itself need not be there if the cache has it.

    Raises:
        DataError: The source cannot be read, or the cache's file is damaged.
    """
    path = None if cache is None else cache_file(cache, source)
    if path is not None and path.is_file():
        cached = CachedFrames(path)
        if not source.exists() or cached.source_size == _size_of(source):
            return cached
        cached.close()
    return open_frames(source, fps=fps, template=template)


def _is_current(path: Path, source: Path, short_side_px: int) -> bool:
    """Whether a cache file is whole, of this recording and of this size."""
    if not (path.is_file() and source.exists()):
        return False
    try:
        with CachedFrames(path) as found:
            return (found.source_size, found.short_side_px) == (_size_of(source), short_side_px)
    except DataError:
        return False


def _size_of(source: Path) -> int:
    if source.is_dir():
        return sum(1 for _ in source.iterdir())
    return source.stat().st_size


def _jpegs(reader: FrameReader, short_side_px: int) -> Iterator[bytes]:
    """All frames of a recording, small, as JPEG."""
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    numbers = np.arange(len(reader.times_s), dtype=np.int64)
    height, width = reader.frames(numbers[:1])[0].shape[:2]
    scale = min(1.0, short_side_px / min(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    chunk = max(1, CHUNK_BYTES // (height * width * 3))
    for start in range(0, len(numbers), chunk):
        for frame in reader.frames(numbers[start : start + chunk]):
            bgr = cv2.cvtColor(resize(frame, *size), cv2.COLOR_RGB2BGR)
            done, jpeg = cv2.imencode(".jpg", bgr, quality)
            if not done:
                raise DataError(f"a picture of {size[1]}×{size[0]} cannot be written as JPEG")
            yield jpeg.tobytes()
