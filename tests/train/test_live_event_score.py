import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from runtime.policy import Policy, Rules
from train.data.truth import Segment
from train.event_score import draw_event_curve, event_curve, score_events
from train.live_events import EVERY_RUN, Event, events_of, matched_actions
from train.live_score import LiveTape, score_live, score_tapes
from train.live_tape import read_tape

LABELS = ("open", "close", "background")
TICK_S = 0.25


@dataclass(frozen=True)
class Said:
    stream_time_s: float
    index: int
    prob: float = 0.9
    warming: bool = False

    @property
    def probs(self):
        probs = np.zeros(len(LABELS))
        probs[self.index] = self.prob
        return probs


def action(start_s, end_s, label, path="tape.mp4"):
    return Segment(path, start_s, end_s, label)


def said(spoken, end_s):
    """A decision every quarter second; `spoken` is [(from this time on, label, prob), ...]."""
    decisions = []
    for time_s in np.arange(0, end_s, TICK_S):
        _, label, prob = [entry for entry in spoken if entry[0] <= time_s][-1]
        decisions.append(Said(float(time_s), LABELS.index(label), prob))
    return decisions


def sure(threshold):
    """Decisions of at least this probability speak, and nothing holds on below it."""
    return Policy(enter=threshold, exit=threshold)


def score(tapes, policy=EVERY_RUN):
    read = [read_tape(tape, LABELS) for tape in tapes]
    return score_events(read, LABELS, window_s=1.0, background=2, policy=policy)


# one right event of probability 0.9, one right of 0.6, one false of 0.6 that lasts half a second
TRUTH = [action(2, 4, "open"), action(6, 8, "close")]
SPOKEN = [
    (0, "background", 0.9),
    (2, "open", 0.9),
    (4, "background", 0.9),
    (6, "close", 0.6),
    (8, "background", 0.9),
    (10, "open", 0.6),
    (10.5, "background", 0.9),
]
TAPE = LiveTape(TRUTH, said(SPOKEN, 12.25), min_earlier=0)


def test_recall_of_each_class_leaves_the_background_out():
    found = score([TAPE])
    assert found.event_recall_of == {"open": 1.0, "close": 1.0, "background": None}
    assert (found.event_recall, found.event_precision) == (1.0, pytest.approx(2 / 3))
    assert found.num_false_events == 1


def test_recall_of_each_class_counts_misses():
    truth = [*TRUTH, action(9, 9.75, "close")]
    found = score([LiveTape(truth, TAPE.decisions, 0)])
    assert found.event_recall_of["close"] == 0.5


def test_a_threshold_silences_unsure_decisions():
    found = score([TAPE], sure(0.7))
    assert (found.event_recall, found.event_precision, found.num_false_events) == (0.5, 1.0, 0)
    assert found.event_recall_of["close"] == 0.0


def test_a_decision_of_exactly_the_threshold_speaks():
    assert score([TAPE], sure(0.6)).event_recall == 1.0


def test_a_least_duration_drops_short_events():
    found = score([TAPE], Policy(min_duration_s=0.5))
    assert (found.event_recall, found.num_false_events) == (1.0, 0)
    assert score([TAPE], Policy(min_duration_s=0.25)).num_false_events == 1


def test_the_threshold_does_not_change_the_time_outside():
    assert score([TAPE], sure(0.99)).outside_s == score([TAPE]).outside_s == pytest.approx(8)


def test_tapes_are_scored_together_not_averaged():
    silent = LiveTape([action(2, 4, "open", "b.mp4")], said([(0, "background", 1)], 8.25), 0)
    found = score([TAPE, silent])
    assert found.event_recall == pytest.approx(2 / 3)
    assert found.outside_s == pytest.approx(8 + 6)
    assert found.false_events_per_hour == pytest.approx(3600 / 14)
    assert found.event_recall_of["open"] == 0.5
    spoken = [(0, "background", 1), (2, "open", 1), (4.25, "background", 1)]
    right = LiveTape([action(2, 4, "open", "c.mp4")], said(spoken, 8.25), 0)
    both = score_tapes([right, silent], LABELS, window_s=1.0, background="background")
    assert (both.num_actions, both.live_top1, both.event_recall) == (2, 0.5, 0.5)


def test_an_event_of_one_tape_finds_no_action_of_another():
    early = LiveTape([action(2, 4, "open", "a")], said([(0, "background", 1)], 8), 0)
    late = LiveTape(
        [action(6, 8, "close", "b")],
        said([(0, "background", 1), (2, "open", 1), (4, "background", 1)], 8),
        0,
    )
    assert score([early, late]).event_recall == 0


def test_one_tape_is_scored_as_before():
    tape = score_tapes([TAPE], LABELS, window_s=1.0, background="background")
    single = score_live(
        TRUTH, TAPE.decisions, LABELS, window_s=1.0, min_earlier=0, background="background"
    )
    assert tape == single
    json.dumps(tape.to_json(), allow_nan=False)


def test_each_tape_has_its_own_least_number_of_earlier_actions():
    strict = LiveTape(TRUTH, TAPE.decisions, min_earlier=1)
    both = score_tapes([TAPE, strict], LABELS, window_s=1.0, background="background")
    assert both.num_scored == 2 + 1


# ---- the curve


def test_the_curve_falls_from_all_events_to_none():
    read = [read_tape(TAPE, LABELS)]
    points = event_curve(read, LABELS, window_s=1.0, background=2, thresholds=(0.0, 0.6, 0.7, 0.95))
    assert [p.threshold for p in points] == [0.0, 0.6, 0.7, 0.95]
    assert [p.event_recall for p in points] == [1.0, 1.0, 0.5, 0.0]
    assert [p.false_events_per_hour for p in points] == [pytest.approx(450)] * 2 + [0, 0]
    assert points[-1].event_precision is None


def test_the_curves_default_thresholds_ascend_from_everything():
    points = event_curve([read_tape(TAPE, LABELS)], LABELS, window_s=1.0, background=2)
    thresholds = [p.threshold for p in points]
    assert thresholds[0] == 0
    assert thresholds == sorted(set(thresholds))
    assert points[0].event_recall == score([TAPE]).event_recall


def test_the_curve_keeps_a_least_duration():
    read = [read_tape(TAPE, LABELS)]
    points = event_curve(
        read,
        LABELS,
        window_s=1.0,
        background=2,
        policy=Policy(min_duration_s=0.5),
        thresholds=(0.0,),
    )
    assert points[0].false_events_per_hour == 0


@pytest.mark.parametrize("is_empty", [False, True])
def test_the_curve_is_drawn_even_without_points(tmp_path, is_empty):
    tape = LiveTape(TRUTH, [], 0) if is_empty else TAPE
    points = event_curve([read_tape(tape, LABELS)], LABELS, window_s=1.0, background=2)
    draw_event_curve(points, tmp_path / "c.png", "live events")
    assert cv2.imread(str(tmp_path / "c.png")) is not None


# ---- parts


def test_matching_tells_which_actions_were_found():
    events = [Event(0, 2, 1), Event(4, 6, 0)]
    actions = [(0, action(0, 2, "open")), (1, action(0.25, 2, "close")), (0, action(4, 6, "open"))]
    assert matched_actions(events, actions) == [False, True, True]


def test_a_dip_below_the_threshold_breaks_an_event():
    said = [Said(float(t), 0, prob) for t, prob in enumerate((0.9, 0.3, 0.9, 0.9))]
    rules = Rules(sure(0.5), LABELS, "background")
    assert events_of(said, rules) == [Event(0, 1, 0), Event(2, 3, 0)]


def test_events_that_a_stream_reported_are_scored_as_they_are():
    reported = LiveTape(TRUTH, TAPE.decisions, 0, events=[Event(2, 4, 0)])
    found = score([reported])
    assert (found.event_recall, found.event_precision, found.num_false_events) == (0.5, 1.0, 0)


def test_an_event_that_starts_early_and_matches_is_not_false():
    early = LiveTape(TRUTH, TAPE.decisions, 0, events=[Event(1.5, 4, 0), Event(4.5, 5, 0)])
    assert score([early]).num_false_events == 1
