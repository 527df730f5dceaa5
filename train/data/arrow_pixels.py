"""Real pixels that packages ship, divided so that no two splits share one.

Digits come from scikit-learn (1797 of 8×8 pixels), backgrounds from the photographs inside the
scikit-image wheel; nothing is downloaded. Photographs are read by path, because importing
`skimage.data` may want the network.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.preprocess import Picture, Region

SPLITS = ("train", "validation", "calibration", "tape", "tape_validation")
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
NUM_DIGITS = 1797
# Of ten digits, how many each split gets; the same shares in the same order as SPLITS.
DIGIT_SHARES = (6, 1, 1, 1, 1)
DIGIT_ORDER_SEED = 20200
MIN_REGION_PX = 120


def digit_indices(split: str) -> NDArray[np.int64]:
    """Which of scikit-learn's digits a split may use; splits are disjoint.

    Raises:
        ValueError: `split` is not one of SPLITS.
    """
    order = np.random.default_rng(DIGIT_ORDER_SEED).permutation(NUM_DIGITS)
    owner = np.repeat(np.arange(len(SPLITS)), DIGIT_SHARES)
    chosen: NDArray[np.int64] = order[owner[np.arange(NUM_DIGITS) % 10] == split_index(split)]
    return chosen


def split_index(split: str) -> int:
    """Position of a split in SPLITS.

    Raises:
        ValueError: `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return SPLITS.index(split)


def photo_region(height_px: int, width_px: int, split: str) -> Region:
    """The part of every photograph that belongs to a split; parts share no pixel.

    `train` owns the left third; the rest is cut into four quarters.

    Example:
        >>> photo_region(512, 512, "train")
        Region(x_px=0, y_px=0, width_px=170, height_px=512)
        >>> photo_region(512, 512, "tape_validation")
        Region(x_px=341, y_px=256, width_px=171, height_px=256)
    """
    index = split_index(split)
    third, half = width_px // 3, height_px // 2
    if index == 0:
        return Region(0, 0, third, height_px)
    row, column = divmod(index - 1, 2)
    left, top = third + column * ((width_px - third) // 2), row * half
    right = width_px if column else third + (width_px - third) // 2
    bottom = height_px if row else half
    return Region(left, top, right - left, bottom - top)


@cache
def digits() -> NDArray[np.float64]:
    """All digits, shape (1797, 8, 8), float64, 0..16.

    Raises:
        DataError: scikit-learn is not installed or ships other digits.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as err:
        raise DataError("the demo's digits come from scikit-learn: pip install '.[train]'") from err
    images: NDArray[np.float64] = load_digits().images
    if images.shape != (NUM_DIGITS, 8, 8):
        raise DataError(f"scikit-learn's digits must be ({NUM_DIGITS}, 8, 8), got {images.shape}")
    return images


@cache
def photo_parts(split: str) -> tuple[Picture, ...]:
    """A split's part of every photograph, each (H, W, 3) uint8 RGB, in the order of PHOTOS.

    Raises:
        DataError: scikit-image is not installed or a photograph is missing or unreadable.
    """
    return tuple(_part(_photo(photo_folder() / name), split) for name in PHOTOS)


def photo_folder() -> Path:
    """The folder with the photographs in scikit-image's wheel.

    Raises:
        DataError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("the demo's backgrounds come from scikit-image: pip install '.[train]'")
    return Path(spec.origin).parent / "data"


def _photo(path: Path) -> Picture:
    # The orientation tag is ignored on purpose: a region is the same pixels in every OpenCV.
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise DataError(f"{path} is missing or unreadable; reinstall scikit-image")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _part(photo: Picture, split: str) -> Picture:
    region = photo_region(photo.shape[0], photo.shape[1], split)
    rows = slice(region.y_px, region.y_px + region.height_px)
    part = photo[rows, region.x_px : region.x_px + region.width_px]
    if min(part.shape[:2]) < MIN_REGION_PX:
        raise DataError(f"a photograph of {photo.shape[1]}×{photo.shape[0]} pixels is too small")
    return np.ascontiguousarray(part)
