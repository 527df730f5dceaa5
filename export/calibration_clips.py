"""Which clips calibrate, which compare methods, and that neither is what the gate measures."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.clip_list import CalibrationClip
from calib.record import clip_pictures, require_readable
from export.held_out import validation_tapes
from runtime.errors import DataError, SourceError
from runtime.preprocess import Picture
from train.checkpoint import Facts
from train.data.catalog import load_split
from train.data.decode import DEFAULT_FPS, probe
from train.data.entry import VideoSegment

logger = logging.getLogger(__name__)

MOST_CLIPS = 512
FEWEST_CLIPS = 2
COMPARISON_STEPS = 128
COMPARED_SHARE = 4  # at most a fourth of the calibration clips compares methods instead


@dataclass(frozen=True)
class Part:
    """A part of a recording.

    Attributes:
        path: The recording, links resolved: two names of a file are one recording.
        start_s: Start, seconds.
        end_s: End, seconds; infinite where it is the recording's.
        what: What it is, for messages.
    """

    path: Path
    start_s: float
    end_s: float
    what: str


@dataclass(frozen=True)
class Comparison:
    """What threshold methods are compared on, and what is left to calibrate with.

    Attributes:
        frames: Steps of one stream, shape (S, H, W, 3), uint8.
        clips: The clips they are from.
        rest: The clips that calibrate: none shares a moment with `clips`.
    """

    frames: NDArray[np.uint8]
    clips: tuple[CalibrationClip, ...]
    rest: tuple[CalibrationClip, ...]


def calibration_clips(
    data: Path, facts: Facts, *, most: int = MOST_CLIPS
) -> tuple[CalibrationClip, ...]:
    """The clips of the split `calibration`, classes in turns, the same ones every time.

    Within a class the recordings take turns, so any beginning of the list is balanced and from as
    many recordings as there are.

    Args:
        data: Data folder.
        facts: The checkpoint's facts.
        most: Clips at most.

    Raises:
        DataError: Too few clips, or one shares a moment with what the gate measures.
        ValueError: `most` is below 2.
    """
    if most < FEWEST_CLIPS:
        raise ValueError(f"calibration clips must be >= {FEWEST_CLIPS} at most, got {most}")
    split = load_split(data, "calibration", facts.labels)
    if len(split.segments) < FEWEST_CLIPS:
        raise DataError(
            f"{data / 'calibration'} must hold at least {FEWEST_CLIPS} video clips (segments.csv), "
            f"got {len(split.segments)}; some calibrate, the others compare methods"
        )
    if split.skipped:
        logger.warning(
            "%d recordings of the calibration clips are missing and left out, the first one: %s",
            len(split.skipped),
            split.skipped[0],
        )
    chosen = [
        CalibrationClip(
            str(s.path),
            s.start_s,
            _end_s(s, facts.sampling.window_s),
            facts.labels[s.label],
            (s.fps or DEFAULT_FPS) if s.path.is_dir() else 0.0,
        )
        for s in in_turns(split.segments)[:most]
    ]
    require_disjoint(chosen, gate_parts(data, facts))
    return tuple(chosen)


def in_turns(segments: Iterable[VideoSegment], seed: int = 0) -> list[VideoSegment]:
    """All segments, classes in turns and within a class recordings in turns.

    The order does not depend on that of `segments`.
    """
    ordered = sorted(segments, key=lambda s: (str(s.path), s.start_s, s.end_s or math.inf, s.label))
    mixed = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    turns = _ranks((s.label, s.group or str(s.path)) for s in mixed)
    spread = [mixed[i] for i in sorted(range(len(mixed)), key=turns.__getitem__)]
    turns = _ranks(s.label for s in spread)
    return [
        spread[i] for i in sorted(range(len(spread)), key=lambda i: (turns[i], spread[i].label))
    ]


def comparison(
    clips: Sequence[CalibrationClip], facts: Facts, steps: int = COMPARISON_STEPS
) -> Comparison:
    """Take the first clips to compare methods on.

    Clips that cannot be read stay among the others, where calibration counts them. Clips that
    share a moment with a taken one do not calibrate.

    Args:
        clips: The calibration clips.
        facts: The checkpoint's facts.
        steps: Steps of the stream; it begins again where the clips are too short.

    Raises:
        DataError: Too many clips cannot be read, or none is left to calibrate with.
    """
    pictures: list[Picture] = []
    taken: list[CalibrationClip] = []
    unreadable: list[str] = []
    for clip in clips:
        if len(pictures) >= steps or len(taken) >= max(1, len(clips) // COMPARED_SHARE):
            break
        try:
            pictures += clip_pictures(clip, facts.picture, facts.sampling)
        except (SourceError, DataError) as err:
            unreadable.append(str(err))
            require_readable(unreadable, len(clips))
        else:
            taken.append(clip)
    parts = [_part(clip, "a clip that compares methods") for clip in taken]
    rest = tuple(clip for clip in clips if _shared(_part(clip), parts) is None)
    if not rest:
        raise DataError(
            f"all {len(clips)} calibration clips overlap those that compare methods, e.g. in "
            f"{clips[0].path}; calibration needs clips of other moments"
        )
    frames = np.stack([pictures[i % len(pictures)] for i in range(steps)])
    return Comparison(frames, tuple(taken), rest)


def gate_parts(data: Path, facts: Facts) -> list[Part]:
    """What the gate measures INT8 on: the validation clips, and the validation tapes."""
    parts = [
        Part(s.path.resolve(), s.start_s, s.end_s or math.inf, "a validation clip")
        for s in load_split(data, "validation", facts.labels).segments
    ]
    parts += [
        Part(video.resolve(), 0.0, math.inf, "the validation tape")
        for video, _ in validation_tapes(data, facts.labels)
    ]
    return parts


def require_disjoint(clips: Iterable[CalibrationClip], parts: Iterable[Part]) -> None:
    """Refuse to calibrate on what INT8 is judged by.

    Raises:
        DataError: A clip shares a moment of a recording with a part.
    """
    by_path = defaultdict(list)
    for part in parts:
        by_path[part.path].append(part)
    for clip in clips:
        own = _part(clip)
        if (other := _shared(own, by_path[own.path])) is not None:
            raise DataError(
                f"calibration clip {clip.path} {clip.start_s:g}..{clip.end_s:g} s overlaps "
                f"{other.what} ({other.start_s:g}..{other.end_s:g} s): INT8 would be judged on "
                "what it was calibrated on; take it out of one of the two splits"
            )


def _part(clip: CalibrationClip, what: str = "a calibration clip") -> Part:
    return Part(Path(clip.path).resolve(), clip.start_s, clip.end_s, what)


def _shared(part: Part, others: Iterable[Part]) -> Part | None:
    """The first of the others that holds a moment of the part."""
    for other in others:
        if other.path == part.path and other.start_s < part.end_s and part.start_s < other.end_s:
            return other
    return None


def _ranks(kinds: Iterable[Hashable]) -> list[int]:
    """The how many-th of its kind each item is, from 0 on."""
    seen: Counter[Hashable] = Counter()
    ranks = []
    for kind in kinds:
        ranks.append(seen[kind])
        seen[kind] += 1
    return ranks


def _end_s(segment: VideoSegment, window_s: float) -> float:
    if segment.end_s is not None:
        return segment.end_s
    try:
        return probe(
            segment.path, fps=segment.fps or DEFAULT_FPS, template=segment.template
        ).duration_s
    except DataError:
        return segment.start_s + window_s  # calibration finds it unreadable, and counts it
