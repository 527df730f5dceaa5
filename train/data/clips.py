"""Clip data sets: from arrays in memory or from segments of video files, one item a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.sampling import indices_at, live_times, segment_times
from train.data.video_file import read_video

Sampling: TypeAlias = Literal["live", "segments"]
Key: TypeAlias = tuple[int, int]  # epoch, item
Item: TypeAlias = tuple[Tensor, int]


@dataclass(frozen=True)
class ClipRule:
    """How a clip is cut from its source.

    Attributes:
        num_segments: Frames T of a clip.
        spacing_s: The contract's spacing, for `live` sampling.
        sampling: `live` or `segments`.
        seed: Seed of `live` sampling; a clip depends on (seed, epoch, item) and nothing else.
    """

    num_segments: int
    spacing_s: float
    sampling: Sampling
    seed: int = 0

    def times(self, start_s: float, end_s: float, key: Key) -> NDArray[np.float64]:
        """Times of the clip's frames, shape (T,), seconds."""
        if self.sampling == "segments":
            return segment_times(start_s, end_s, self.num_segments)
        rng = np.random.default_rng((self.seed, *key))
        return live_times(rng, start_s, end_s, self.num_segments, self.spacing_s)


@dataclass(frozen=True)
class VideoSegment:
    """A labelled part of a video file.

    Attributes:
        path: The file.
        start_s: Start, seconds of stream time.
        end_s: End, seconds of stream time.
        label: Class index.
    """

    path: Path
    start_s: float
    end_s: float
    label: int


class ArrayClipSet(Dataset[Item]):
    """Clips in arrays; each may be used forwards and, as the partner class, backwards.

    Args:
        frames: Shape (B, R, h, w, 3), uint8, RGB; frame i of a clip is at (i + 0.5) / R of it.
        duration_s: Shape (B,), seconds a clip lasts.
        items: Items of the set: clip, whether it runs backwards, class index.
        rule: How clips are cut.
    """

    def __init__(
        self,
        frames: NDArray[np.uint8],
        duration_s: NDArray[np.float64],
        items: Sequence[tuple[int, bool, int]],
        rule: ClipRule,
    ) -> None:
        self.frames = frames
        self.duration_s = duration_s
        self.items = items
        self.rule = rule

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | Key) -> Item:
        """One clip (T, 3, h, w) uint8 and its class, by (epoch, item) or item."""
        epoch, index = (0, key) if isinstance(key, int) else key
        clip, backwards, label = self.items[index]
        frames, duration_s = self.frames[clip], float(self.duration_s[clip])
        moments = segment_times(0.0, duration_s, len(frames))
        times = self.rule.times(0.0, duration_s, (epoch, index))
        chosen = indices_at(times, moments)
        if backwards:
            chosen = len(frames) - 1 - chosen
        return clip_tensor(frames[chosen]), label


class VideoClipSet(Dataset[Item]):
    """Segments of video files.

    Args:
        segments: The labelled segments.
        picture: How a frame becomes the model's input.
        rule: How clips are cut.
    """

    def __init__(
        self, segments: Sequence[VideoSegment], picture: PictureRule, rule: ClipRule
    ) -> None:
        self.segments = segments
        self.picture = picture
        self.rule = rule

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, key: int | Key) -> Item:
        """One clip (T, 3, h, w) uint8 and its class, by (epoch, item) or item."""
        epoch, index = (0, key) if isinstance(key, int) else key
        segment = self.segments[index]
        frames, frame_times_s = read_video(segment.path)
        times = self.rule.times(segment.start_s, segment.end_s, (epoch, index))
        chosen = indices_at(times, frame_times_s)
        pictures = [fit_picture(frames[i], self.picture) for i in chosen]
        return clip_tensor(np.stack(pictures)), segment.label


class EpochSampler(Sampler[Key]):
    """A new order every epoch, from the seed alone; tells the data set which epoch it is.

    Args:
        size: Items of the set.
        seed: Seed of the order.
        shuffle: False keeps the order of the set.
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return iter([(self.epoch, int(index)) for index in order])


def clip_tensor(pictures: Sequence[Picture] | NDArray[np.uint8]) -> Tensor:
    """Pictures (T, h, w, 3) as the model takes them: (T, 3, h, w) uint8, contiguous."""
    array = np.asarray(pictures)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
