"""A long stream made of a few clips: each once a round, in random order, never a reset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.clip_list import CalibrationClip
from calib.record import clip_pictures
from export.stream.growth import NUM_BLOCKS
from runtime.errors import DataError, SourceError
from runtime.preprocess import Picture, PictureRule
from runtime.sampling import SamplingContract

MOST_PICTURES = 512  # 77 MB of pictures of 224 x 224
NUM_PARTS = NUM_BLOCKS + 1  # the first one warms up: states start equal and part from there


@dataclass(frozen=True, eq=False)
class LongStream:
    """Clips, and how often they are repeated.

    A block is so many rounds of all clips, so that blocks differ in nothing but their time.

    Attributes:
        clips: Model pictures of each clip, each (S, H, W, 3) uint8.
        rounds: Rounds of all clips in one block.
        seed: Of the order.
    """

    clips: Sequence[NDArray[np.uint8]]
    rounds: int
    seed: int = 0

    @property
    def block_steps(self) -> int:
        """Steps of one block; the warm-up is as long."""
        return self.rounds * sum(len(clip) for clip in self.clips)

    @property
    def steps(self) -> int:
        """Steps in all, the warm-up's included."""
        return NUM_PARTS * self.block_steps

    def __iter__(self) -> Iterator[Picture]:
        """The pictures, every round in an order of its own."""
        rng = np.random.default_rng(self.seed)
        for _ in range(NUM_PARTS * self.rounds):
            for number in rng.permutation(len(self.clips)):
                yield from self.clips[number]


def stream_of(clips: Sequence[NDArray[np.uint8]], steps: int) -> LongStream:
    """The stream nearest above some length.

    Args:
        clips: Pictures of each clip, as many as there are; the first ones are used.
        steps: Wanted length, >= 1; a stream has at least one clip a block.

    Raises:
        ValueError: No clips, or no length.
    """
    if steps < 1 or not clips or not all(len(clip) for clip in clips):
        raise ValueError(f"want clips with pictures and steps >= 1, got {len(clips)} and {steps}")
    wanted = math.ceil(steps / NUM_PARTS)
    used, length = 0, 0
    while used < len(clips) and length < wanted:
        length += len(clips[used])
        used += 1
    return LongStream(tuple(clips[:used]), math.ceil(wanted / length))


def stream_clips(
    listed: Sequence[CalibrationClip], picture: PictureRule, sampling: SamplingContract, steps: int
) -> list[NDArray[np.uint8]]:
    """Pictures of as many listed clips as a stream of so many steps needs.

    Clips that cannot be read are passed over.

    Raises:
        DataError: None can be read.
    """
    clips: list[NDArray[np.uint8]] = []
    count, wanted = 0, min(MOST_PICTURES, math.ceil(steps / NUM_PARTS))
    reason: Exception | None = None
    for clip in listed:
        if count >= wanted:
            break
        try:
            pictures = clip_pictures(clip, picture, sampling)
        except (DataError, SourceError) as err:
            reason = err
            continue
        clips.append(np.stack(pictures))
        count += len(pictures)
    if not clips:
        raise DataError(f"no clip of the list can be read for a long stream ({reason})")
    return clips
