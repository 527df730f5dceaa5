"""Clip data sets: from arrays in memory or from segments of recordings, one item a clip.

An item's key is (epoch, item): everything random about a clip comes from it, so a clip is the same
in whatever process, order or run it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from runtime.command import one_line
from runtime.errors import DataError
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.augment import AugmentRule
from train.data.decode import DEFAULT_FPS, FrameReader
from train.data.entry import VideoSegment
from train.data.frame_cache import open_cached
from train.data.sampling import ClipRule, Key, Sampling, segment_times

__all__ = [
    "MAX_BROKEN",
    "ArrayClipSet",
    "ClipRule",
    "EpochSampler",
    "Item",
    "KeptClips",
    "Sampling",
    "VideoClipSet",
    "VideoSegment",
    "clip_tensor",
    "span_of",
]

Item: TypeAlias = tuple[Tensor, int]

MAX_BROKEN = 0.01  # share of a set's clips that may be unreadable
ROUNDING_S = 2e-3  # lists of clips round their times


class ArrayClipSet(Dataset[Item]):
    """Clips in arrays; each may be used forwards and, as the partner class, backwards.

    Args:
        frames: Shape (B, R, h, w, 3), uint8, RGB; frame i of a clip is at (i + 0.5) / R of it.
        duration_s: Shape (B,), seconds a clip lasts.
        items: Items of the set: clip, whether it runs backwards, class index.
        rule: How clips are cut.
        augment: How clips are varied; the arrays' pictures count as whole frames.
    """

    def __init__(
        self,
        frames: NDArray[np.uint8],
        duration_s: NDArray[np.float64],
        items: Sequence[tuple[int, bool, int]],
        rule: ClipRule,
        augment: AugmentRule | None = None,
    ) -> None:
        self.frames = frames
        self.duration_s = duration_s
        self.items = items
        self.rule = rule
        self.augment = augment

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
        if self.augment is None:
            return clip_tensor(frames[chosen]), label
        whole = PictureRule(height_px=frames.shape[1], width_px=frames.shape[2], crop="full")
        pictures, label = self.augment.apply(list(frames[chosen]), label, whole, (epoch, index))
        return clip_tensor(pictures), label


class VideoClipSet(Dataset[Item]):
    """Segments of recordings: video files or folders of pictures.

    Only the wanted frames are read; `live` windows may begin before their segment, in the
    recording's real past. A clip that cannot be read is replaced by the next one that can, the
    same in every process; more than 1 % of such clips end the run.

    Args:
        segments: The labelled segments.
        picture: How a frame becomes the model's input.
        rule: How clips are cut.
        augment: How clips are varied.
        cache: Folder that `write_cache` filled; what it lacks is read from the recordings.
        broken_list: Text file that gets one line for every clip that cannot be read.
    """

    def __init__(
        self,
        segments: Sequence[VideoSegment],
        picture: PictureRule,
        rule: ClipRule,
        augment: AugmentRule | None = None,
        *,
        cache: Path | None = None,
        broken_list: Path | None = None,
    ) -> None:
        self.segments = segments
        self.picture = picture
        self.rule = rule
        self.augment = augment
        self.cache = cache
        self.broken_list = broken_list
        # in shared memory: all loader processes count together
        self._broken = torch.zeros(len(segments), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def num_broken(self) -> int:
        """Clips found unreadable so far, by this process and its loader's."""
        return int(self._broken.sum())

    def __getitem__(self, key: int | Key) -> Item:
        """One clip (T, 3, h, w) uint8 and its class, by (epoch, item) or item.

        Raises:
            DataError: More than 1 % of the clips cannot be read.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        for step in count():
            number = (index + step) % len(self.segments)
            try:
                return self._read(self.segments[number], (epoch, index))
            except DataError as err:
                self._note_broken(number, err)
        raise AssertionError("unreachable: _note_broken ends the loop")

    def _read(self, segment: VideoSegment, key: Key) -> Item:
        fps = segment.fps or DEFAULT_FPS
        with open_cached(segment.path, self.cache, fps=fps, template=segment.template) as reader:
            start_s, end_s = span_of(segment, reader)
            chosen = self.rule.indices(start_s, end_s, reader.times_s, key, frame_s=reader.frame_s)
            frames = reader.frames(chosen)
        if self.augment is None:
            return clip_tensor(
                [fit_picture(frame, self.picture) for frame in frames]
            ), segment.label
        pictures, label = self.augment.apply(frames, segment.label, self.picture, key)
        return clip_tensor(pictures), label

    def _note_broken(self, number: int, err: DataError) -> None:
        """Count and list a clip that cannot be read.

        Raises:
            DataError: There are too many.
        """
        if not self._broken[number]:
            self._broken[number] = True
            if self.broken_list is not None:
                _list_once(self.broken_list, one_line(err))
        if self.num_broken > MAX_BROKEN * len(self.segments):
            raise DataError(
                f"{self.num_broken} of {len(self.segments)} clips cannot be read, at most "
                f"{MAX_BROKEN:.0%} may; mend or remove them, the last one: {err}"
            ) from err


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

    Every rank takes every num_ranks-th item of the order. All ranks have equally many: where the
    items do not share evenly, the order's first ones come once more at its end.

    Args:
        size: Items of the set.
        seed: Seed of the order.
        shuffle: False keeps the order of the set.
        rank: Which process this is, 0..num_ranks-1.
        num_ranks: How many processes share an epoch.

    Raises:
        ValueError: A rank out of range.
    """

    def __init__(
        self, size: int, *, seed: int, shuffle: bool, rank: int = 0, num_ranks: int = 1
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank must be in 0..{num_ranks - 1}, got {rank}")
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Lightning calls it."""
        self.epoch = epoch

    def start_at(self, epoch: int, item: int) -> None:
        """Go on in the middle of an epoch: it leaves out this rank's first items, others do not.

        Args:
            epoch: The epoch that was not finished.
            item: Items of this rank that are done: whole batches × batch size.
        """
        self.epoch = epoch
        self._start = (epoch, item)

    def __len__(self) -> int:
        """Items of this rank in a whole epoch."""
        return -(-self.size // self.num_ranks)

    @property
    def num_own(self) -> int:
        """Items of this rank that no other rank has: the rest, at the end, comes once more."""
        return len(range(self.rank, self.size, self.num_ranks))

    def whole_epoch(self) -> list[Key]:
        """This rank's items of the epoch, those too that `start_at` leaves out."""
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        share = np.resize(order, len(self) * self.num_ranks)[self.rank :: self.num_ranks]
        return [(self.epoch, int(index)) for index in share]

    def __iter__(self) -> Iterator[Key]:
        first = self._start[1] if self._start[0] == self.epoch else 0
        return iter(self.whole_epoch()[first:])


def _list_once(path: Path, line: str) -> None:
    """Add a line to a list; a resumed run does not say it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and line in path.read_text(encoding="utf-8").splitlines():
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def span_of(segment: VideoSegment, reader: FrameReader) -> tuple[float, float]:
    """Start and end of a segment within its recording, seconds of stream time.

    Raises:
        DataError: The recording ends before the segment starts, or the segment holds no frame.
    """
    times_s = reader.times_s
    frame_s = reader.frame_s or 1 / DEFAULT_FPS
    last_s = float(times_s[-1])
    end_s = last_s + frame_s if segment.end_s is None else min(segment.end_s, last_s + frame_s)
    start_s = max(segment.start_s, float(times_s[0]))
    if start_s > last_s:
        raise DataError(
            f"{segment.path} ends at {last_s:.2f} s, the segment {_span_text(segment)} "
            "starts later; correct the list of clips"
        )
    if end_s - start_s < frame_s - ROUNDING_S:
        raise DataError(
            f"the segment {_span_text(segment)} of {segment.path} is shorter than one frame "
            f"({frame_s:.3f} s); correct the list of clips"
        )
    return start_s, end_s


def _span_text(segment: VideoSegment) -> str:
    end = "end" if segment.end_s is None else f"{segment.end_s:g}"
    return f"{segment.start_s:g}..{end} s"


def clip_tensor(pictures: Sequence[Picture] | NDArray[np.uint8]) -> Tensor:
    """Pictures (T, h, w, 3) as the model takes them: (T, 3, h, w) uint8, contiguous."""
    array = np.asarray(pictures)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
