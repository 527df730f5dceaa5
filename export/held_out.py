"""What the gate measures on: validation clips, in memory once, and the validation's live tapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from export.gate import PairedLoss, paired_loss
from export.int8.quantise import LabelledClips
from export.int8.sensitivity import PASSES
from runtime.bundle import Bundle, Precision
from runtime.sessions.ort import OrtStepSession
from train.checkpoint import Facts
from train.data.catalog import has_tape, load_split, load_tapes
from train.data.clips import ClipRule
from train.data.truth import Segment
from train.live_evaluation import decide_tape
from train.live_score import answers

# five times what proves half a point; 2.4 GB of 8 frames at 224 x 224
MOST_GATED = 2000
# what single convolutions are measured on; about a minute on two cores
MOST_FOR_LAYERS = 100
FEWEST_FOR_LAYERS = 30
LAYER_MACS = 2.5e12
TAPE = "tape_validation"

Tape: TypeAlias = tuple[Path, list[Segment]]


@dataclass(frozen=True)
class HeldOut:
    """Validation clips in memory.

    Attributes:
        clips: The clips and their classes.
        numbers: Each one's number in the list of validation clips, from 1.
        listed: Clips in that list.
    """

    clips: LabelledClips
    numbers: tuple[int, ...]
    listed: int


def held_out_clips(data: Path, facts: Facts, most: int = MOST_GATED) -> HeldOut:
    """Read validation clips at segment centres, as the clip protocol wants them.

    Args:
        data: Data folder or data.yaml.
        facts: The checkpoint's facts.
        most: Clips at most, >= 1; classes equally, the same ones every time.

    Raises:
        DataError: The split cannot be used.
    """
    split = load_split(data, "validation", facts.labels)
    listed = len(split.clip_labels)
    chosen = balanced(split.clip_labels, most)
    items: Sequence[int] = chosen
    if split.arrays is None:  # so that unreadable clips are counted among those that are used
        split = replace(split, segments=tuple(split.segments[i] for i in chosen))
        items = range(len(chosen))
    T, picture = facts.sampling.num_segments, facts.picture
    clip_set = split.clips(picture, ClipRule(T, facts.sampling.spacing_s, "segments"))
    pictures = np.empty((len(chosen), T, picture.height_px, picture.width_px, 3), np.uint8)
    label = np.empty(len(chosen), np.int64)
    bar = tqdm(items, desc="validation clips", unit="clip", disable=None)
    for row, item in enumerate(bar):
        frames, label[row] = clip_set[item]
        pictures[row] = frames.permute(0, 2, 3, 1).numpy()
    return HeldOut(LabelledClips(pictures, label), tuple(i + 1 for i in chosen), listed)


def layer_clips(held_out: HeldOut, facts: Facts) -> LabelledClips | None:
    """Validation clips to measure single convolutions on: `PASSES` passes in about a minute.

    What is affordable is counted in multiplications, so it is the same on every machine.

    Args:
        held_out: What the gate measures.
        facts: The checkpoint's facts.

    Returns:
        At most 100 of the clips, classes equally; None where a large model leaves too few to tell
        anything by.
    """
    clips = held_out.clips
    affordable = int(LAYER_MACS / (PASSES * facts.cost().clip_macs))
    chosen = balanced(clips.label.tolist(), min(MOST_FOR_LAYERS, affordable))
    if len(chosen) < min(FEWEST_FOR_LAYERS, len(clips.label)):
        return None
    return LabelledClips(clips.pictures[chosen], clips.label[chosen])


def balanced(label: Sequence[int], most: int) -> list[int]:
    """Positions of at most so many clips, all classes equally, the same every time, in order.

    Example:
        >>> balanced([0, 0, 0, 0, 1], 2)[1]
        4
    """
    mixed = np.random.default_rng(0).permutation(len(label)).tolist()
    seen: Counter[int] = Counter()
    turn = {}
    for i in mixed:
        turn[i] = seen[label[i]]
        seen[label[i]] += 1
    return sorted(sorted(mixed, key=turn.__getitem__)[:most])


def validation_tapes(data: Path, labels: Sequence[str]) -> list[Tape]:
    """The validation's live tapes and their truth; none where there are none, see `has_tape`.

    Raises:
        DataError: A video is missing, or a truth file is wrong.
    """
    return load_tapes(data, TAPE, labels) if has_tape(data, TAPE, labels) else []


def live_loss(bundle: Bundle, tapes: Sequence[Tape]) -> PairedLoss:
    """What INT8 loses on the actions of all tapes.

    Args:
        bundle: A bundle with its float and its INT8 step graph.
        tapes: At least one.

    Raises:
        SourceError: A video cannot be read.
    """
    wanted = [bundle.labels.index(action.label) for _, truth in tapes for action in truth]
    right = []
    precisions: tuple[Precision, ...] = ("float32", "int8")
    for precision in precisions:
        with OrtStepSession(bundle, precision, optimise=False) as session:
            given = [
                answer
                for video, truth in tapes
                for answer in answers(truth, decide_tape(bundle, session, video), bundle.labels)
            ]
        right.append(np.array(given) == np.array(wanted))
    return paired_loss(right[0], right[1])


def remarks_on(held_out: HeldOut, tapes: Sequence[Tape]) -> list[str]:
    """What people should know of the gate's material."""
    remarks = []
    if (count := len(held_out.numbers)) < held_out.listed:
        remarks.append(
            f"gated on {count:,} of {held_out.listed:,} validation clips, classes equally "
            "(--gate-clips)"
        )
    if not tapes:
        remarks.append("live accuracy was not gated: no validation tape")
    return remarks
