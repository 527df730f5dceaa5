"""Draws on a frame what the model sees and says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from runtime.decision import Decision
from runtime.preprocess import Picture, PictureRule, visible_region
from runtime.timeline import Timeline

SMALLEST_CANVAS_PX = 480
TOP_COUNT = 3
WHITE = (255, 255, 255)
GREY = (150, 150, 150)
GREEN = (80, 220, 100)
AMBER = (255, 190, 60)
PANEL_SHARE = 0.45  # of a panel's brightness that stays
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Layout:
    """Sizes that follow the canvas, in pixels."""

    line: int
    margin: int
    thickness: int
    font: float

    @classmethod
    def of(cls, height_px: int) -> Layout:
        """Sizes for a canvas of this height."""
        line = max(20, height_px // 22)
        return cls(line, line // 2, max(1, line // 18), line / 40)


def annotate(
    image_rgb: Picture,
    decision: Decision | None,
    labels: Sequence[str],
    rule: PictureRule,
    fps: float | None = None,
    timeline: Timeline | None = None,
) -> Picture:
    """A copy of the frame with the decision drawn on it.

    Small frames are enlarged by a whole factor, so that text is legible; both sides of the result
    are even, as H.264 wants them.

    Args:
        image_rgb: The frame, shape (H, W, 3), uint8, RGB.
        decision: The latest decision; None before the first.
        labels: The bundle's labels.
        rule: The bundle's picture rule; its region is framed.
        fps: Frames a second that are shown, where known.
        timeline: The last minute, drawn at the bottom.

    Returns:
        The canvas, shape (h, w, 3), uint8, RGB.
    """
    canvas = _canvas(image_rgb)
    layout = Layout.of(canvas.shape[0])
    _frame_region(canvas, rule, layout)
    lines = [] if decision is None else _lines(decision, labels)
    _darken(canvas, layout, len(lines) + 1)
    for row, (text, share, colour) in enumerate(lines):
        _bar(canvas, layout, row, share, colour)
        _text(canvas, layout, row, text, WHITE if row == 0 else GREY)
    _text(canvas, layout, len(lines), _status(decision, fps), _status_colour(decision))
    if timeline is not None:
        strip_top = canvas.shape[0] - layout.margin - layout.line
        timeline.draw(canvas, strip_top, layout.line, layout.margin)
    return canvas


def _lines(
    decision: Decision, labels: Sequence[str]
) -> list[tuple[str, float, tuple[int, int, int]]]:
    best = AMBER if decision.warming else GREEN if decision.action is not None else GREY
    return [
        (f"{prob:4.0%} {label}", prob, best if row == 0 else GREY)
        for row, (label, prob) in enumerate(decision.top(labels, TOP_COUNT))
    ]


def _status(decision: Decision | None, fps: float | None) -> str:
    words = ["waiting"] if decision is None else [f"{decision.latency_ms:.0f} ms"]
    if fps is not None:
        words.append(f"{fps:.0f} fps")
    if decision is not None and decision.warming:
        words.append("WARMING")
    return "  ".join(words)


def _status_colour(decision: Decision | None) -> tuple[int, int, int]:
    return AMBER if decision is None or decision.warming else GREY


def _canvas(image_rgb: Picture) -> Picture:
    height, width = image_rgb.shape[:2]
    factor = max(1, -(-SMALLEST_CANVAS_PX // min(height, width)))
    even = image_rgb[: max(2, height // 2 * 2), : max(2, width // 2 * 2)]
    size = (even.shape[1] * factor, even.shape[0] * factor)
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _frame_region(canvas: Picture, rule: PictureRule, layout: Layout) -> None:
    region = visible_region(canvas.shape[0], canvas.shape[1], rule)
    corner = (region.x_px + region.width_px - 1, region.y_px + region.height_px - 1)
    cv2.rectangle(canvas, (region.x_px, region.y_px), corner, GREEN, layout.thickness)


def _darken(canvas: Picture, layout: Layout, rows: int) -> None:
    panel = canvas[: _top(layout, rows) + layout.margin]
    cv2.convertScaleAbs(panel, panel, PANEL_SHARE)


def _bar(
    canvas: Picture, layout: Layout, row: int, share: float, colour: tuple[int, int, int]
) -> None:
    top = _top(layout, row)
    full_px = canvas.shape[1] - 2 * layout.margin
    corner = (layout.margin + round(full_px * share), top + layout.line - 3)
    dark = (colour[0] // 2, colour[1] // 2, colour[2] // 2)
    cv2.rectangle(canvas, (layout.margin, top), corner, dark, cv2.FILLED)


def _text(
    canvas: Picture, layout: Layout, row: int, text: str, colour: tuple[int, int, int]
) -> None:
    plain = text.encode("ascii", "replace").decode()  # all that OpenCV's fonts can draw
    place = (layout.margin + layout.thickness, _top(layout, row) + round(layout.line * 0.75))
    cv2.putText(canvas, plain, place, FONT, layout.font, colour, layout.thickness, cv2.LINE_AA)


def _top(layout: Layout, row: int) -> int:
    return layout.margin + row * layout.line
