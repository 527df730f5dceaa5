"""Draws the arrow of time: a sprite that moves over a slowly panning photograph.

A scene is a pair of poses an object moves between. Progress says where between them it is, so a
scene can be drawn at any moment, forward or backward, and the same moment gives the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Picture

FRAME_PX = 96
SPRITE_PX = 44
CORNER_PX = 9
DIGIT_PX = 30
BAND_PX = 7
# How far the view may travel from the middle of the backdrop, each way.
PAN_MARGIN_PX = 15
BACKDROP_PX = FRAME_PX + 2 * PAN_MARGIN_PX


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where an object is: centre and size in frame pixels, angle in degrees, opacity 0..1.

    The angle grows clockwise as a person sees it.
    """

    x_px: float
    y_px: float
    size_px: float
    angle_deg: float
    opacity: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Actor:
    """One object and the two poses it moves between.

    Attributes:
        sprite: Shape (SPRITE_PX, SPRITE_PX, 4), uint8, RGBA with colour already times alpha.
        start: Pose at progress 0.
        end: Pose at progress 1.
    """

    sprite: Picture
    start: Pose
    end: Pose


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Everything that is needed to draw one action at any moment.

    Attributes:
        label: The action's name.
        backdrop: Shape (BACKDROP_PX, BACKDROP_PX, 3), uint8, RGB; the view pans over it.
        pan_px_s: The view's speed over the backdrop, x and y, pixels a second.
        actors: The objects, drawn in order.
        ease: 0 moves at constant speed, 1 starts and stops softly; symmetric in time.
        duration_s: Seconds from progress 0 to progress 1.
        backward: The actors run from `end` to `start`.
    """

    label: str
    backdrop: Picture
    pan_px_s: tuple[float, float]
    actors: tuple[Actor, ...]
    ease: float
    duration_s: float
    backward: bool = False


def reversed_scene(scene: Scene, label: str) -> Scene:
    """The same scene with time running the other way.

    Rendering it at progress u and time t gives the bytes of `scene` at 1 - u and -t.

    Args:
        scene: Any scene.
        label: What the reversed action is called.
    """
    pan_x, pan_y = scene.pan_px_s
    return replace(scene, label=label, pan_px_s=(-pan_x, -pan_y), backward=not scene.backward)


def render(scene: Scene, progress: float, time_s: float) -> Picture:
    """Draw one frame.

    Args:
        scene: What to draw.
        progress: How much of the action is done; outside [0, 1] the object rests at its ends.
        time_s: Seconds since the middle of the action; moves only the background.

    Returns:
        The frame, shape (96, 96, 3), uint8, RGB.
    """
    frame = _view(scene, time_s)
    done = min(1.0, max(0.0, progress))
    share = _eased(1.0 - done if scene.backward else done, scene.ease)
    for actor in scene.actors:
        draw_actor(frame, actor.sprite, _between(actor.start, actor.end, share))
    return frame


def draw_sprite(
    digit: NDArray[np.float64], plate_rgb: tuple[int, int, int], ink_rgb: tuple[int, int, int]
) -> Picture:
    """A digit on a rounded plate; a band of ink at its foot shows which way is up.

    Args:
        digit: Shape (8, 8), 0..16 as scikit-learn ships it.
        plate_rgb: The plate's colour.
        ink_rgb: The colour of digit, band and edge.

    Returns:
        Shape (SPRITE_PX, SPRITE_PX, 4), uint8, RGBA with colour already times alpha.
    """
    ink = np.maximum(_frame_of_plate(), _digit_ink(digit))[..., None]
    plate = _plate_alpha()[..., None]
    colour = np.asarray(plate_rgb) * (1 - ink) + np.asarray(ink_rgb) * ink
    return np.rint(np.concatenate([colour * plate, 255 * plate], 2)).astype(np.uint8)


def _view(scene: Scene, time_s: float) -> Picture:
    x, y = (BACKDROP_PX / 2 - 0.5 + _within_margin(v * time_s) for v in scene.pan_px_s)
    return cv2.getRectSubPix(scene.backdrop, (FRAME_PX, FRAME_PX), (x, y))  # type: ignore[return-value]


def _within_margin(offset_px: float) -> float:
    return min(float(PAN_MARGIN_PX), max(-float(PAN_MARGIN_PX), offset_px))


def _eased(share: float, ease: float) -> float:
    return (1 - ease) * share + ease * share * share * (3 - 2 * share)


def _between(start: Pose, end: Pose, share: float) -> Pose:
    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    return Pose(
        x_px=mix(start.x_px, end.x_px),
        y_px=mix(start.y_px, end.y_px),
        size_px=mix(start.size_px, end.size_px),
        angle_deg=mix(start.angle_deg, end.angle_deg),
        opacity=mix(start.opacity, end.opacity),
    )


def draw_actor(frame: Picture, sprite: Picture, pose: Pose) -> None:
    """Blend the sprite into the part of the frame that it can touch."""
    reach = 0.72 * pose.size_px + 1
    left, right = _clipped(pose.x_px - reach), _clipped(pose.x_px + reach + 1)
    top, bottom = _clipped(pose.y_px - reach), _clipped(pose.y_px + reach + 1)
    if right <= left or bottom <= top or pose.opacity <= 0:
        return
    matrix = _sprite_matrix(pose, left, top)
    layer = cv2.warpAffine(sprite, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    if pose.opacity < 1:
        layer = cv2.convertScaleAbs(layer, alpha=pose.opacity)
    part = frame[top:bottom, left:right]
    clear = 255 - cv2.cvtColor(layer[..., 3], cv2.COLOR_GRAY2RGB)
    behind = cv2.multiply(part, clear, scale=1 / 255)
    part[:] = cv2.add(behind, cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB))


def _clipped(edge_px: float) -> int:
    return min(FRAME_PX, max(0, math.floor(edge_px)))


def _sprite_matrix(pose: Pose, left_px: int, top_px: int) -> NDArray[np.float64]:
    """From sprite pixels to pixels of the part at (left, top): scale, turn, move."""
    scale = pose.size_px / SPRITE_PX
    cos = scale * math.cos(math.radians(pose.angle_deg))
    sin = scale * math.sin(math.radians(pose.angle_deg))
    middle = (SPRITE_PX - 1) / 2
    x = pose.x_px - left_px - (cos - sin) * middle
    y = pose.y_px - top_px - (sin + cos) * middle
    return np.array([[cos, -sin, x], [sin, cos, y]], np.float64)


def _digit_ink(digit: NDArray[np.float64]) -> NDArray[np.float64]:
    size = (DIGIT_PX, DIGIT_PX)
    large = cv2.resize(digit / 16, size, interpolation=cv2.INTER_CUBIC)
    ink = np.zeros((SPRITE_PX, SPRITE_PX))
    top, left = (SPRITE_PX - BAND_PX - DIGIT_PX) // 2 + 1, (SPRITE_PX - DIGIT_PX) // 2
    ink[top : top + DIGIT_PX, left : left + DIGIT_PX] = np.clip(3 * large - 0.9, 0, 1)
    return ink


def _rounded(inset_px: float) -> NDArray[np.float64]:
    """Coverage 0..1 of a rounded square, `inset_px` smaller than the sprite on every side."""
    axis = np.abs(np.arange(SPRITE_PX) - (SPRITE_PX - 1) / 2)
    corner = max(1.0, CORNER_PX - inset_px)
    past = np.maximum(axis - (SPRITE_PX / 2 - inset_px - corner), 0)
    return np.clip(corner + 0.5 - np.hypot(past[None], past[:, None]), 0, 1)


@cache
def _plate_alpha() -> NDArray[np.float64]:
    return _rounded(1.0)


@cache
def _frame_of_plate() -> NDArray[np.float64]:
    ink = 1 - _rounded(3.5)
    ink[SPRITE_PX - BAND_PX - 2 :] = 1
    return ink
