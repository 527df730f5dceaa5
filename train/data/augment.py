"""Random views of training clips: crop, flip, light, direction. One draw a clip keeps its motion.

The crop is TSN's MultiScaleCrop (arXiv:1507.02159), relative to the picture rule. Its scales are
shares of a *large window*, 256/224 of what the model sees in a test: so the scale 0.875 at the
centre is the test's own view, bit for bit, whatever the crop rule.

    center  The large window is the largest of the input's shape; it may lie anywhere in the frame.
    full    The large window is the frame with a margin of 1/14 on each side. Where a view reaches
    roi     beyond the frame it is filled as the letterbox is. The view takes the place in the
            letterbox that the frame (the region) takes in a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import (
    CENTER_SHARE,
    PAD_RGB,
    Picture,
    PictureRule,
    Region,
    fit_picture,
    landing_region,
    resize,
    visible_region,
)
from train.data.sampling import Key

SCALES = (1.0, 0.875, 0.75, 0.66)
# Height and width may differ by one step of the scales.
PAIRS = tuple((h, w) for i, h in enumerate(SCALES) for w in SCALES[max(0, i - 1) : i + 2])
# Quarters of the free room, down and across: corners, centre, edges' middles, inner corners.
PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)
# Keeps these draws apart from the sampling of frames, which has the same seed, epoch and item.
STREAM = 1
# Of the light in a darkened clip; a lit room of grey level 112 becomes 3.5 to 56.
DARKEST, LIGHTEST = 1 / 32, 1 / 2


@dataclass(frozen=True)
class AugmentRule:
    """How training clips are varied; all draws come from (seed, epoch, item) alone.

    Attributes:
        multi_scale_crop: Draw one of 10 scale pairs and 13 places a clip.
        flip: Mirror half of the clips whose class `flip_map` names.
        flip_map: What a mirrored clip of a class shows: another class, or the same. Clips of
            classes it does not name are never mirrored.
        seed: Seed of the draws.
        jitter: Largest relative change of brightness, contrast and each colour, in [0, 1); 0.2 is
            mild. For small sets of one room and one light; the published recipes use none.
        low_light: Share of the clips that are darkened, to between half and a thirty-second of
            their light: a room at night, as a camera without infrared sees it.
        reverse_map: What a clip of a class shows backwards; half of its clips are. Clips of
            classes it does not name are never reversed.
    """

    multi_scale_crop: bool = False
    flip: bool = False
    flip_map: Mapping[int, int] = field(default_factory=dict)
    seed: int = 0
    jitter: float = 0.0
    low_light: float = 0.0
    reverse_map: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.low_light <= 1:
            raise ValueError(f"low_light must be in [0, 1], got {self.low_light}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be in [0, 1), got {self.jitter}")

    def apply(
        self, frames: Sequence[Picture], label: int, picture: PictureRule, key: Key
    ) -> tuple[list[Picture], int]:
        """The model's pictures of a clip, and what they show.

        Args:
            frames: T frames, shape (H, W, 3), uint8, RGB.
            label: Class index.
            picture: How a frame becomes the model's input.
            key: Epoch and item.

        Returns:
            T pictures, shape (height_px, width_px, 3), uint8, RGB, and the class index.
        """
        rng = np.random.default_rng((self.seed, *key, STREAM))
        # every draw is made, used or not: one switch does not change what the others draw
        pair = PAIRS[rng.integers(len(PAIRS))]
        place = PLACES[rng.integers(len(PLACES))]
        mirrors = rng.random() < 0.5
        table = light_table(rng, self.jitter)
        is_dark, gain = rng.random() < self.low_light, dark_gain(rng)
        is_reversed = rng.random() < 0.5
        if is_dark:
            table = np.rint(table * gain).astype(np.uint8)
        if self.multi_scale_crop:
            pictures = [cut(frame, picture, pair, place) for frame in frames]
        else:
            pictures = [fit_picture(frame, picture) for frame in frames]
        if self.jitter > 0 or is_dark:
            pictures = [cv2.LUT(one, table) for one in pictures]  # type: ignore[misc]
        if self.flip and mirrors and label in self.flip_map:
            pictures = [one[:, ::-1] for one in pictures]
            label = self.flip_map[label]
        if is_reversed and label in self.reverse_map:
            pictures = pictures[::-1]
            label = self.reverse_map[label]
        return pictures, label


def crop_window(
    frame_height_px: int,
    frame_width_px: int,
    rule: PictureRule,
    pair: tuple[float, float],
    place: tuple[int, int],
) -> Region:
    """The window of a frame that a crop shows.

    Args:
        frame_height_px: Height of the frame, >= 1.
        frame_width_px: Width of the frame, >= 1.
        rule: The picture rule.
        pair: Height and width as shares of the large window, one of `PAIRS`.
        place: Quarters of the free room above it and left of it, one of `PLACES`.

    Returns:
        The window; with `full` and `roi` it may reach beyond the frame.

    Example:
        >>> rule = PictureRule(height_px=224, width_px=224, crop="center")
        >>> crop_window(256, 340, rule, (1.0, 0.875), (0, 4))
        Region(x_px=116, y_px=0, width_px=224, height_px=256)
    """
    seen = visible_region(frame_height_px, frame_width_px, rule)
    large = Region(0, 0, frame_width_px, frame_height_px)
    if rule.crop != "center":
        height, width = (round(side / CENTER_SHARE) for side in (seen.height_px, seen.width_px))
        left = seen.x_px - (width - seen.width_px) // 2
        top = seen.y_px - (height - seen.height_px) // 2
        large = Region(left, top, width, height)
    height = max(1, min(large.height_px, round(seen.height_px / CENTER_SHARE * pair[0])))
    width = max(1, min(large.width_px, round(seen.width_px / CENTER_SHARE * pair[1])))
    top = large.y_px + (large.height_px - height) * place[0] // 4
    left = large.x_px + (large.width_px - width) * place[1] // 4
    return Region(left, top, width, height)


def cut(
    frame: Picture, rule: PictureRule, pair: tuple[float, float], place: tuple[int, int]
) -> Picture:
    """The model's picture of a window of a frame.

    Args:
        frame: Shape (H, W, 3), uint8, RGB.
        rule: The picture rule.
        pair: As in `crop_window`.
        place: As in `crop_window`.

    Returns:
        Shape (height_px, width_px, 3), uint8, RGB.
    """
    window = crop_window(frame.shape[0], frame.shape[1], rule, pair, place)
    seen = visible_region(frame.shape[0], frame.shape[1], rule)
    landing = landing_region(seen.height_px, seen.width_px, rule)
    y0, y1 = max(0, window.y_px), min(frame.shape[0], window.y_px + window.height_px)
    x0, x1 = max(0, window.x_px), min(frame.shape[1], window.x_px + window.width_px)
    down, across = landing.height_px / window.height_px, landing.width_px / window.width_px
    top, bottom = (landing.y_px + round((y - window.y_px) * down) for y in (y0, y1))
    left, right = (landing.x_px + round((x - window.x_px) * across) for x in (x0, x1))
    inner = resize(frame[y0:y1, x0:x1], bottom - top, right - left)
    if inner.shape[:2] == (rule.height_px, rule.width_px):
        return inner
    picture = np.empty((rule.height_px, rule.width_px, 3), np.uint8)
    picture[:] = PAD_RGB
    picture[top:bottom, left:right] = inner
    return picture


def dark_gain(rng: np.random.Generator) -> float:
    """How much light is left in the dark: log-uniform between `DARKEST` and `LIGHTEST`."""
    return float(np.exp(rng.uniform(np.log(DARKEST), np.log(LIGHTEST))))


def light_table(rng: np.random.Generator, jitter: float) -> NDArray[np.uint8]:
    """A table of grey levels for another light: brightness, contrast, and a cast of each colour.

    Args:
        rng: Source of randomness; five numbers are drawn.
        jitter: Largest relative change, in [0, 1).

    Returns:
        Shape (1, 256, 3), uint8: new levels by old level and colour, for `cv2.LUT`.
    """
    brightness, contrast, *cast = rng.uniform(-jitter, jitter, 5)
    levels = (np.arange(256.0) - 128) * (1 + contrast) + 128
    gains = (1 + brightness) * (1 + np.array(cast) / 2)
    return np.clip(np.rint(levels[:, None] * gains), 0, 255).astype(np.uint8)[None]
