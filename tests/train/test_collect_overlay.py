from dataclasses import replace

import numpy as np
import pytest

from train.collect_overlay import RED, draw
from train.collect_recorder import View

READY = View(("rest", "wave"), (3, 0), 1, "ready", 0.0, 0, "")


def view(**changed):
    return replace(READY, **changed)


def grey(height=480, width=640):
    return np.full((height, width, 3), 128, np.uint8)


def differs(a, b):
    """Pixels at which two pictures differ."""
    return int((a != b).any(-1).sum())


def test_the_picture_itself_is_not_drawn_on():
    picture = grey()
    draw(picture, view(state="recording", share=0.5))
    assert (picture == 128).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"current": 0},
        {"counts": (3, 1)},
        {"message": "saved"},
        {"state": "countdown", "left": 2, "share": 0.3},
        {"state": "recording", "share": 0.3},
        {"state": "review"},
    ],
)
def test_everything_of_the_view_is_to_be_seen(changed):
    assert differs(draw(grey(), view()), draw(grey(), view(**changed))) > 20


def test_the_countdown_is_large_and_changes():
    pictures = [draw(grey(), view(state="countdown", left=left)) for left in (3, 2)]
    assert differs(*(picture[150:330, 220:420] for picture in pictures)) > 500


def test_the_bar_grows_with_the_recording():
    lengths = [
        int((draw(grey(), view(state="recording", share=share)) == RED).all(-1).sum(1).max())
        for share in (0.25, 0.5, 0.9)
    ]
    # the frame around the picture has full rows of its own
    assert max(lengths) == 640
    rows = [
        int((draw(grey(), view(state="recording", share=share)) == RED).all(-1)[10:60].sum())
        for share in (0.25, 0.5, 0.9)
    ]
    assert rows[0] < rows[1] < rows[2]


@pytest.mark.parametrize("size", [(36, 64), (480, 640), (1080, 1920), (640, 360), (101, 33)])
@pytest.mark.parametrize("current", [0, 13, 173])
def test_any_size_and_any_number_of_classes_can_be_drawn(size, current):
    labels = tuple(f"putting something number {k} behind something" for k in range(174))
    canvas = draw(grey(*size), view(labels=labels, counts=(0,) * 174, current=current))
    assert min(canvas.shape[:2]) >= 480
    assert canvas.dtype == np.uint8


def test_the_current_class_is_in_the_list_however_many_there_are():
    labels = tuple(f"class {k}" for k in range(174))
    counts = [0] * 174
    before = draw(grey(), view(labels=labels, counts=tuple(counts), current=100))
    counts[100] = 8
    after = draw(grey(), view(labels=labels, counts=tuple(counts), current=100))
    assert differs(before, after) > 5
