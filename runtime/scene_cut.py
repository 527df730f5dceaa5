"""Whether the picture changed abruptly: another scene, a camera that was turned, lights switched.

What the states remember is then about something else, so `--scene-cuts` starts them from zero. The
measure is one number a frame: the picture as 16×9 mean colours, and the *median* of how far they
moved since the last frame. Someone close to the camera changes less than half of them, noise
averages out, and a change of all brightness by up to a half, as of flicker or exposure, is taken
out before. It is also compared with how far they moved lately, so a camera in a fast car is no cut
at every frame.

Fades and slow turns are no cuts here; nor is an abrupt change between two frames alike in colour.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Picture

DEFAULT_THRESHOLD = 18.0
BLOCKS = (9, 16)  # rows, columns
SAMPLES = 4  # a block's mean is over 4×4 pixels, wherever they lie
RECENT = 5
TIMES_RECENT = 3.0
MOST_FLICKER = 1.5


class SceneCuts:
    """Finds cuts in a stream of frames.

    Args:
        threshold: Median change of a block that is a cut, 8-bit levels, > 0.

    Raises:
        ValueError: The threshold is not > 0.

    Example:
        >>> cuts = SceneCuts()
        >>> dark, light = np.zeros((72, 128, 3), np.uint8), np.full((72, 128, 3), 90, np.uint8)
        >>> [cuts.see(picture) for picture in (dark, dark, light, light)]
        [False, False, True, False]
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        if not threshold > 0:
            raise ValueError(f"the threshold of a scene cut must be > 0, got {threshold}")
        self._threshold = threshold
        self._last: NDArray[np.float32] | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    def see(self, image_rgb: Picture) -> bool:
        """Take the next frame.

        Args:
            image_rgb: Shape (H, W, 3), uint8, RGB; any size.

        Returns:
            Whether it begins another scene.
        """
        blocks = _blocks(image_rgb)
        last, self._last = self._last, blocks
        if last is None:
            return False
        change = _change(last, blocks)
        usual = float(np.median(self._recent)) if self._recent else 0.0
        self._recent.append(change)
        return change >= max(self._threshold, TIMES_RECENT * usual)

    def restart(self) -> None:
        """Forget the last frame: the stream began anew."""
        self._last = None
        self._recent.clear()


def _change(last: NDArray[np.float32], blocks: NDArray[np.float32]) -> float:
    """How far the median block moved, but for brightness that all of them gained or lost."""
    gain = float(np.median((blocks.mean(axis=2) + 1) / (last.mean(axis=2) + 1)))
    gain = min(max(gain, 1 / MOST_FLICKER), MOST_FLICKER)
    # the darker one is made brighter: what is nearly black tells nothing about colours
    moved = blocks - last * gain if gain >= 1 else blocks / gain - last
    return float(np.median(np.abs(moved).mean(axis=2)))


def _blocks(image_rgb: Picture) -> NDArray[np.float32]:
    """Mean colours, shape (9, 16, 3), from a grid of pixels: no pass over the whole picture."""
    height, width = BLOCKS[0] * SAMPLES, BLOCKS[1] * SAMPLES
    few = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_NEAREST)
    blocks = few.reshape(BLOCKS[0], SAMPLES, BLOCKS[1], SAMPLES, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))
