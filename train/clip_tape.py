"""Validation clips played back to back: a tape for data sets that have none.

A camera shows actions one after another, and how logits become events is fitted on such a stream.
Classes take turns, so that an action's neighbours are others. What happens between actions is not
in it: false events show only in clips of a background class.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.errors import DataError
from runtime.preprocess import Picture
from runtime.sources.frame import Frame
from runtime.sources.memory import MemorySource
from train.data.decode import DEFAULT_FPS, FrameReader, open_frames
from train.data.entry import VideoSegment
from train.data.rounds import in_rounds
from train.data.truth import Segment

MOST_CLIPS = 120
FEWEST_CLIPS = 10
# Of a longer clip only its middle is played: the tape stays short, the action is somewhere in it.
MOST_WINDOWS = 1.5
CHUNK = 32  # frames that are decoded at once
NAME = "validation clips"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """What is played of a clip: frames first..last of its recording, from a time of the tape on."""

    clip: VideoSegment
    first: int
    last: int
    at_s: float
    length_s: float


@dataclass(frozen=True)
class ClipTape:
    """A tape made of clips.

    Attributes:
        source: Its frames, decoded as they are taken.
        truth: Its actions, in order of time.
    """

    source: MemorySource
    truth: tuple[Segment, ...]


def clip_tape(
    clips: Sequence[VideoSegment], labels: Sequence[str], window_s: float
) -> ClipTape | None:
    """Clips back to back: at most 120, classes in turns, the same ones every time.

    Args:
        clips: Clips of a split.
        labels: Class names in the order of the model's outputs.
        window_s: The model's window.

    Returns:
        The tape; None where fewer than 10 clips can be read.
    """
    parts: list[_Part] = []
    for clip in (clips[i] for i in in_rounds([clip.label for clip in clips])[:MOST_CLIPS]):
        at_s = parts[-1].at_s + parts[-1].length_s if parts else 0.0
        try:
            parts.append(_part_of(clip, at_s, MOST_WINDOWS * window_s))
        except DataError as err:
            logger.warning("left out of the tape of clips: %s", err)
    if len(parts) < FEWEST_CLIPS:
        return None
    truth = tuple(
        Segment(NAME, part.at_s, part.at_s + part.length_s, labels[part.clip.label])
        for part in parts
    )
    return ClipTape(MemorySource(_frames(parts), name=NAME), truth)


def _part_of(clip: VideoSegment, at_s: float, most_s: float) -> _Part:
    """The middle of a clip.

    Raises:
        DataError: The recording cannot be read, or has no frame there.
    """
    with _open(clip) as reader:
        start_s, end_s = clip.start_s, min(clip.end_s or np.inf, reader.duration_s)
        spare_s = max(0.0, end_s - start_s - most_s)
        first, last = np.searchsorted(
            reader.times_s, [start_s + spare_s / 2 - 1e-6, end_s - spare_s / 2 - 1e-6]
        ).tolist()
        if first >= last:
            raise DataError(f"{clip.path} holds no frame from {start_s:g} s on")
        times_s = reader.times_s[first:last]
        length_s = float(times_s[-1] - times_s[0]) + reader.frame_s
    return _Part(clip, first, last - 1, at_s, length_s)


def _frames(parts: Sequence[_Part]) -> Iterator[Frame]:
    count = 0
    for part in parts:
        try:
            for picture, time_s in _pictures(part):
                yield Frame(picture, count, time_s, time.monotonic_ns())
                count += 1
        except DataError as err:  # the rest of a damaged clip is a gap
            logger.warning("the tape of clips has a gap: %s", err)


def _pictures(part: _Part) -> Iterator[tuple[Picture, float]]:
    """A part's pictures and their times on the tape.

    Raises:
        DataError: The recording cannot be read.
    """
    with _open(part.clip) as reader:
        shift_s = part.at_s - float(reader.times_s[part.first])
        for first in range(part.first, part.last + 1, CHUNK):
            wanted = np.arange(first, min(first + CHUNK, part.last + 1))
            for picture, time_s in zip(reader.frames(wanted), reader.times_s[wanted], strict=True):
                yield picture, float(time_s) + shift_s


def _open(clip: VideoSegment) -> FrameReader:
    return open_frames(clip.path, fps=clip.fps or DEFAULT_FPS, template=clip.template)
