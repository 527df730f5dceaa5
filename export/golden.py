"""The golden sequence: frames with the logits they must give; it proves a device's engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.files import whole_file
from runtime.preprocess import Picture, PictureRule, fit_picture
from runtime.sessions.base import Logits

GOLDEN_STEPS = 16  # no more than the start-up check runs
RESET_AT = (0, 5)  # the second start shows a forgotten reset; with two phases 8 steps run
# Warm light: where pictures are nearly grey, swapped colours would pass as INT8's noise.
WARM_RGB = (1.0, 0.85, 0.6)
# landscape, portrait and a size that no decimation divides
CAMERA_SIZES_PX = ((720, 1280), (640, 480), (377, 501))


def golden_frames(pictures: Sequence[Picture]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The golden steps' pictures, in warm light, and resets.

    Args:
        pictures: Model pictures of a stream, each (H, W, 3) uint8; repeated if there are few.

    Returns:
        Frames (S, H, W, 3) uint8 and resets (S,) float32.
    """
    plain = np.stack([pictures[i % len(pictures)] for i in range(GOLDEN_STEPS)])
    frames = (plain * np.array(WARM_RGB, np.float32)).astype(np.uint8)
    reset = np.zeros(GOLDEN_STEPS, np.float32)
    reset[list(RESET_AT)] = 1.0
    return frames, reset


def camera_frames(pictures: Sequence[Picture]) -> list[Picture]:
    """Camera-sized frames: pictures enlarged, with stripes, and with blocks over them.

    The fine stripes alias where a resize is wrong. The blocks are three of the model's pixels
    wide, so that a crop which is off by three of the camera's shows after any reduction.

    Args:
        pictures: At least one model picture, (H, W, 3) uint8.
    """
    frames = []
    for number, (height, width) in enumerate(CAMERA_SIZES_PX):
        picture = pictures[number % len(pictures)]
        large = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
        stripes = 24 * ((rows // 3 + columns // 5 + number) % 2)
        block = max(1, round(3 * max(height / picture.shape[0], width / picture.shape[1])))
        blocks = 96 * ((rows // block + columns // block) % 2)
        # red and blue differ everywhere, so that swapped colours cannot pass
        tint = np.stack((stripes + 30, stripes, stripes * 0), axis=2)
        mixed = large.astype(np.int16) // 2 + blocks[:, :, np.newaxis] + tint
        frames.append(np.clip(mixed, 0, 255).astype(np.uint8))
    return frames


def write_golden(
    path: Path,
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
    logits: Logits,
    logits_int8: Logits | None,
    cameras: Sequence[Picture],
    picture: PictureRule,
) -> None:
    """Write `golden.npz`; see `runtime.bundle.Golden` for the arrays."""
    arrays: dict[str, NDArray[np.generic]] = {
        f"camera_frame_{number:02d}": frame for number, frame in enumerate(cameras)
    }
    with whole_file(path) as part:
        np.savez_compressed(
            part,
            allow_pickle=False,
            frames=frames,
            reset=reset,
            logits=logits,
            logits_int8=np.zeros((0, logits.shape[1]), np.float32)
            if logits_int8 is None
            else logits_int8,
            camera_pictures=np.stack([fit_picture(frame, picture) for frame in cameras]),
            **arrays,
        )
