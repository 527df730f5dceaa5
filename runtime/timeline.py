"""The last minute as a strip of colours: what the model spoke for, and when."""

from __future__ import annotations

import colorsys
from collections import deque
from dataclasses import dataclass, replace

import cv2

from runtime.decision import Decision
from runtime.preprocess import Picture

LAST_S = 60.0
TICK_S = 10.0
GAP_S = 10.0  # so long without a decision nothing is known
GOLDEN_RATIO = 0.618034  # steps of it around the colour circle never come close to each other
NONE_RGB = (60, 60, 60)
WARMING_RGB = (110, 85, 30)
TICK_RGB = (150, 150, 150)
TEXT_RGB = (20, 20, 20)
FONT = cv2.FONT_HERSHEY_SIMPLEX

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Span:
    """A stretch of time in which decisions said the same.

    Attributes:
        start_s: Stream time of its first decision.
        end_s: Stream time of the decision behind its last one, or of its last.
        label: The action; None for none of them.
        index: The class's number, for its colour.
        warming: The model had not seen enough yet.
    """

    start_s: float
    end_s: float
    label: str | None
    index: int
    warming: bool


class Timeline:
    """Remembers a minute of decisions, as spans: a few numbers, however often they come.

    Args:
        last_s: How much is kept, seconds.

    Example:
        >>> Timeline().spans
        ()
    """

    def __init__(self, last_s: float = LAST_S) -> None:
        self._last_s = last_s
        self._spans: deque[Span] = deque()

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is remembered, oldest first."""
        return tuple(self._spans)

    def see(self, decision: Decision) -> None:
        """Add a decision; where stream time went back, what was before is forgotten."""
        now_s = decision.stream_time_s
        if self._spans and now_s < self._spans[-1].end_s:
            self._spans.clear()
        label, warming = decision.action, decision.warming
        start_s = now_s
        if self._spans:
            last = self._spans.pop()
            is_gap = now_s - last.end_s > GAP_S
            if not is_gap and (last.label, last.warming) == (label, warming):
                start_s = last.start_s
            else:
                self._spans.append(last if is_gap else replace(last, end_s=now_s))
        self._spans.append(Span(start_s, now_s, label, decision.index, warming))
        while self._spans[0].end_s < now_s - self._last_s:
            self._spans.popleft()

    def draw(self, canvas: Picture, top_px: int, height_px: int, margin_px: int) -> None:
        """Draw the minute over the canvas's whole width; now is at the right.

        Args:
            canvas: Shape (H, W, 3), uint8, RGB; changed in place.
            top_px: First row of the strip.
            height_px: Height of the strip.
            margin_px: Space at both sides.
        """
        width_px = int(canvas.shape[1]) - 2 * margin_px
        bottom_px = top_px + height_px - 1
        cv2.rectangle(
            canvas, (margin_px, top_px), (margin_px + width_px - 1, bottom_px), NONE_RGB, cv2.FILLED
        )
        if not self._spans:
            return
        now_s = self._spans[-1].end_s

        def column(time_s: float) -> int:
            share = 1 - (now_s - time_s) / self._last_s
            return margin_px + round((width_px - 1) * min(1.0, max(0.0, share)))

        for span in self._spans:
            left, right = column(span.start_s), column(span.end_s)
            cv2.rectangle(canvas, (left, top_px), (right, bottom_px), _colour(span), cv2.FILLED)
            if span.label is not None:
                _write(canvas, span.label, left, right, top_px, height_px)
        for number in range(1, int(self._last_s / TICK_S)):
            at = column(now_s - number * TICK_S)
            cv2.line(canvas, (at, bottom_px - height_px // 5), (at, bottom_px), TICK_RGB, 1)


def class_colour(index: int) -> Colour:
    """A bright colour of a class, RGB; neighbours differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.55, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _colour(span: Span) -> Colour:
    if span.warming:
        return WARMING_RGB
    return NONE_RGB if span.label is None else class_colour(span.index)


def _write(canvas: Picture, label: str, left: int, right: int, top_px: int, height_px: int) -> None:
    """The label inside its span, where it fits."""
    text = label.encode("ascii", "replace").decode()  # all that OpenCV's fonts can draw
    scale = height_px / 36
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    if width + 4 <= right - left:
        place = (left + 2, top_px + (height_px + height) // 2)
        cv2.putText(canvas, text, place, FONT, scale, TEXT_RGB, 1, cv2.LINE_AA)
