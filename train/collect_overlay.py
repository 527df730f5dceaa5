"""Draws on the camera's picture what `train.collect` does: class, counts, countdown, bar."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.overlay import AMBER, FONT, GREEN, GREY, SMALLEST_CANVAS_PX, WHITE, Layout
from runtime.preprocess import Picture
from train.collect_recorder import View

RED = (255, 70, 60)
PANEL_SHARE = 0.4  # of a panel's brightness that stays
LIST_SHARE = 0.34  # of the width
KEYS = "space record  n/p class  r review  d delete  q end"
TITLE_LINES = 1.5

Colour = tuple[int, int, int]


def draw(image_rgb: Picture, view: View) -> Picture:
    """A copy of a picture with the recorder's state on it; small ones are enlarged.

    Args:
        image_rgb: Shape (H, W, 3), uint8, RGB.
        view: What the recorder does.

    Returns:
        The canvas, shape (h, w, 3), uint8, RGB.
    """
    canvas = _canvas(image_rgb)
    layout = Layout.of(canvas.shape[0])
    _draw_top(canvas, layout, view)
    _draw_classes(canvas, layout, view)
    _draw_bottom(canvas, layout, view)
    if view.state == "countdown" and view.left:
        _draw_number(canvas, str(view.left))
    if view.state in ("recording", "review"):
        colour = RED if view.state == "recording" else GREEN
        corner = (canvas.shape[1] - 1, canvas.shape[0] - 1)
        cv2.rectangle(canvas, (0, 0), corner, colour, 3 * layout.thickness)
    return canvas


def _canvas(image_rgb: Picture) -> Picture:
    height, width = image_rgb.shape[:2]
    factor = max(1, -(-SMALLEST_CANVAS_PX // min(height, width)))
    size = (width * factor, height * factor)
    return np.asarray(cv2.resize(image_rgb, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _draw_top(canvas: Picture, layout: Layout, view: View) -> None:
    """The current class, large, and the state; a bar under them."""
    height = _title_px(layout)
    _darken(canvas[:height])
    word, colour = _state(view)
    size = 1.5 * layout.font
    base = round(height * 0.68)
    width = cv2.getTextSize(word, FONT, size, 2 * layout.thickness)[0][0]
    room = canvas.shape[1] - width - 3 * layout.margin
    _text(canvas, view.labels[view.current], (layout.margin, base), size, GREEN, room)
    place = (canvas.shape[1] - layout.margin - width, base)
    cv2.putText(canvas, word, place, FONT, size, colour, 2 * layout.thickness, cv2.LINE_AA)
    if view.share:
        bar = round(canvas.shape[1] * view.share)
        cv2.rectangle(canvas, (0, height - layout.line // 4), (bar, height), colour, cv2.FILLED)


def _draw_classes(canvas: Picture, layout: Layout, view: View) -> None:
    """The classes around the current one, as many as there is room for, with their counts."""
    top = _title_px(layout)
    rows = max(1, (canvas.shape[0] - top - 3 * layout.line - layout.margin) // layout.line)
    first = max(0, min(view.current - rows // 2, len(view.labels) - rows))
    shown = range(first, min(len(view.labels), first + rows))
    width = round(canvas.shape[1] * LIST_SHARE)
    _darken(canvas[top : top + len(shown) * layout.line + layout.margin, :width])
    for row, index in enumerate(shown):
        colour = WHITE if index == view.current else GREY
        base = top + row * layout.line + round(layout.line * 0.9)
        number = str(view.counts[index])
        number_px = cv2.getTextSize(number, FONT, layout.font, layout.thickness)[0][0]
        right = width - layout.margin - number_px
        _text(canvas, number, (right, base), layout.font, colour, number_px + 1)
        room = right - 2 * layout.margin
        _text(canvas, view.labels[index], (layout.margin, base), layout.font, colour, room)


def _draw_bottom(canvas: Picture, layout: Layout, view: View) -> None:
    """The last message, and the keys."""
    height, width = canvas.shape[:2]
    top = height - 2 * layout.line - layout.margin
    _darken(canvas[top:])
    room = width - 2 * layout.margin
    base = top + layout.line
    _text(canvas, view.message, (layout.margin, base), layout.font, WHITE, room)
    _text(canvas, KEYS, (layout.margin, base + layout.line), layout.font, GREY, room)


def _draw_number(canvas: Picture, number: str) -> None:
    height, width = canvas.shape[:2]
    size, thickness = height / 100, max(2, height // 50)
    (text_px, tall_px), _ = cv2.getTextSize(number, FONT, size, thickness)
    place = ((width - text_px) // 2, (height + tall_px) // 2)
    cv2.putText(canvas, number, place, FONT, size, (0, 0, 0), 2 * thickness, cv2.LINE_AA)
    cv2.putText(canvas, number, place, FONT, size, AMBER, thickness, cv2.LINE_AA)


def _state(view: View) -> tuple[str, Colour]:
    if view.state == "countdown":
        return f"ready in {view.left}", AMBER
    words = {"ready": ("ready", WHITE), "recording": ("REC", RED), "review": ("REVIEW", GREEN)}
    return words[view.state]


def _title_px(layout: Layout) -> int:
    return round((TITLE_LINES + 0.5) * layout.line)


def _darken(panel: Picture) -> None:
    cv2.convertScaleAbs(panel, panel, PANEL_SHARE)


def _text(
    canvas: Picture, text: str, place: tuple[int, int], size: float, colour: Colour, room_px: int
) -> None:
    """Write a text; a long one is made smaller, to half at most, then cut."""
    plain = text.encode("ascii", "replace").decode()  # all that OpenCV's fonts can draw
    thickness = max(1, round(size * 2.2))
    width = cv2.getTextSize(plain, FONT, size, thickness)[0][0]
    if width > room_px:
        size = max(size / 2, size * room_px / width)
        thickness = 1
        while len(plain) > 1 and cv2.getTextSize(plain, FONT, size, 1)[0][0] > room_px:
            plain = plain[:-1]
    cv2.putText(canvas, plain, place, FONT, size, colour, thickness, cv2.LINE_AA)
