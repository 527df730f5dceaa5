"""A contact sheet of the arrow of time: one row a class, as filmed and as the model sees it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from runtime.files import whole_file
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.arrow_render import FRAME_PX, render
from train.data.arrow_scene import LABELS, make_scene

COLUMNS = 8
NAME_PX = 176
GAP_PX = 4
INK_RGB = (20, 20, 20)


def write_sheet(path: Path, seed: int, picture: PictureRule) -> None:
    """Write the sheet as a PNG: left the frames as filmed, right the model's pictures, enlarged.

    Args:
        path: The picture to write; the name must end with .png.
        seed: Seed of the data set; the scenes are from its validation split.
        picture: How a frame becomes the model's input.

    Raises:
        ValueError: `path` does not end with .png.
        DataError: The pixels are not installed.
        OSError: The folder cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"the sheet's name must end with .png, got {path.name!r}")
    sheet = np.vstack([_row(label, seed, picture) for label in LABELS])
    with whole_file(path) as part:
        cv2.imwrite(str(part), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def _row(label: str, seed: int, picture: PictureRule) -> Picture:
    # the index picks a scene: the same classes in the same rows, another scene each
    scene = make_scene(label, seed, "validation", LABELS.index(label))
    centres = [(i + 0.5) / COLUMNS for i in range(COLUMNS)]
    frames = [render(scene, u, (u - 0.5) * scene.duration_s) for u in centres]
    seen = [_enlarged(fit_picture(frame, picture)) for frame in frames]
    tiles = [_name_tile(label), *map(_framed, frames), _name_tile(""), *map(_framed, seen)]
    tiles[COLUMNS + 1] = tiles[COLUMNS + 1][:, : 4 * GAP_PX]
    return np.hstack(tiles)


def _enlarged(picture: Picture) -> Picture:
    size = (FRAME_PX, FRAME_PX)
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)  # type: ignore[return-value]


def _framed(picture: Picture) -> Picture:
    edges = ((0, GAP_PX), (0, GAP_PX), (0, 0))
    return np.pad(picture, edges, constant_values=255)


def _name_tile(label: str) -> Picture:
    tile = np.full((FRAME_PX + GAP_PX, NAME_PX, 3), 255, np.uint8)
    place = (4, FRAME_PX // 2)
    cv2.putText(tile, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK_RGB, 1, cv2.LINE_AA)
    return tile
