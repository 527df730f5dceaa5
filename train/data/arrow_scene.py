"""The thirteen actions: which poses they connect, and how a scene is drawn from a seed.

Six pairs of classes hold the same frames in reverse order, so that a model that does not know
the order of frames stops at one half on them, by construction. `still` is its own reverse.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Picture
from train.data import arrow_pixels
from train.data.arrow_render import (
    BACKDROP_PX,
    FRAME_PX,
    Actor,
    Pose,
    Scene,
    draw_sprite,
    reversed_scene,
)

LABELS = (
    "slide_left",
    "slide_right",
    "rise",
    "fall",
    "approach",
    "recede",
    "turn_clockwise",
    "turn_counterclockwise",
    "appear",
    "disappear",
    "meet",
    "part",
    "still",
)
STILL = "still"
# The two names of each pair, forward first; `still` reversed is `still`.
_COUPLES = tuple(zip(LABELS[0:12:2], LABELS[1:12:2], strict=True))
FORWARD = (*(forward for forward, _ in _COUPLES), STILL)
PAIRS: dict[str, str] = {
    **dict(_COUPLES),
    **{backward: forward for forward, backward in _COUPLES},
    STILL: STILL,
}

WINDOW_S = 2.0
DURATION_SHARES = (0.75, 1.5)
PAN_PX_S = (2.0, 6.0)
STILL_WITHOUT_OBJECT = 0.1
# The background keeps this share of the photograph's contrast, around a middle grey.
CONTRAST = (0.35, 0.55)
GREY = (95.0, 150.0)
SATURATION = 0.6
# Side of the cut from the photograph, in pixels of the photograph; drawn at BACKDROP_PX.
CUT_PX = (80, 120)

Rng = np.random.Generator
Poses = tuple[tuple[Pose, Pose], ...]


def scene_rng(seed: int, split: str, index: int) -> Rng:
    """The random numbers of one scene; every (seed, split, index) has its own stream.

    Raises:
        ValueError: `seed` or `index` is negative, or `split` is unknown.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got seed {seed}, index {index}")
    key = (arrow_pixels.split_index(split), index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_scene(label: str, seed: int, split: str, index: int) -> Scene:
    """A scene of a class, the same for the same arguments.

    Args:
        label: One of LABELS.
        seed: Seed of the whole data set, >= 0.
        split: Which digits and which parts of the photographs may be used.
        index: Number of the scene in its split, >= 0.

    Raises:
        ValueError: `label` or `split` is unknown, or a number is negative.
        DataError: The pixels are not installed.
    """
    if label not in PAIRS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}, got {label!r}")
    rng = scene_rng(seed, split, index)
    if label not in FORWARD:
        return reversed_scene(_forward_scene(PAIRS[label], rng, split), label)
    return _forward_scene(label, rng, split)


def _forward_scene(label: str, rng: Rng, split: str) -> Scene:
    poses = _POSES[label](rng)
    low, high = DURATION_SHARES
    return Scene(
        label=label,
        backdrop=_backdrop(rng, split),
        pan_px_s=_on_circle(rng, rng.uniform(*PAN_PX_S)),
        actors=tuple(Actor(sprite=make_sprite(rng, split), start=a, end=b) for a, b in poses),
        ease=rng.uniform(),
        duration_s=WINDOW_S * rng.uniform(low, high),
    )


def _on_circle(rng: Rng, radius: float) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * math.pi)
    return radius * math.cos(angle), radius * math.sin(angle)


def make_sprite(rng: Rng, split: str) -> Picture:
    """A digit of the split on a plate of a random bright colour, RGBA."""
    digit = arrow_pixels.digits()[rng.choice(arrow_pixels.digit_indices(split))]
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.75, 1.0), 1.0)
    plate = (round(255 * red), round(255 * green), round(255 * blue))
    bright = 0.3 * red + 0.6 * green + 0.1 * blue > 0.45
    return draw_sprite(digit, plate, (12, 12, 20) if bright else (250, 250, 250))


def _backdrop(rng: Rng, split: str) -> Picture:
    """A cut of a photograph, turned and mirrored at random, with little contrast and colour."""
    parts = arrow_pixels.photo_parts(split)
    part = parts[rng.integers(len(parts))]
    side = int(rng.integers(CUT_PX[0], CUT_PX[1] + 1))
    top = int(rng.integers(part.shape[0] - side + 1))
    left = int(rng.integers(part.shape[1] - side + 1))
    cut = np.rot90(part[top : top + side, left : left + side], int(rng.integers(4)))
    if rng.integers(2):
        cut = cut[:, ::-1]
    size = (BACKDROP_PX, BACKDROP_PX)
    large = cv2.resize(np.ascontiguousarray(cut), size, interpolation=cv2.INTER_CUBIC)
    return _toned(large.astype(np.float32), rng.uniform(*CONTRAST), rng.uniform(*GREY))


def _toned(picture: NDArray[np.float32], contrast: float, grey: float) -> Picture:
    brightness = picture.mean(2, keepdims=True)
    muted = brightness + SATURATION * (picture - brightness)
    toned = grey + contrast * (muted - brightness.mean())
    return np.clip(np.rint(toned), 0, 255).astype(np.uint8)


def _rest(rng: Rng, size_px: float, spread_px: float) -> Pose:
    """A pose near the frame's middle, at any angle."""
    x, y = FRAME_PX / 2 + rng.uniform(-spread_px, spread_px, 2)
    return Pose(x_px=x, y_px=y, size_px=size_px, angle_deg=rng.uniform(0, 360))


def _slide_left(rng: Rng) -> Poses:
    travel, drift = rng.uniform(44, 60) / 2, rng.uniform(-4, 4)
    middle = _rest(rng, rng.uniform(28, 36), 4)
    y = middle.y_px + rng.uniform(-16, 16)
    start = replace(middle, x_px=middle.x_px + travel, y_px=y - drift)
    return ((start, replace(middle, x_px=middle.x_px - travel, y_px=y + drift)),)


def _rise(rng: Rng) -> Poses:
    travel, drift = rng.uniform(44, 60) / 2, rng.uniform(-4, 4)
    middle = _rest(rng, rng.uniform(28, 36), 4)
    x = middle.x_px + rng.uniform(-16, 16)
    start = replace(middle, y_px=middle.y_px + travel, x_px=x - drift)
    return ((start, replace(middle, y_px=middle.y_px - travel, x_px=x + drift)),)


def _approach(rng: Rng) -> Poses:
    middle = _rest(rng, 0, 12)
    small, large = rng.uniform(14, 18), rng.uniform(46, 56)
    return ((replace(middle, size_px=small), replace(middle, size_px=large)),)


def _turn_clockwise(rng: Rng) -> Poses:
    middle, half = _rest(rng, rng.uniform(40, 52), 10), rng.uniform(120, 180) / 2
    start = replace(middle, angle_deg=middle.angle_deg - half)
    return ((start, replace(middle, angle_deg=middle.angle_deg + half)),)


def _appear(rng: Rng) -> Poses:
    pose = _rest(rng, rng.uniform(28, 42), 14)
    return ((replace(pose, opacity=0.0), pose),)


def _meet(rng: Rng) -> Poses:
    """Two objects on a line through the middle, at any angle, until their plates touch."""
    size = rng.uniform(23, 28)
    middle = _rest(rng, size, 5)
    near, far = size * 0.53, rng.uniform(32, 37)
    x, y = _on_circle(rng, 1.0)
    angles = (middle.angle_deg, rng.uniform(0, 360))
    return tuple(
        (
            _moved(middle, side * x * far, side * y * far, angle),
            _moved(middle, side * x * near, side * y * near, angle),
        )
        for side, angle in zip((-1, 1), angles, strict=True)
    )


def _moved(pose: Pose, x_px: float, y_px: float, angle_deg: float) -> Pose:
    return replace(pose, x_px=pose.x_px + x_px, y_px=pose.y_px + y_px, angle_deg=angle_deg)


def _still(rng: Rng) -> Poses:
    """One object or two at rest; now and then none, as before `appear`."""
    if rng.uniform() < STILL_WITHOUT_OBJECT:
        return ()
    if rng.integers(2):
        pose = _rest(rng, rng.uniform(16, 46), 22)
        return ((pose, pose),)
    share = rng.uniform()
    apart = _meet(rng)
    return tuple((pose, pose) for pose in (_mixed(a, b, share) for a, b in apart))


def _mixed(a: Pose, b: Pose, share: float) -> Pose:
    x, y = a.x_px + (b.x_px - a.x_px) * share, a.y_px + (b.y_px - a.y_px) * share
    return replace(a, x_px=x, y_px=y)


_POSES: dict[str, Callable[[Rng], Poses]] = {
    "slide_left": _slide_left,
    "rise": _rise,
    "approach": _approach,
    "turn_clockwise": _turn_clockwise,
    "appear": _appear,
    "meet": _meet,
    STILL: _still,
}
