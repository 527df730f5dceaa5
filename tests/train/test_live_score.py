import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import DataError
from train.data.truth import write_truth
from train.live_events import seconds_outside
from train.live_score import LiveScore, Segment, read_truth, score_live

LABELS = ("open", "close", "still")
TICK_S = 0.25


@dataclass(frozen=True)
class Said:
    """A decision as the runtime makes it, as far as scoring looks at it."""

    stream_time_s: float
    index: int
    prob: float = 1.0
    warming: bool = False

    @property
    def probs(self):
        probs = np.zeros(len(LABELS))
        probs[self.index] = self.prob
        return probs


def action(start_s, end_s, label):
    return Segment("tape.mp4", start_s, end_s, label)


def said(spoken, end_s):
    """A decision every quarter second; `spoken` is [(from this time on, label), ...]."""
    times = np.arange(0, end_s, TICK_S)
    return [
        Said(float(t), LABELS.index([label for since, label in spoken if since <= t][-1]))
        for t in times
    ]


def score(truth, decisions, **more) -> LiveScore:
    return score_live(truth, decisions, LABELS, **{"window_s": 2.0, "min_earlier": 0, **more})


def alternating(num_actions, length_s=2.0, first_s=2.0):
    """Actions back to back, open and close in turn."""
    return [
        action(first_s + i * length_s, first_s + (i + 1) * length_s, LABELS[i % 2])
        for i in range(num_actions)
    ]


def perfect(truth, lag_s=0.0):
    return said([(0, "still"), *((s.start_s + lag_s, s.label) for s in truth)], truth[-1].end_s + 1)


# ---- live_top1


def test_the_answer_is_the_one_at_the_last_tick_of_the_action():
    truth = [action(2, 4, "open"), action(4, 6, "close")]
    # right until 3.75 s: the wrong answer at exactly end_s, 4 s, is the one that counts
    early, at_end = (said([(0, "still"), (2, "open"), (t, "still")], 8) for t in (4.0, 4.25))
    assert score(truth[:1], early).live_top1 == 0
    assert score(truth[:1], at_end).live_top1 == 1


def test_perfect_decisions_score_one_everywhere():
    truth = alternating(6)
    result = score(truth, perfect(truth, lag_s=TICK_S))
    assert (result.live_top1, result.event_f1, result.num_false_events) == (1, 1, 0)
    assert result.recall == {"open": 1, "close": 1, "still": None}
    assert result.confusion == ((3, 0, 0), (0, 3, 0), (0, 0, 0))
    assert (result.delay_found, result.delay_median_s) == (1, TICK_S)


def test_actions_soon_after_a_reset_or_with_few_earlier_ones_are_left_out():
    truth = alternating(10, first_s=0.0)
    decisions = perfect(truth, lag_s=TICK_S)
    assert score(truth, decisions).num_scored == 9  # the first starts at the reset itself
    assert score(truth, decisions, min_earlier=4).num_scored == 6
    late_reset = score(truth, decisions, min_earlier=2, resets_s=(0.0, 8.0))
    # before the reset: number 2 and 3; after it, number 4 begins a new count: 6 to 9
    assert late_reset.num_scored == 2 + 4
    assert score(truth, decisions, min_earlier=10).live_top1 is None


def test_default_needs_sixteen_earlier_actions():
    truth = alternating(20)
    result = score_live(truth, perfect(truth), LABELS, window_s=2.0)
    assert (result.num_actions, result.num_scored) == (20, 4)


def test_an_action_without_any_tick_before_its_end_is_wrong_and_counted():
    truth = [action(2, 4, "open")]
    result = score(truth, [Said(10.0, 0)])
    assert (result.live_top1, result.num_undecided) == (0, 1)
    assert np.sum(result.confusion) == 0


def test_a_missed_tick_leaves_the_last_answer_standing():
    truth = [action(2, 4, "open"), action(4, 6, "close")]
    result = score(truth, [Said(2.5, 0)])
    assert result.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 0))


# ---- bins


def test_accuracy_by_duration_over_window():
    lengths = [1.0, 1.5, 2.0, 2.0, 3.0, 5.0]
    starts = 2 + np.cumsum([0, *lengths[:-1]])
    truth = [action(s, s + n, "open") for s, n in zip(starts.tolist(), lengths, strict=True)]
    decisions = said([(0, "open"), (starts[3] + TICK_S, "close")], 30)
    bins = score(truth, decisions).by_duration
    assert [(b.lower, b.num_actions, b.top1) for b in bins] == [
        (0.5, 1, 1),
        (0.75, 1, 1),
        (1.0, 2, 0.5),
        (1.25, 0, None),
        (1.5, 1, 0),
        (2.0, 1, 0),
    ]
    assert bins[-1].upper is None


def test_accuracy_by_earlier_actions_ignores_the_minimum():
    truth = alternating(5)
    decisions = perfect(truth[:3], lag_s=TICK_S) + [Said(20.0, 2)]
    bins = score(truth, decisions, min_earlier=3).by_earlier
    counted = [(b.lower, b.num_actions, b.top1) for b in bins if b.num_actions]
    assert counted == [(0, 1, 1), (1, 1, 1), (2, 2, 0.5), (4, 1, 1)]


# ---- delay


def test_delay_is_to_the_first_right_decision_that_holds():
    truth = [action(2, 4, "open")]
    flicker = said([(0, "still"), (2.25, "open"), (2.75, "close"), (3.25, "open")], 6)
    result = score(truth, flicker)
    assert (result.delay_median_s, result.delay_found) == (1.25, 1)


def test_delay_leaves_out_background_and_wrong_ends():
    truth = [action(2, 4, "open"), action(4, 6, "still"), action(6, 8, "close")]
    result = score(truth, said([(0, "still"), (2.5, "open"), (4.5, "still")], 9))
    assert (result.delay_median_s, result.delay_p90_s, result.delay_found) == (0.5, 0.5, 0.5)


# ---- events


def test_false_events_are_counted_by_the_hour_outside_actions():
    truth = [action(4, 6, "open")]
    spoken = [(0, "still"), (1, "close"), (2, "still"), (4.25, "open"), (7, "still"), (8, "close")]
    result = score(truth, said(spoken, 10.25))
    # ticks from 0 to 10 s, two of them inside the action
    assert result.num_false_events == 2
    assert result.outside_s == pytest.approx(8)
    assert result.false_events_per_hour == pytest.approx(2 * 3600 / 8)


def test_background_actions_count_as_outside():
    truth = [action(2, 4, "open"), action(4, 8, "still")]
    decisions = said([(0, "still"), (2, "open"), (4, "still"), (5, "close"), (6, "still")], 8.25)
    result = score(truth, decisions)
    assert result.num_false_events == 1
    assert result.outside_s == pytest.approx(6)
    loud = score(truth, decisions, background=None)
    assert loud.outside_s == pytest.approx(2)


def test_events_match_by_label_and_overlap_one_to_one():
    truth = [action(2, 4, "open"), action(6, 8, "close"), action(10, 12, "open")]
    spoken = [
        (0, "still"),
        (2.25, "open"),  # right, IoU 1.75 / 2
        (4, "still"),
        (6, "open"),  # another label
        (8, "still"),
        (10, "open"),  # right, but torn in two: only one part has IoU >= 0.5
        (11.25, "still"),
        (11.5, "open"),
        (12, "still"),
    ]
    result = score(truth, said(spoken, 14))
    assert result.event_precision == pytest.approx(2 / 4)
    assert result.event_recall == pytest.approx(2 / 3)
    assert result.event_f1 == pytest.approx(2 * 2 / (4 + 3))


def test_an_event_needs_half_of_the_union():
    truth = [action(2, 4, "open")]
    half, less = (said([(0, "still"), (t, "open"), (4, "still")], 6) for t in (3.0, 3.25))
    assert score(truth, half).event_f1 == 1
    assert score(truth, less).event_f1 == 0


def test_one_event_over_two_actions_matches_one_of_them():
    truth = [action(2, 4, "open"), action(4, 6, "open")]
    result = score(truth, said([(0, "still"), (2, "open"), (6, "still")], 8))
    assert (result.event_precision, result.event_recall) == (1, 0.5)


def test_warming_decisions_make_no_event_and_no_time():
    truth = [action(2, 4, "open")]
    decisions = [
        Said(d.stream_time_s, 1, warming=d.stream_time_s < 2) for d in said([(0, "open")], 4)
    ]
    result = score(truth, decisions)
    assert (result.outside_s, result.num_false_events) == (0, 0)
    assert result.false_events_per_hour is None


def test_actions_that_start_cold_are_no_misses():
    truth = [action(1, 3, "open"), action(3, 5, "close")]
    decisions = said([(0, "still"), (2.5, "close"), (3.25, "close"), (5, "still")], 6)
    result = score(truth, decisions)
    assert (result.event_recall, result.event_precision) == (0, None)


def test_recall_is_of_actions_that_start_warm():
    truth = [action(1, 3, "open"), action(4, 6, "close")]
    decisions = said([(0, "still"), (4, "close"), (6, "still")], 7)
    assert score(truth, decisions).event_recall == 1


def test_nothing_said_is_no_crash():
    result = score([action(2, 4, "open")], [])
    assert (result.live_top1, result.event_f1, result.false_events_per_hour) == (0, 0, None)


@given(
    spans=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), max_size=8),
    num_ticks=st.integers(2, 130),
)
def test_seconds_outside_equal_a_count_on_a_grid(spans, num_ticks):
    segments = [action(float(a), float(a + n), "open") for a, n in spans]
    covered = {second for a, n in spans for second in range(a, a + n)}
    expected = sum(second not in covered for second in range(num_ticks - 1))
    times_s = np.arange(float(num_ticks))
    assert seconds_outside(times_s, np.zeros(num_ticks, bool), segments) == pytest.approx(expected)


# ---- arguments and report


def test_score_becomes_json():
    truth = alternating(4)
    data = json.loads(json.dumps(score(truth, perfect(truth)).to_json(), allow_nan=False))
    assert data["num_actions"] == 4
    assert data["by_duration"][0]["lower"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_s": 0.0}, "window_s must be > 0, got 0.0"),
        ({"min_earlier": -1}, "min_earlier must be >= 0, got -1"),
        ({"background": "none"}, "label must be one of open, close, still, got 'none'"),
        ({"resets_s": ()}, "resets_s must ascend and hold the stream's start"),
        ({"resets_s": (3.0, 1.0)}, "resets_s must ascend"),
        ({"truth": [action(0, 1, "jump")]}, "got 'jump'"),
        ({"truth": [action(0, 1, "open"), Segment("b", 1, 2, "open")]}, "must be of one video"),
        (
            {"decisions": [Said(1.0, 0), Said(0.5, 0)]},
            "decision 1 is at 0.5 s, the one before at 1",
        ),
        ({"decisions": [Said(1.0, 3)]}, r"index must be in 0\.\.2"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"truth": [action(2, 4, "open")], "decisions": [], **change}
    with pytest.raises(ValueError, match=message):
        score(arguments.pop("truth"), arguments.pop("decisions"), **arguments)


# ---- truth files


def test_truth_is_read_as_written(tmp_path):
    truth = [action(0.05, 1.5, "open"), Segment("other, with comma.mp4", 0.1 + 0.2, 4.0, "still")]
    write_truth(tmp_path / "t.csv", truth)
    assert read_truth(tmp_path / "t.csv", LABELS) == truth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,start_s,end_s\na,0,1\n",
            r"t\.csv line 1 lacks the column 'label'; it needs path,start_s",
        ),
        ("", "lacks the column 'path'"),
        ("path,start_s,end_s,label\n", "lists no action"),
        (
            "path,start_s,end_s,label\na,0,1,open\na,1,2,jump\n",
            "line 3: unknown label 'jump'; known",
        ),
        (
            "path,start_s,end_s,label\na,2,2,open\n",
            "line 2: end_s must be after start_s 2.0, got 2",
        ),
        ("path,start_s,end_s,label\na,x,2,open\n", "line 2: start_s must be a number, got 'x'"),
        ("path,start_s,end_s,label\na,0,nan,open\n", "line 2: end_s must be finite, got nan"),
        ("path,start_s,end_s,label\na,-1,2,open\n", "line 2: start_s must be >= 0, got -1"),
        ("path,start_s,end_s,label\na,0\n", "line 2 has 2 fields, the header has 4"),
    ],
)
def test_wrong_truth_files_are_clear_errors(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_truth(tmp_path / "t.csv", LABELS)


def test_a_missing_or_binary_truth_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        read_truth(tmp_path / "gone.csv", LABELS)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match=r"b\.csv cannot be read"):
        read_truth(tmp_path / "b.csv", LABELS)
