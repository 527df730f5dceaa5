import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.scores import (
    bootstrap_interval,
    class_scores,
    most_confused,
    score_clips,
    top_k,
    write_class_scores,
)

NAMES = ("open", "close", "still")


def test_scores_of_a_hand_computed_case():
    probs = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
    label = np.array([0, 0, 1, 1])
    found = score_clips(probs, label, NAMES)
    assert found.top1 == 0.75
    assert found.top5 is None, "five of three classes say nothing"
    assert found.mean_class_accuracy == pytest.approx((1.0 + 0.5) / 2), "of classes that occur"
    assert found.nll == pytest.approx(-np.mean(np.log([0.7, 0.6, 0.8, 0.2])))
    assert [s.recall for s in found.per_class] == [1.0, 0.5, None]
    assert [s.precision for s in found.per_class] == [pytest.approx(2 / 3), 1.0, None]
    assert found.per_class[1].confused_with == "open"
    assert [(p.true, p.answer, p.clips, p.share) for p in found.confused] == [
        ("close", "open", 1, 0.5)
    ]


def test_mean_class_accuracy_does_not_follow_the_frequent_class():
    probs = np.tile([0.9, 0.1], (10, 1))
    label = np.array([0] * 9 + [1])
    found = score_clips(probs, label, ("a", "b"))
    assert (found.top1, found.mean_class_accuracy) == (0.9, 0.5)


def test_a_class_without_probability_has_a_finite_likelihood():
    found = score_clips(np.array([[1.0, 0.0]]), np.array([1]), ("a", "b"))
    assert found.nll == pytest.approx(12 * np.log(10))


@given(st.integers(1, 8), st.integers(0, 1000))
def test_top_k_equals_a_stable_sort(k, seed):
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 4, (20, 8)) / 4  # with ties
    label = rng.integers(0, 8, 20)
    best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    expected = np.mean([label[i] in best[i] for i in range(20)])
    assert top_k(probs, label, k) == pytest.approx(expected)
    if k == 1:
        assert top_k(probs, label, 1) == pytest.approx((probs.argmax(1) == label).mean())


def test_top_5_is_given_for_more_than_five_classes():
    probs = np.array([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    found = score_clips(probs, np.array([4, 5]), [str(i) for i in range(6)])
    assert (found.top1, found.top5) == (0.0, 0.5)


# ---- confused pairs


def test_pairs_are_ordered_by_clips_then_by_share_and_hits_are_none():
    counts = np.array([[50, 3, 0], [3, 1, 1], [0, 5, 9]])
    pairs = most_confused(counts, NAMES)
    assert [(p.true, p.answer, p.clips) for p in pairs] == [
        ("still", "close", 5),
        ("close", "open", 3),
        ("open", "close", 3),
        ("close", "still", 1),
    ]
    assert pairs[1].share == pytest.approx(3 / 5)
    assert len(most_confused(counts, NAMES, 2)) == 2


def test_a_class_that_is_always_right_is_confused_with_nothing():
    (first, second) = class_scores(np.array([[4, 0], [1, 3]]), ("a", "b"))
    assert (first.confused_with, first.confused_share) == (None, None)
    assert (second.confused_with, second.confused_share) == ("a", 0.25)


# ---- the interval


def test_the_interval_is_that_of_a_binomial():
    right = np.arange(400) < 320
    lower, upper = bootstrap_interval(right)
    spread = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert lower == pytest.approx(0.8 - spread, abs=0.006)
    assert upper == pytest.approx(0.8 + spread, abs=0.006)
    assert bootstrap_interval(right) == (lower, upper), "the same every time"


def test_clips_of_one_recording_count_as_one():
    right = np.repeat(np.arange(20) < 16, 20)  # 20 recordings, all right or all wrong
    groups = [f"recording {i // 20}" for i in range(400)]
    wide, narrow = bootstrap_interval(right, groups), bootstrap_interval(right)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert bootstrap_interval(np.ones(5, bool)) == (1.0, 1.0)


# ---- files and arguments


def test_class_scores_are_written_with_more_columns(tmp_path):
    scores = class_scores(np.array([[4, 0], [1, 3]]), ("a, b", "c"))
    write_class_scores(tmp_path / "c.csv", scores, {"live_recall": {"a, b": 0.5}})
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["a, b", "c"]
    assert [row["live_recall"] for row in rows] == ["0.5", ""]
    assert (rows[0]["recall"], rows[0]["confused_with"], rows[1]["confused_with"]) == (
        "1.0",
        "",
        "a, b",
    )


@pytest.mark.parametrize("shape", [(0, 2), (3, 2), (2, 3)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="probs must be"):
        score_clips(np.ones(shape), np.zeros(0 if shape[0] == 0 else 2, np.int64), ("a", "b"))
