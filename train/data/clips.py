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

from runtime.errors import DataError
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.sampling import indices_at, indices_nearest, live_times, segment_times
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

    def indices(
        self,
        start_s: float,
        end_s: float,
        frame_times_s: NDArray[np.float64],
        key: Key,
        *,
        frame_s: float = 0.0,
    ) -> NDArray[np.int64]:
        """The frames a clip takes.

        Args:
            start_s: Start of the clip, seconds.
            end_s: End of the clip, > start_s.
            frame_times_s: Times of the frames there are, shape (F,), ascending, F >= 1.
            key: Epoch and item.
            frame_s: Seconds a frame is shown after its time; 0 where its time is its middle.

        Returns:
            Indices into the frames, shape (T,), int64, ascending.
        """
        if self.sampling == "segments":
            times_s = segment_times(start_s, end_s, self.num_segments)
            return indices_nearest(times_s, frame_times_s + frame_s / 2)
        rng = np.random.default_rng((self.seed, *key))
        times_s = live_times(rng, start_s, end_s, self.num_segments, self.spacing_s)
        return indices_at(times_s, frame_times_s)


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
        chosen = self.rule.indices(0.0, duration_s, moments, (epoch, index))
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
        """One clip (T, 3, h, w) uint8 and its class, by (epoch, item) or item.

        Raises:
            DataError: The video cannot be read, or ends before the segment starts.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        segment = self.segments[index]
        frames, times_s = read_video(segment.path)
        if segment.start_s > times_s[-1]:
            raise DataError(
                f"{segment.path} ends at {times_s[-1]:.2f} s, the segment "
                f"{segment.start_s:g}..{segment.end_s:g} s starts later; correct segments.csv"
            )
        frame_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
        chosen = self.rule.indices(
            segment.start_s, segment.end_s, times_s, (epoch, index), frame_s=frame_s
        )
        pictures = [fit_picture(frames[i], self.picture) for i in chosen]
        return clip_tensor(np.stack(pictures)), segment.label


class KeptClips(Dataset[Item]):
    """A set that is the same in every epoch, decoded once and kept in memory.

    Args:
        clips: The set; its sampling must not depend on the epoch.
    """

    def __init__(self, clips: ArrayClipSet | VideoClipSet) -> None:
        self.clips = clips
        self._kept: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | Key) -> Item:
        """One clip (T, 3, h, w) uint8 and its class, by (epoch, item) or item."""
        index = key if isinstance(key, int) else key[1]
        if index not in self._kept:
            self._kept[index] = self.clips[index]
        return self._kept[index]


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
