from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.overlay import annotate
from runtime.preprocess import PictureRule
from runtime.timeline import NONE_RGB, WARMING_RGB, Timeline, class_colour
from tests.runtime.test_decision import decision

LABELS = ("wave", "fall")


def said(label, time_s, *, warming=False):
    index = 0 if label is None else LABELS.index(label)
    return replace(decision(time_s=time_s, warming=warming), action=label, index=index)


def timeline_of(*decisions, **options):
    timeline = Timeline(**options)
    for one in decisions:
        timeline.see(one)
    return timeline


def spans(timeline):
    return [(span.start_s, span.end_s, span.label) for span in timeline.spans]


def test_decisions_that_say_the_same_are_one_span_up_to_the_next():
    timeline = timeline_of(*(said("wave", t / 4) for t in range(8)), said(None, 2), said("fall", 3))
    assert spans(timeline) == [(0, 2, "wave"), (2, 3, None), (3, 3, "fall")]


def test_what_is_older_than_a_minute_is_forgotten_and_an_hour_of_one_action_is_one_span():
    timeline = timeline_of(said(None, 0), *(said("wave", t) for t in range(1, 3600)))
    assert spans(timeline) == [(1, 3599, "wave")]
    flickering = timeline_of(*(said(LABELS[t % 2], t) for t in range(3600)))
    assert spans(flickering)[0][1] >= 3599 - 60
    assert len(flickering.spans) <= 63


def test_time_that_goes_back_starts_anew():
    assert spans(timeline_of(said("wave", 50), said("wave", 51), said("fall", 0))) == [
        (0, 0, "fall")
    ]


def test_a_gap_is_not_filled():
    timeline = timeline_of(said("wave", 0), said("wave", 1), said("wave", 31), said("wave", 32))
    assert spans(timeline) == [(0, 1, "wave"), (31, 32, "wave")]


def strip(timeline, width=602):
    canvas = np.full((40, width, 3), 7, np.uint8)
    timeline.draw(canvas, 10, 20, 1)
    assert (canvas[:10] == 7).all(), "nothing outside the strip"
    assert (canvas[30:] == 7).all()
    assert (canvas[:, [0, -1]] == 7).all()
    return canvas[11]


def test_now_is_at_the_right_and_a_pixel_is_a_tenth_of_a_second():
    row = strip(timeline_of(said("wave", 0), said("fall", 5), said("fall", 15)))
    assert (row[1:400] == NONE_RGB).all(), "before the start"
    assert (row[453:498] == class_colour(0)).all(), "the first five of fifteen seconds"
    assert (row[503:600] == class_colour(1)).all()


def test_warming_and_nothing_have_colours_of_their_own():
    row = strip(
        timeline_of(
            *(said(None, t, warming=True) for t in range(0, 30, 5)),
            *(said(None, t) for t in range(30, 60, 5)),
            said("wave", 60),
        )
    )
    assert (row[5:295] == WARMING_RGB).all()
    assert (row[305:595] == NONE_RGB).all()


def test_an_empty_strip_is_drawn():
    assert (strip(Timeline())[1:-1] == NONE_RGB).all()


def test_classes_next_to_each_other_are_told_apart():
    colours = np.array([class_colour(index) for index in range(20)], int)
    assert (np.abs(np.diff(colours, axis=0)).max(axis=1) > 60).all()


def test_the_overlay_shows_it_and_labels_where_they_fit():
    rule = PictureRule(height_px=32, width_px=32, crop="full")
    frame = np.full((480, 640, 3), 100, np.uint8)
    long = timeline_of(*(said("fall", t) for t in range(0, 31, 5)))
    short = timeline_of(said(None, 0), said("fall", 5), said("fall", 5.5))
    plain = annotate(frame, None, LABELS, rule)
    wanted = class_colour(1)
    for timeline, has_text in ((long, True), (short, False)):
        canvas = annotate(frame, None, LABELS, rule, timeline=timeline)
        changed = (canvas != plain).any(axis=2)
        assert changed[-40:].any()
        assert not changed[:400].any()
        bar = (canvas[-40:] == wanted).all(axis=2)
        dark = (canvas[-40:].max(axis=2) < 50).any()
        assert bar.any()
        assert dark == has_text
