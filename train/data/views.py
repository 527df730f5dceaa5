"""Several looks at one clip: C moments in time × K crops, for the test protocols.

Time. `segments`: every clip takes one frame of each of T equal parts of the action. One clip
takes their centres; C clips take moments evenly spread over a part, centre first: of two, the
second takes the parts' starts, as TSM's twice-sample does (arXiv:1811.08383). `dense`: C windows
of the contract's length, evenly spread from the action's start to its end (Kinetics).

Space. One crop is the checkpoint's own picture. Three crops are the papers' "full resolution": the
frame's short side becomes 256/224 of the model's, and squares (or windows of the input's shape)
are cut at the left or top, in the centre, and at the right or bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from runtime.errors import DataError
from runtime.preprocess import CENTER_SHARE, Picture, PictureRule, fit_picture, resize
from train.data.catalog import Split
from train.data.clips import ArrayClipSet, ClipRule, clip_tensor, span_of
from train.data.decode import DEFAULT_FPS, FrameReader, open_frames
from train.data.entry import VideoSegment
from train.data.sampling import indices_nearest, segment_times

Moments: TypeAlias = Literal["segments", "dense"]
ViewItem: TypeAlias = tuple[Tensor, int]

CROP_COUNTS = (1, 3)


@dataclass(frozen=True)
class ViewRule:
    """Which views of a clip are averaged.

    Attributes:
        num_clips: Clips C in time.
        num_crops: Crops K in space, 1 or 3.
        moments: How the clips lie in time.
    """

    num_clips: int = 1
    num_crops: int = 1
    moments: Moments = "segments"

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"num_clips must be >= 1, got {self.num_clips}")
        if self.num_crops not in CROP_COUNTS:
            raise ValueError(f"num_crops must be 1 or 3, got {self.num_crops}")
        if self.moments not in ("segments", "dense"):
            raise ValueError(f"moments must be segments or dense, got {self.moments!r}")

    @property
    def num_views(self) -> int:
        """Views of one clip, C·K."""
        return self.num_clips * self.num_crops


def view_times(
    rule: ViewRule, start_s: float, end_s: float, num_segments: int, window_s: float
) -> NDArray[np.float64]:
    """The moments that every clip of a rule takes.

    Args:
        rule: The views.
        start_s: Start of the action, seconds.
        end_s: End of the action, > start_s.
        num_segments: Frames T of a clip.
        window_s: Length of a dense clip; an action that is shorter is one clip as a whole.

    Returns:
        Times, shape (C, T), float64, seconds, ascending along T.

    Example:
        >>> view_times(ViewRule(2), 0.0, 4.0, 4, 1.0).tolist()
        [[0.5, 1.5, 2.5, 3.5], [0.0, 1.0, 2.0, 3.0]]
        >>> view_times(ViewRule(3, moments="dense"), 0.0, 4.0, 2, 2.0).tolist()
        [[0.5, 1.5], [1.5, 2.5], [2.5, 3.5]]
    """
    if rule.moments == "dense":
        length = min(window_s, end_s - start_s)
        firsts = np.linspace(start_s, end_s - length, rule.num_clips)
        if rule.num_clips == 1:
            firsts = np.array([(start_s + end_s - length) / 2])
        return np.stack([segment_times(first, first + length, num_segments) for first in firsts])
    centres = segment_times(start_s, end_s, num_segments)
    part_s = (end_s - start_s) / num_segments
    places = (0.5 + np.arange(rule.num_clips) / rule.num_clips) % 1.0
    return centres + (places[:, None] - 0.5) * part_s


def crop_rule(picture: PictureRule, num_crops: int) -> PictureRule:
    """The rule of a view's picture: the checkpoint's, or its full-resolution size for crops."""
    if num_crops == 1:
        return picture
    height, width = (round(side / CENTER_SHARE) for side in (picture.height_px, picture.width_px))
    return PictureRule(height_px=height, width_px=width, crop="full")


def crops_of(frame_hwc: Picture, picture: PictureRule) -> list[Picture]:
    """Left (or top), centre and right (or bottom) window of a frame, as large as it allows.

    A frame of the windows' own shape gives the same picture three times.

    Args:
        frame_hwc: Shape (H, W, 3), uint8, RGB.
        picture: Size of the crops, `crop_rule` gives it.

    Returns:
        Three pictures (height_px, width_px, 3), uint8, RGB.
    """
    height, width = frame_hwc.shape[:2]
    fit = min(height / picture.height_px, width / picture.width_px)
    inner_h = max(1, min(height, round(fit * picture.height_px)))
    inner_w = max(1, min(width, round(fit * picture.width_px)))
    places = [(share * (height - inner_h), share * (width - inner_w)) for share in (0.0, 0.5, 1.0)]
    corners = [(int(top), int(left)) for top, left in places]
    parts = [frame_hwc[top : top + inner_h, left : left + inner_w] for top, left in corners]
    return [resize(part, picture.height_px, picture.width_px) for part in parts]


class ArrayViewSet(Dataset[ViewItem]):
    """Views of clips in arrays: clips in time only, the pictures are the model's already.

    Args:
        clips: The split's clips.
        rule: The views; one crop.
        window_s: Length of a dense clip, seconds.

    Raises:
        DataError: Crops are asked for.
    """

    groups: tuple[str, ...] | None = None

    def __init__(self, clips: ArrayClipSet, rule: ViewRule, window_s: float) -> None:
        if rule.num_crops != 1:
            raise DataError(
                f"{rule.num_crops} crops need the frames of video files; these clips are arrays of "
                f"the model's own size: use --protocol {rule.num_clips}x1"
            )
        self._clips = clips
        self._rule = rule
        self._window_s = window_s

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """C, T, h and w of every item."""
        _, _, height, width, _ = self._clips.frames.shape
        return self._rule.num_clips, self._clips.rule.num_segments, height, width

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> ViewItem:
        """All views (C, T, 3, h, w) uint8 of one clip, and its class."""
        clip, backwards, label = self._clips.items[index]
        frames, duration_s = self._clips.frames[clip], float(self._clips.duration_s[clip])
        T = self._clips.rule.num_segments
        times_s = view_times(self._rule, 0.0, duration_s, T, self._window_s)
        middles_s = segment_times(0.0, duration_s, len(frames))
        chosen = np.stack([indices_nearest(clip_s, middles_s) for clip_s in times_s])
        if backwards:
            chosen = len(frames) - 1 - chosen
        return torch.stack([clip_tensor(frames[of_clip]) for of_clip in chosen]), label


class VideoViewSet(Dataset[ViewItem]):
    """Views of segments of videos; each file is read once for all of its views.

    Args:
        segments: The labelled segments.
        picture: The checkpoint's picture rule.
        num_segments: Frames T of a clip.
        window_s: Length of a dense clip, seconds.
        rule: The views.
    """

    def __init__(
        self,
        segments: Sequence[VideoSegment],
        picture: PictureRule,
        num_segments: int,
        window_s: float,
        rule: ViewRule,
    ) -> None:
        self.segments = segments
        self._picture = crop_rule(picture, rule.num_crops)
        self._num_segments = num_segments
        self._window_s = window_s
        self._rule = rule

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """C·K, T, h and w of every item."""
        picture = self._picture
        return self._rule.num_views, self._num_segments, picture.height_px, picture.width_px

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Recording of every clip; None where the data do not say."""
        names = tuple(segment.group for segment in self.segments)
        return names if all(names) else None

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> ViewItem:
        """All views (C·K, T, 3, h, w) uint8 of one segment, clip by clip, and its class.

        Raises:
            DataError: The video cannot be read, or ends before the segment starts.
        """
        segment = self.segments[index]
        with open_segment(segment) as reader:
            chosen = self._chosen(reader, segment)
            wanted, place = np.unique(chosen, return_inverse=True)
            pictures = [self._pictures(frame) for frame in reader.frames(wanted)]
        place = place.reshape(chosen.shape)
        views = [
            clip_tensor([pictures[frame][crop] for frame in of_clip])
            for of_clip in place
            for crop in range(self._rule.num_crops)
        ]
        return torch.stack(views), segment.label

    def _chosen(self, reader: FrameReader, segment: VideoSegment) -> NDArray[np.int64]:
        """Frames (C, T) of the segment's clips."""
        start_s, end_s = span_of(segment, reader)
        times_s = view_times(self._rule, start_s, end_s, self._num_segments, self._window_s)
        middles_s = reader.times_s + reader.frame_s / 2
        return np.stack([indices_nearest(clip_s, middles_s) for clip_s in times_s])

    def _pictures(self, frame: Picture) -> list[Picture]:
        if self._rule.num_crops == 1:
            return [fit_picture(frame, self._picture)]
        return crops_of(frame, self._picture)


def open_segment(segment: VideoSegment) -> FrameReader:
    """Open a segment's recording as its data set wants it read.

    Raises:
        DataError: It cannot be read.
    """
    fps = DEFAULT_FPS if segment.fps is None else segment.fps
    return open_frames(segment.path, fps=fps, template=segment.template)


def view_set(
    split: Split, picture: PictureRule, num_segments: int, window_s: float, rule: ViewRule
) -> ArrayViewSet | VideoViewSet:
    """A split as a set of views.

    Args:
        split: What `load_split` gave.
        picture: The checkpoint's picture rule.
        num_segments: Frames T of a clip.
        window_s: The contract's window, the length of a dense clip, seconds.
        rule: The views.

    Raises:
        DataError: Crops of arrays, or arrays of another size than the model's.
    """
    if split.arrays is None:
        return VideoViewSet(split.segments, picture, num_segments, window_s, rule)
    clips = split.clips(picture, ClipRule(num_segments, window_s / num_segments, "segments"))
    if not isinstance(clips, ArrayClipSet):
        raise TypeError(f"a split of arrays gave {type(clips).__name__}")
    return ArrayViewSet(clips, rule, window_s)
