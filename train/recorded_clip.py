"""A clip out of a recording of `--record`: which part, which pictures, which session."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import DataError
from runtime.preprocess import Picture
from runtime.recordings.manifest import Manifest
from train.collect_recorder import MIN_FRAMES, Take

SOURCE_DIGITS = 8


@dataclass(frozen=True)
class Span:
    """A part of a recording, in stream time: start_s < end_s."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class StoredPicture:
    """A picture as it is stored, and its stream time."""

    path: Path
    time_s: float


def session_of(kept: Manifest) -> str:
    """Name of the session that a recording belongs to.

    Recordings of one camera and day look alike; a file gives the same pictures on any day.
    """
    source = hashlib.sha256(kept.source.encode("utf-8", "backslashreplace")).hexdigest()
    when = kept.utc[:10].replace("-", "") if kept.is_live else "file"
    return f"rec-{when}-{source[:SOURCE_DIGITS]}"


def span_of(kept: Manifest, from_s: float | None, to_s: float | None) -> Span:
    """The part that becomes a clip.

    Args:
        kept: The recording.
        from_s: Where it begins, seconds from the first picture; None begins with the action, or
            earlier, so that the clip is a window long.
        to_s: Where it ends; None ends with the action.

    Raises:
        ValueError: The recording has no such part.
    """
    first_s, last_s = kept.times_s[0], kept.times_s[-1]
    end_s = last_s if kept.end_s is None else kept.end_s
    end_s = end_s if to_s is None else first_s + to_s
    start_s = min(kept.start_s, end_s - kept.run.window_s) if from_s is None else first_s + from_s
    span = Span(max(first_s, start_s), min(last_s, end_s))
    if not span.start_s < span.end_s or min(from_s or 0.0, to_s or 0.0) < 0:
        raise ValueError(
            f"--from-s {_shown(from_s)} and --to-s {_shown(to_s)} are no part of a recording of "
            f"{last_s - first_s:.1f} s"
        )
    return span


def pictures_in(recording: Path, kept: Manifest, span: Span) -> list[StoredPicture]:
    """The pictures of a part, in order.

    Raises:
        DataError: There are not as many pictures as times.
    """
    paths = sorted(recording.glob("*.jpg"))
    if len(paths) != len(kept.times_s):
        raise DataError(
            f"{recording} should hold {len(kept.times_s)} pictures and holds {len(paths)}; copy it "
            "again"
        )
    every = [StoredPicture(*each) for each in zip(paths, kept.times_s, strict=True)]
    return [each for each in every if span.start_s <= each.time_s <= span.end_s]


def digest_of(pictures: Sequence[StoredPicture]) -> str:
    """SHA-256 of the stored bytes: a file that was recorded twice gives the same."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(hashlib.sha256(picture.path.read_bytes()).digest())
    return digest.hexdigest()


def take_of(label: str, pictures: Sequence[StoredPicture], span: Span, recording: Path) -> Take:
    """The clip: the recording's pictures at a constant rate, each as near as there is one.

    Raises:
        DataError: Too few pictures, one that cannot be read, or another size among them.
    """
    if len(pictures) < MIN_FRAMES:
        raise DataError(
            f"{recording} has {len(pictures)} pictures between {span.start_s:.2f} and "
            f"{span.end_s:.2f} s, at least {MIN_FRAMES} are needed; give a longer part by --from-s "
            "and --to-s"
        )
    times_s = np.array([picture.time_s for picture in pictures])
    gap_s = float(np.median(np.diff(times_s)))
    if not gap_s > 0:
        raise DataError(f"{recording}: its times do not rise, so it cannot be a clip")
    count = max(MIN_FRAMES, math.floor((times_s[-1] - times_s[0]) / gap_s + 0.5) + 1)
    wanted_s = times_s[0] + gap_s * np.arange(count)
    places = np.abs(times_s[:, None] - wanted_s).argmin(axis=0)
    images = [_read(picture.path) for picture in pictures]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"{recording} changes its picture size; give a part by --from-s and --to-s")
    return Take(label, tuple(images[place] for place in places), tuple(wanted_s.tolist()))


def _read(path: Path) -> Picture:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be read; copy the recording again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _shown(seconds: float | None) -> str:
    return "(the action's)" if seconds is None else f"{seconds:g}"
