"""Fill a cache of decoded recordings: resumable, with a look at the disk before."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from runtime.command import one_line, say
from runtime.errors import DataError
from runtime.preprocess import resize
from train.data.check import Survey
from train.data.check_probe import in_processes
from train.data.check_read import format_of
from train.data.decode import DEFAULT_FPS, open_frames
from train.data.entry import VideoSegment
from train.data.formats import folders
from train.data.frame_cache import JPEG_QUALITY, cache_file, write_cache

MOST_SAMPLED = 8  # recordings whose pictures tell how large a cache becomes
FRAMES_SAMPLED = 3
MARGIN = 1.1


@dataclass(frozen=True)
class Source:
    """A recording to put in a cache."""

    path: Path
    fps: float
    template: str | None
    num_frames: int


@dataclass(frozen=True)
class Filled:
    """What a run did.

    Attributes:
        written: Recordings written.
        kept: Recordings that were there already.
        size_bytes: Size of both.
        problems: Why other recordings cannot be decoded; training reads these as they are.
    """

    written: int
    kept: int
    size_bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Done:
    path: Path
    is_new: bool
    problem: str
    is_full: bool


def check_cache_place(seen: Survey, cache: Path) -> None:
    """Refuse a cache that its own data would take for a class.

    Raises:
        ValueError: It lies among the class folders, or there are no recordings.
    """
    if not seen.recordings:
        raise ValueError("--cache: these data are arrays, which are decoded already")
    root = seen.spec.root.resolve()
    if cache.resolve().is_relative_to(root) and format_of(seen.spec) is folders.FORMAT:
        beside = root.with_name(f"{root.name}.cache")
        raise ValueError(
            f"--cache {cache} lies in the data folder, where it would be taken for a class; put "
            f"it beside: {beside}"
        )


def fill_cache(seen: Survey, cache: Path, short_side_px: int, *, workers: int) -> Filled:
    """Put all recordings that can be read in a cache; those that are there are left as they are.

    Args:
        seen: The data.
        cache: Folder of the cache.
        short_side_px: Short side of the pictures.
        workers: Processes that decode.

    Raises:
        DataError: The disk is too small or got full.
        ValueError: `short_side_px` is below 8.
    """
    sources = sources_of(seen)
    open_ones = [source for source in sources if not cache_file(cache, source.path).is_file()]
    needed = estimate_bytes(open_ones, short_side_px)
    free = _free_bytes(cache)
    say(
        f"cache: {len(open_ones)} of {len(sources)} recordings are new, about {gigabytes(needed)} "
        f"at a short side of {short_side_px} px; {gigabytes(free)} are free at {cache}"
    )
    if needed > free:
        raise DataError(
            f"the cache needs about {gigabytes(needed)} and {cache} has {gigabytes(free)} free; "
            "give a smaller --short-side or another disk"
        )
    work = partial(_write, cache=cache, short_side_px=short_side_px)
    written = kept = size_bytes = 0
    problems = []
    for done in in_processes(work, sources, workers=workers, name="cache"):
        if done.is_full:
            raise DataError(
                f"the disk of {cache} is full after {written + kept} of {len(sources)} "
                "recordings; free some space and run this again, what is there is kept"
            )
        if done.problem:
            problems.append(done.problem)
            continue
        written, kept = written + done.is_new, kept + (not done.is_new)
        size_bytes += done.path.stat().st_size
    return Filled(written, kept, size_bytes, tuple(problems))


def sources_of(seen: Survey) -> list[Source]:
    """Every recording that can be read, once."""
    facts = {recording.path: recording.facts for recording in seen.recordings}
    found: dict[Path, Source] = {}
    for split in seen.splits.values():
        for segment in split.segments:
            known = facts[segment.path]
            if known is not None and segment.path not in found:
                found[segment.path] = _source(segment, known.num_frames)
    return list(found.values())


def estimate_bytes(sources: Sequence[Source], short_side_px: int) -> int:
    """Size of a cache, from some pictures of some of its recordings."""
    count = min(len(sources), MOST_SAMPLED)
    chosen = [sources[i * len(sources) // count] for i in range(count)]
    sizes = [size for source in chosen for size in _jpeg_bytes(source, short_side_px)]
    if not sizes:
        return 0
    num_frames = sum(source.num_frames for source in sources)
    return int(MARGIN * num_frames * (sum(sizes) / len(sizes) + 16))


def gigabytes(size_bytes: int) -> str:
    """A size for people.

    Example:
        >>> gigabytes(1_500_000_000), gigabytes(12_000_000), gigabytes(900)
        ('1.5 GB', '12.0 MB', '0.9 kB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes / 1e3:.1f} kB"


def _source(segment: VideoSegment, num_frames: int) -> Source:
    return Source(segment.path, segment.fps or DEFAULT_FPS, segment.template, num_frames)


def _jpeg_bytes(source: Source, short_side_px: int) -> list[int]:
    numbers = np.linspace(0, source.num_frames - 1, FRAMES_SAMPLED).astype(np.int64)
    try:
        with open_frames(source.path, fps=source.fps, template=source.template) as reader:
            frames = reader.frames(numbers)
    except DataError:
        return []
    sizes = []
    for frame in frames:
        height, width = frame.shape[:2]
        scale = min(1.0, short_side_px / min(height, width))
        small = resize(frame, max(1, round(height * scale)), max(1, round(width * scale)))
        quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        sizes.append(len(cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1]))
    return sizes


def _write(source: Source, *, cache: Path, short_side_px: int) -> _Done:
    path = cache_file(cache, source.path)
    before = _stamp(path)
    try:
        write_cache(source.path, cache, short_side_px, fps=source.fps, template=source.template)
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _Done(path, False, one_line(err), True)
    except DataError as err:
        return _Done(path, False, one_line(err), False)
    return _Done(path, before != _stamp(path), "", False)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _free_bytes(cache: Path) -> int:
    place = cache.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
