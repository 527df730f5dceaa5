from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.actions import ActionTracker, actions_of
from runtime.policy import Policy, Rules, Thresholds
from tests.runtime.test_decision import decision

LABELS = ("open", "shut", "still", "turn")
TICK_S = 0.25


def said(text):
    """A decision every quarter second; o, s and - are as sure as said, small letters less.

    O, S and T have 0.9, o and s 0.5 before the background's 0.4, - is the background, w is warming.
    """
    classes = {"o": 0, "s": 1, "-": 2, "t": 3, "w": 0}
    decisions = []
    for tick, letter in enumerate(text):
        index = classes[letter.lower()]
        probs = np.full(4, 0.1 / 3, np.float32)
        probs[index] = 0.9
        if letter in "os":
            probs[:] = 0.05, 0.05, 0.4, 0.05
            probs[index] = 0.5
        plain = decision(time_s=tick * TICK_S, warming=letter == "w")
        decisions.append(replace(plain, index=index, prob=float(probs[index]), probs=probs))
    return decisions


def end_of(action):
    assert action.end_s is not None
    return action.end_s


def found(text, **policy):
    """Each action as label, start and end in ticks."""
    rules = Rules.of(Policy(**policy), LABELS)
    return [
        (action.label, action.start_s / TICK_S, end_of(action) / TICK_S)
        for action in actions_of(said(text), rules)
    ]


def reports(text, **policy):
    """What is reported at each tick: +label for a start, -label for an end."""
    tracker = ActionTracker(Rules.of(Policy(**policy), LABELS))
    lines = []
    for one in said(text):
        lines.append(" ".join("+-"[a.has_ended] + a.label for a in tracker.see(one)))
    return [*lines, " ".join("+-"[a.has_ended] + a.label for a in tracker.finish())]


def test_without_a_policy_every_run_of_a_class_is_an_action_and_the_background_is_none():
    assert found("OO-SSO") == [("open", 0, 2), ("shut", 3, 5), ("open", 5, 5)]


def test_a_start_and_an_end_are_reported_when_they_are_known():
    assert reports("-OO--S") == ["", "+open", "", "-open", "", "+shut", "-shut"]
    assert reports("OOOS", min_duration_s=0.5) == ["", "", "+open", "-open", ""]


def test_an_action_enters_high_and_leaves_low():
    assert found("oOooo-oo", enter=0.8, exit=0.4) == [("open", 1, 5)]
    assert found("oOooo-oo", enter=0.8, exit=0.6) == [("open", 1, 2)]


def test_only_a_reported_action_goes_on_below_the_enter_threshold():
    assert found("Ooooo-", enter=0.8, exit=0.4, min_duration_s=0.5) == []
    assert found("OOOoo-", enter=0.8, exit=0.4, min_duration_s=0.5) == [("open", 0, 5)]


def test_another_class_takes_over_at_once():
    assert found("OOOSSS", enter=0.8, exit=0.0) == [("open", 0, 3), ("shut", 3, 5)]
    assert reports("OOS", enter=0.8) == ["+open", "", "-open +shut", "-shut"]


def test_the_background_ends_an_action_though_its_probability_is_over_the_exit():
    assert found("OO-", enter=0.8, exit=0.01) == [("open", 0, 2)]


def test_actions_shorter_than_the_least_duration_are_none():
    assert found("O-OO-OOO-", min_duration_s=0.5) == [("open", 5, 8)]


def test_short_gaps_are_bridged():
    assert found("OO-OO--OO", max_gap_s=0.25) == [("open", 0, 5), ("open", 7, 8)]
    assert found("OO-OO--OO", max_gap_s=0.5) == [("open", 0, 8)]
    assert found("O-O-O", min_duration_s=1.0, max_gap_s=0.25) == [("open", 0, 4)]


def test_a_blip_of_another_class_does_not_break_an_action():
    assert found("OOSOO", max_gap_s=0.5, min_duration_s=0.25) == [("open", 0, 4)]
    assert found("OOSSOO", max_gap_s=0.5, min_duration_s=0.25) == [
        ("open", 0, 2), ("shut", 2, 4), ("open", 4, 5),
    ]  # fmt: skip


def test_what_interrupted_in_vain_is_forgotten():
    assert found("OOSOOSS", max_gap_s=0.25, min_duration_s=0.25) == [
        ("open", 0, 5), ("shut", 5, 6),
    ]  # fmt: skip
    assert found("OOSTSO", max_gap_s=1.0, min_duration_s=0.5) == [("open", 0, 5)]


def test_an_interruption_by_several_classes_is_one_gap():
    assert found("OOS-OO", max_gap_s=0.5, min_duration_s=0.25) == [("open", 0, 5)]
    assert found("OOS-SOO", max_gap_s=0.75, min_duration_s=0.75)[:1] == [("open", 0, 6)]


def test_a_gap_in_time_is_not_bridged_by_a_late_return():
    decisions = said("OO-O")
    late = replace(decisions[3], stream_time_s=9.0)
    rules = Rules.of(Policy(max_gap_s=0.5), LABELS)
    actions = actions_of([*decisions[:3], late], rules)
    assert [(a.start_s, a.end_s) for a in actions] == [(0, 0.5), (9, 9)]


def test_a_warming_decision_ends_what_goes_on_at_its_last_decision():
    assert reports("OOwO") == ["+open", "", "-open", "+open", "-open"]
    assert found("OOwwO") == [("open", 0, 1), ("open", 4, 4)]


def test_a_reset_forgets_what_was_not_yet_reported():
    assert found("OOwOO", min_duration_s=0.5) == []


def test_ignored_classes_take_over_and_are_never_reported():
    assert found("OOSSO", ignore=("shut",)) == [("open", 0, 2), ("open", 4, 4)]


def test_a_class_has_its_own_thresholds():
    own = {"shut": Thresholds(0.45, 0.45)}
    assert found("oossoo", enter=0.8, exit=0.8, classes=own) == [("shut", 2, 4)]


def test_a_small_lead_is_none_of_these():
    assert found("ooOO", margin=0.2) == [("open", 2, 3)]


def test_a_lag_dates_back_and_the_latency_counts_from_there():
    rules = Rules.of(Policy(min_duration_s=0.25, lag_s=0.5), LABELS)
    tracker = ActionTracker(rules)
    changes = [a for one in said("---OOO-") for a in tracker.see(one)]
    start, end = changes
    assert (start.start_s, start.end_s, start.reported_s, start.latency_s) == (
        0.25,
        None,
        1.0,
        0.75,
    )
    assert (end.start_s, end.end_s, end.reported_s, end.latency_s) == (0.25, 1.0, 1.5, 0.5)
    assert start.to_json() == {
        "label": "open", "start_s": 0.25, "peak_prob": 0.9, "decisions": 2, "latency_s": 0.75,
    }  # fmt: skip
    assert end.to_json()["end_s"] == 1.0


def test_the_peak_is_of_the_decisions_that_spoke():
    tracker = ActionTracker(Rules.of(Policy(enter=0.5, exit=0.4), LABELS))
    changes = [a for one in said("oOo-") for a in tracker.see(one)]
    assert [round(a.peak_prob, 3) for a in changes] == [0.5, 0.9]
    assert changes[-1].decisions == 3


# ---- whatever is said


@dataclass(frozen=True)
class Spoken:
    stream_time_s: float
    probs: np.ndarray
    warming: bool


shares = st.sampled_from((0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0))
seconds = st.sampled_from((0.0, 0.1, 0.25, 0.5, 1.0, 2.0))


@st.composite
def policies(draw):
    enter, own = draw(shares), draw(shares)
    return Policy(
        enter=enter,
        exit=enter * draw(shares),
        margin=draw(st.sampled_from((0.0, 0.1, 0.5))),
        min_duration_s=draw(seconds),
        max_gap_s=draw(seconds),
        lag_s=draw(seconds),
        classes=draw(st.sampled_from(({}, {"open": Thresholds(own, own / 2)}))),
        ignore=draw(st.sampled_from(((), ("shut",)))),
    )


@st.composite
def streams(draw):
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from((0.1, 0.25, 0.25, 3.0)),
                st.tuples(*[st.sampled_from((0.0, 1.0, 2.0, 4.0))] * 4),
                st.sampled_from((False,) * 9 + (True,)),
            ),
            max_size=60,
        )
    )
    time_s, stream = 0.0, []
    for step_s, logits, warming in steps:
        time_s += step_s
        powers = np.exp(np.array(logits, np.float32))
        stream.append(Spoken(time_s, powers / powers.sum(), warming))
    return stream


@given(streams(), policies())
def test_actions_are_in_order_apart_and_long_enough(stream, policy):
    actions = actions_of(stream, Rules.of(policy, LABELS))
    for before, after in zip(actions, actions[1:], strict=False):
        assert end_of(before) <= after.start_s
    for action in actions:
        assert end_of(action) - action.start_s >= policy.min_duration_s - 1e-9
        assert action.start_s <= end_of(action) <= action.reported_s
        assert action.label not in (*policy.ignore, "still")
        assert action.decisions >= 1
        threshold = policy.classes.get(action.label, Thresholds(policy.enter, policy.exit))
        assert action.peak_prob >= threshold.enter


@given(streams(), policies())
def test_starts_and_ends_alternate_and_tell_the_same(stream, policy):
    tracker = ActionTracker(Rules.of(policy, LABELS))
    changes = [change for one in stream for change in tracker.see(one)] + tracker.finish()
    assert [change.has_ended for change in changes] == [False, True] * (len(changes) // 2)
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        assert (start.label, start.start_s) == (end.label, end.start_s)
        assert start.peak_prob <= end.peak_prob
        assert start.reported_s <= end.reported_s


@given(streams(), policies(), st.integers(0, 60))
def test_it_does_not_matter_where_the_stream_is_cut(stream, policy, cut):
    rules = Rules.of(policy, LABELS)
    whole = actions_of(stream, rules)
    tracker = ActionTracker(rules)
    changes = [change for one in stream[:cut] for change in tracker.see(one)]
    tracker = copy.deepcopy(tracker)
    changes += [change for one in stream[cut:] for change in tracker.see(one)]
    assert [c for c in changes + tracker.finish() if c.has_ended] == whole


@given(streams())
def test_without_a_policy_actions_are_the_runs_of_the_top_class(stream):
    expected, last = [], None
    for one in stream:
        top = None if one.warming else LABELS[int(one.probs.argmax())]
        if top != last and top not in (None, "still"):
            expected.append((top, one.stream_time_s))
        last = top
    actions = actions_of(stream, Rules.of(Policy(), LABELS))
    assert [(a.label, a.start_s) for a in actions] == expected


@pytest.mark.parametrize("more", ["", "-"])
def test_finishing_twice_ends_once(more):
    tracker = ActionTracker(Rules.of(Policy(), LABELS))
    for one in said("OO" + more):
        tracker.see(one)
    assert len(tracker.finish()) == (0 if more else 1)
    assert tracker.finish() == []
