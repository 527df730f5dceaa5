"""From a camera's picture to the model's: the one function every room uses.

Training, evaluation, calibration and the live runtime all call `fit_picture`, so they cannot
disagree on crop, resize or colour. Normalisation is inside the exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
Crop: TypeAlias = Literal["center", "full", "roi"]
Colour: TypeAlias = Literal["RGB", "BGR"]

CROPS: tuple[Crop, ...] = ("center", "full", "roi")
# The paper protocols resize the short side to 256 and cut 224: 0.875 of the frame's short side.
CENTER_SHARE = 224 / 256
# Letterbox bars carry the mean of ImageNet: close to zero once the graph has normalised them.
PAD_RGB = (124, 116, 104)


@dataclass(frozen=True, kw_only=True)
class PictureRule:
    """How a frame becomes the model's input.

    Attributes:
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        crop: `center` (the paper protocols' centre window), `full` (the whole frame, letterboxed)
            or `roi` (a region, letterboxed).
        roi: For `roi`: x0, y0, x1, y1 as fractions of the frame, 0 <= x0 < x1 <= 1.
    """

    height_px: int
    width_px: int
    crop: Crop = "full"
    roi: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            if getattr(self, name) < 8:
                raise ValueError(f"{name} must be >= 8, got {getattr(self, name)}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be one of {', '.join(CROPS)}, got {self.crop!r}")
        if (self.crop == "roi") != (self.roi is not None):
            raise ValueError(f"crop {self.crop!r} with roi {self.roi}: give a roi with `roi` only")
        if self.roi is not None:
            x0, y0, x1, y1 = self.roi
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(
                    f"roi must be x0,y0,x1,y1 fractions with 0 <= x0 < x1 <= 1, got {self.roi}"
                )

    def to_json(self) -> dict[str, Any]:
        """The rule as `bundle.json` and checkpoints store it; colour order is part of it."""
        return {
            "height_px": self.height_px,
            "width_px": self.width_px,
            "crop": self.crop,
            "roi": None if self.roi is None else list(self.roi),
            "colour": "RGB",
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PictureRule:
        """The rule that `to_json` wrote.

        Raises:
            ValueError: A colour order other than RGB, or values out of range.
            KeyError: A field is missing.
        """
        if data["colour"] != "RGB":
            raise ValueError(f"picture colour must be 'RGB', got {data['colour']!r}")
        roi = data["roi"]
        return cls(
            height_px=int(data["height_px"]),
            width_px=int(data["width_px"]),
            crop=data["crop"],
            roi=None if roi is None else (roi[0], roi[1], roi[2], roi[3]),
        )


@dataclass(frozen=True)
class Region:
    """A rectangle in a frame, in pixels: what the model sees of it."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


def visible_region(frame_height_px: int, frame_width_px: int, rule: PictureRule) -> Region:
    """The part of a frame that reaches the model.

    Args:
        frame_height_px: Height of the frame, >= 1.
        frame_width_px: Width of the frame, >= 1.
        rule: The bundle's picture rule.

    Returns:
        The region; `full` gives the whole frame.

    Example:
        >>> rule = PictureRule(height_px=224, width_px=224, crop="center")
        >>> visible_region(720, 1280, rule)
        Region(x_px=325, y_px=45, width_px=630, height_px=630)
    """
    if rule.crop == "full":
        return Region(0, 0, frame_width_px, frame_height_px)
    if rule.roi is not None:
        x0, y0, x1, y1 = rule.roi
        left, top = round(x0 * frame_width_px), round(y0 * frame_height_px)
        width = max(1, round(x1 * frame_width_px) - left)
        height = max(1, round(y1 * frame_height_px) - top)
        return Region(min(left, frame_width_px - 1), min(top, frame_height_px - 1), width, height)
    fit = CENTER_SHARE * min(frame_height_px / rule.height_px, frame_width_px / rule.width_px)
    height = max(1, min(frame_height_px, round(fit * rule.height_px)))
    width = max(1, min(frame_width_px, round(fit * rule.width_px)))
    return Region((frame_width_px - width) // 2, (frame_height_px - height) // 2, width, height)


def fit_picture(frame_hwc: Picture, rule: PictureRule, colour: Colour = "RGB") -> Picture:
    """Crop and resize one frame to the model's input.

    Resizing is decimation by a whole factor (area average) followed by bilinear interpolation:
    large frames do not alias, and both steps give the same bytes on x86 and on Arm. Both work on
    each channel alone, so a BGR frame is made RGB when it is small, with the same bytes.

    Args:
        frame_hwc: One frame, shape (H, W, 3), uint8.
        rule: The bundle's picture rule.
        colour: Order of the frame's channels.

    Returns:
        The model's picture, shape (height_px, width_px, 3), uint8, RGB, C-contiguous. It may be
        the frame itself where nothing has to change.

    Raises:
        ValueError: `frame_hwc` is not a (H, W, 3) uint8 array.
    """
    if frame_hwc.ndim != 3 or frame_hwc.shape[2] != 3 or frame_hwc.dtype != np.uint8:
        raise ValueError(
            f"a frame must be (H, W, 3) uint8, got {frame_hwc.shape} {frame_hwc.dtype}"
        )
    region = visible_region(frame_hwc.shape[0], frame_hwc.shape[1], rule)
    part = frame_hwc[
        region.y_px : region.y_px + region.height_px, region.x_px : region.x_px + region.width_px
    ]
    landing = landing_region(region.height_px, region.width_px, rule)
    inner = resize(part, landing.height_px, landing.width_px)
    if colour == "BGR":
        inner = cv2.cvtColor(inner, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    if (landing.height_px, landing.width_px) == (rule.height_px, rule.width_px):
        return inner
    picture = np.empty((rule.height_px, rule.width_px, 3), np.uint8)
    picture[:] = PAD_RGB
    picture[
        landing.y_px : landing.y_px + landing.height_px,
        landing.x_px : landing.x_px + landing.width_px,
    ] = inner
    return picture


def landing_region(region_height_px: int, region_width_px: int, rule: PictureRule) -> Region:
    """Where in the model's picture the visible region lands; bars fill the rest.

    Args:
        region_height_px: Height of the visible region, >= 1.
        region_width_px: Width of the visible region, >= 1.
        rule: The bundle's picture rule.

    Returns:
        A rectangle in the picture; `center` fills the whole picture.

    Example:
        >>> landing_region(720, 1280, PictureRule(height_px=224, width_px=224))
        Region(x_px=0, y_px=49, width_px=224, height_px=126)
    """
    if rule.crop == "center":
        return Region(0, 0, rule.width_px, rule.height_px)
    fit = min(rule.height_px / region_height_px, rule.width_px / region_width_px)
    height = max(1, min(rule.height_px, round(fit * region_height_px)))
    width = max(1, min(rule.width_px, round(fit * region_width_px)))
    return Region((rule.width_px - width) // 2, (rule.height_px - height) // 2, width, height)


def resize(part: Picture, height_px: int, width_px: int) -> Picture:
    """The one resize: whole-factor area decimation, then bilinear; same bytes on every machine.

    Args:
        part: A picture, shape (H, W, 3), uint8.
        height_px: Wanted height, >= 1.
        width_px: Wanted width, >= 1.

    Returns:
        Shape (height_px, width_px, 3), uint8, C-contiguous; `part` itself where it fits already.
    """
    factor = min(part.shape[0] // height_px, part.shape[1] // width_px)
    if factor >= 2:
        part = _decimate(part, factor)
    if part.shape[:2] != (height_px, width_px):
        part = cv2.resize(part, (width_px, height_px), interpolation=cv2.INTER_LINEAR_EXACT)  # type: ignore[assignment]
    return np.ascontiguousarray(part)


def _decimate(part: Picture, factor: int) -> Picture:
    """Average factor × factor blocks; a remainder is cut evenly from both sides."""
    height, width = part.shape[0] // factor, part.shape[1] // factor
    top, left = (part.shape[0] - height * factor) // 2, (part.shape[1] - width * factor) // 2
    part = part[top : top + height * factor, left : left + width * factor]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
