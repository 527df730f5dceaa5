"""Chosen frames of a video file, exact, with the least decoding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.preprocess import Picture
from train.data.packet_index import PacketIndex, decoded, index_by_decoding, index_from_packets
from train.data.video_stream import Converter, VideoFile

# Going to a keyframe costs as much as decoding so many frames on the way.
SEEK_COST_FRAMES = 4
# Indices kept a process: a clip's takes 2 kB, a 10-minute recording's 300 kB.
KEPT_INDICES = 256


class VideoReader:
    """Frames of one video file by their number.

    Args:
        path: The file.

    Attributes:
        index: The file's frames and their times.

    Raises:
        DataError: The file is missing, no video, cut short, damaged, or of an unknown codec.
    """

    def __init__(self, path: Path) -> None:
        self._video = VideoFile(path)
        try:
            self.index = _kept_index(self._video, by_decoding=False)
        except BaseException:
            self._video.close()
            raise
        self._converter = Converter()
        self._is_trusted = True  # until other frames come than the index says

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Stream times of the frames, shape (F,), ascending, as the runtime's source gives them."""
        return self.index.times_s

    @property
    def frame_s(self) -> float:
        """Median spacing of the frames, seconds; 0 for a single frame."""
        return self.index.frame_s

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the stream to the end of the last frame."""
        return self.index.facts.duration_s

    def frames(self, indices: NDArray[np.int64]) -> list[Picture]:
        """Frames by number.

        Where a frame turns out not to decode, the next one that does takes its place, as it does
        in the runtime.

        Args:
            indices: Numbers 0..F-1, shape (N,), in any order, repeats allowed.

        Returns:
            N pictures, (H, W, 3), uint8, RGB, upright. A repeated number gives the same array.

        Raises:
            ValueError: A number outside 0..F-1.
            DataError: The file is damaged.
        """
        wanted = np.unique(np.asarray(indices, np.int64))
        if not len(wanted):
            return []
        num_frames = len(self.times_s)
        if not 0 <= wanted[0] <= wanted[-1] < num_frames:
            raise ValueError(
                f"{self._video.path} has frames 0..{num_frames - 1}, got {wanted[0]}..{wanted[-1]}"
            )
        found = self._found(wanted)
        return [found[int(i)] for i in indices]

    def close(self) -> None:
        """Close the file."""
        self._video.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _found(self, wanted: NDArray[np.int64]) -> dict[int, Picture]:
        if not self.index.from_packets:
            return self._by_count(wanted)
        if self._is_trusted:
            try:
                return self._by_stamp(wanted)
            except _OtherFramesError:
                self._is_trusted = False
        return self._by_time(wanted)

    def _by_stamp(self, wanted: NDArray[np.int64]) -> dict[int, Picture]:
        found: dict[int, Picture] = {}
        for group in _groups(self.index, wanted):
            found |= self._picked(self._numbered_from(self.index.key_before(group[0])), group)
        return found

    def _by_count(self, wanted: NDArray[np.int64]) -> dict[int, Picture]:
        self._video.reopen()
        try:
            return self._picked(enumerate(decoded(self._video.packets())), wanted)
        except _OtherFramesError as err:
            raise DataError(f"{self._video.path} changed while it was read") from err

    def _by_time(self, wanted: NDArray[np.int64]) -> dict[int, Picture]:
        """The frames at the indexed times, of a file whose packets do not tell the truth."""
        true_s = _kept_index(self._video, by_decoding=True).times_s
        numbers = np.searchsorted(true_s, self.times_s[wanted] - 1e-6)
        numbers = np.minimum(numbers, len(true_s) - 1)
        found = self._by_count(np.unique(numbers))
        return {int(i): found[int(n)] for i, n in zip(wanted, numbers, strict=True)}

    def _numbered_from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers, from a keyframe or an earlier one on.

        Raises:
            _OtherFramesError: Another frame came than the index says.
        """
        index = self.index
        stamps = index.key_stamps[key].tolist()
        place = self._video.packets_at(stamps, index.key_stamps[: key + 1, 0])
        if place is None:
            self._video.reopen()
            number, packets = 0, self._video.packets()
        else:
            start = int(np.flatnonzero(index.key_stamps[:, 0] == place[0])[0])
            number, packets = int(index.keys[start]), place[1]
        for frame in decoded(packets):
            if number == len(index.pts) or frame.pts != index.pts[number]:
                raise _OtherFramesError
            yield number, frame
            number += 1

    def _picked(
        self, numbered: Iterable[tuple[int, av.VideoFrame]], wanted: NDArray[np.int64]
    ) -> dict[int, Picture]:
        """Wanted frames as pictures; nothing is decoded past the last of them."""
        found: dict[int, Picture] = {}
        missing = set(wanted.tolist())
        for number, frame in numbered:
            if number in missing:
                found[number] = self._converter.picture(frame)
                missing.remove(number)
                if not missing:
                    return found
        raise _OtherFramesError


class _OtherFramesError(Exception):
    """The frames that decode are not those that the packets promised."""


def _groups(index: PacketIndex, wanted: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Wanted frames, ascending, in groups that are decoded without a jump."""
    keys = index.keys[np.searchsorted(index.keys, wanted, side="right") - 1]
    jumps = np.flatnonzero(keys[1:] > wanted[:-1] + SEEK_COST_FRAMES) + 1
    return np.split(wanted, jumps)


_kept: OrderedDict[tuple[str, int, int, bool], PacketIndex] = OrderedDict()


def _kept_index(video: VideoFile, *, by_decoding: bool) -> PacketIndex:
    """The index of a file, from memory where the file has not changed since."""
    stat = video.path.stat()
    key = (str(video.path), stat.st_size, stat.st_mtime_ns, by_decoding)
    index = _kept.pop(key, None)
    if index is None:
        index = None if by_decoding else index_from_packets(video)
        index = index or index_by_decoding(video)
    _kept[key] = index
    if len(_kept) > KEPT_INDICES:
        _kept.popitem(last=False)
    return index
