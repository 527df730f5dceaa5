"""The pictures of a data set's page: charts, and strips of frames as the model sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from runtime.errors import DataError
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.chart import INK, legend_above, new_figure, png_of
from train.data.check import CheckedClip, Survey
from train.data.check_summary import short_name
from train.data.clips import ArrayClipSet, ClipRule, span_of
from train.data.decode import DEFAULT_FPS, open_frames

MOST_CLASSES = 60
CLIPS_PER_CLASS = 2
FRAMES_PER_CLIP = 4
SIDE_PX = 112
JPEG_QUALITY = 80
BINS = 40
COLOURS = {
    "train": "#4c78a8",
    "validation": "#f58518",
    "test": "#54a24b",
    "calibration": "#b279a2",
}
RULE = ClipRule(FRAMES_PER_CLIP, 1.0, "segments")
PICTURE = PictureRule(height_px=SIDE_PX, width_px=SIDE_PX, crop="full")


@dataclass(frozen=True)
class Strip:
    """Frames of one clip side by side.

    Attributes:
        clip: The clip.
        jpeg: The picture; empty where the clip cannot be read after all.
    """

    clip: CheckedClip
    jpeg: bytes


def class_chart(seen: Survey, *, dark: bool) -> bytes:
    """A bar a class, in the colours of the splits, as PNG with a clear ground.

    Args:
        seen: The data.
        dark: For a dark page.
    """
    labels = seen.labels[:MOST_CLASSES]
    figure = new_figure(7.0, 0.9 + 0.24 * len(labels))
    axes = figure.subplots()
    left = np.zeros(len(labels))
    for name in seen.splits:
        counts = Counter(clip.label for clip in seen.clips_of(name))
        values = np.array([counts[label] for label in labels], float)
        axes.barh(range(len(labels)), values, left=left, color=COLOURS[name], label=name)
        left += values
    # names are not to be read as formulas
    axes.set_yticks(range(len(labels)), [short_name(label) for label in labels], parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("clips")
    legend_above(axes, dark=dark)
    return png_of(figure, axes, dark=dark)


def length_chart(seen: Survey, *, dark: bool) -> bytes:
    """How long clips are, and the window; the last bar holds all longer ones. See `class_chart`."""
    figure = new_figure(7.0, 3.2)
    axes = figure.subplots()
    lengths = {
        name: [clip.length_s for clip in seen.clips_of(name) if not clip.problem]
        for name in seen.splits
    }
    every = [length_s for found in lengths.values() for length_s in found]
    if every:
        # a few very long clips must not squeeze all others into one bar
        top_s = max(float(np.percentile(every, 98)) * 1.1, 2.2 * (seen.window_s or 0.0))
        axes.hist(
            [np.minimum(found, top_s) for found in lengths.values()],
            bins=np.linspace(0, top_s, BINS + 1).tolist(),
            stacked=True,
            color=[COLOURS[name] for name in lengths],
            label=list(lengths),
        )
    if seen.window_s is not None:
        window = f"window {seen.window_s:g} s"
        axes.axvline(seen.window_s, color=INK[dark], linestyle="--", linewidth=1.4, label=window)
    axes.set(xlabel="length of a clip, seconds (last bar: and longer)", ylabel="clips")
    legend_above(axes, dark=dark)
    return png_of(figure, axes, dark=dark)


def strips(seen: Survey) -> list[Strip]:
    """Two clips of every class, up to 60 classes; the same ones every time."""
    of_class: dict[str, list[CheckedClip]] = {label: [] for label in seen.labels[:MOST_CLASSES]}
    for clip in seen.clips:
        if clip.label in of_class and not clip.problem:
            of_class[clip.label].append(clip)
    chosen = []
    for clips in of_class.values():
        train = [clip for clip in clips if clip.split == "train"] or clips
        count = min(CLIPS_PER_CLASS, len(train))
        chosen += [train[(2 * i + 1) * len(train) // (2 * count)] for i in range(count)]
    return [Strip(clip, _strip(seen, clip)) for clip in chosen]


def _strip(seen: Survey, clip: CheckedClip) -> bytes:
    try:
        frames = _array_frames(seen, clip) if clip.path is None else _video_frames(seen, clip)
    except (DataError, OSError):
        return b""
    row = np.hstack([fit_picture(frame, PICTURE) for frame in frames])
    bgr = cv2.cvtColor(row, cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return jpeg.tobytes() if done else b""


def _video_frames(seen: Survey, clip: CheckedClip) -> Sequence[Picture]:
    segment = seen.splits[clip.split].segments[clip.item]
    fps = segment.fps or DEFAULT_FPS
    with open_frames(segment.path, fps=fps, template=segment.template) as reader:
        span = span_of(segment, reader)
        return reader.frames(
            RULE.indices(*span, reader.times_s, (0, clip.item), frame_s=reader.frame_s)
        )


def _array_frames(seen: Survey, clip: CheckedClip) -> Sequence[Picture]:
    arrays = seen.splits[clip.split].arrays
    if arrays is None:
        return []
    height_px, width_px = arrays.frames.shape[2:4]
    whole = PictureRule(height_px=height_px, width_px=width_px)
    clips = seen.splits[clip.split].clips(whole, RULE)
    if not isinstance(clips, ArrayClipSet):
        raise TypeError(f"a split of arrays must give an ArrayClipSet, got {type(clips)}")
    return list(np.ascontiguousarray(clips[clip.item][0].permute(0, 2, 3, 1).numpy()))
