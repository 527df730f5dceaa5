from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.overlay import GREEN, SMALLEST_CANVAS_PX, annotate
from runtime.preprocess import PictureRule, visible_region
from tests.runtime.test_decision import decision

LABELS = ["waving", "ünïcode label"]
FULL = PictureRule(height_px=32, width_px=32, crop="full")


def grey(height, width):
    return np.full((height, width, 3), 100, np.uint8)


@pytest.mark.parametrize("size", [(96, 96), (272, 640), (97, 131), (1080, 1920), (1, 1)])
def test_the_canvas_is_legible_even_and_a_copy(size):
    frame = grey(*size)
    canvas = annotate(frame, decision(), LABELS, FULL, 25.0)
    assert min(canvas.shape[:2]) >= min(SMALLEST_CANVAS_PX, 480)
    assert canvas.shape[0] % 2 == canvas.shape[1] % 2 == 0
    assert canvas.dtype == np.uint8
    assert (frame == 100).all()


def green_px(one):
    canvas = annotate(grey(480, 640), one, LABELS, FULL)
    row = canvas[14].astype(int)  # above the text
    return int((row[:, 1] - row[:, 0] > 30).sum())


def test_the_bar_is_as_long_as_the_confidence():
    def length(prob):
        return green_px(replace(decision(prob=prob), action="waving"))

    assert length(0.9) > 1.5 * length(0.5) > 0


def test_the_bar_is_green_for_an_action_only():
    speaks = green_px(replace(decision(), action="waving"))
    none_of_these = green_px(replace(decision(), action=None))
    assert none_of_these < 0.1 * speaks


def is_amber(canvas):
    """Where text is amber; thin strokes are mixed with what is behind them."""
    red, _, blue = np.moveaxis(canvas.astype(int), 2, 0)
    return (red > 150) & (blue < 90)


def test_warming_shows():
    cold = annotate(grey(480, 640), decision(warming=True), LABELS, FULL)
    warm = annotate(grey(480, 640), decision(), LABELS, FULL)
    assert is_amber(cold).any()
    assert not is_amber(warm).any()
    assert is_amber(annotate(grey(480, 640), None, LABELS, FULL)).any()


def test_the_region_that_the_model_sees_is_framed():
    rule = PictureRule(height_px=32, width_px=32, crop="center")
    canvas = annotate(grey(480, 640), None, LABELS, rule)
    region = visible_region(480, 640, rule)
    left, bottom = region.x_px, region.y_px + region.height_px - 1
    assert (canvas[bottom, left + 5] == GREEN).all()
    assert (canvas[300, left] == GREEN).all()
    assert (canvas[300, left - 3] == 100).all()
