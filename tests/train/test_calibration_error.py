import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.calibration_error import calibration_of, draw_reliability


def of_two(confidences):
    """Probabilities of two classes; class 0 leads."""
    return np.array([[p, 1 - p] for p in confidences])


def test_error_of_a_hand_computed_case():
    probs = of_two([0.95, 0.95, 0.95, 0.95, 0.65, 0.65])
    label = np.array([0, 0, 0, 1, 1, 1])
    found = calibration_of(probs, label, 10)
    # four clips: |3/4 - 0.95| = 0.20; two clips: |0 - 0.65| = 0.65
    assert found.ece == pytest.approx((4 * 0.20 + 2 * 0.65) / 6)
    filled = {b.upper: b for b in found.bins if b.clips}
    assert {round(upper, 1): b.clips for upper, b in filled.items()} == {1.0: 4, 0.7: 2}
    assert filled[1.0].accuracy == pytest.approx(0.75)
    assert filled[1.0].confidence == pytest.approx(0.95)


def test_over_and_under_confidence_in_one_bin_cancel_and_in_two_do_not():
    probs, label = of_two([0.55, 0.95]), np.array([0, 1])
    assert calibration_of(probs, label, 1).ece == pytest.approx(abs(0.5 - 0.75))
    assert calibration_of(probs, label, 10).ece == pytest.approx((0.45 + 0.95) / 2)


def test_a_calibrated_model_has_no_error():
    probs = of_two([0.75] * 4)
    assert calibration_of(probs, np.array([0, 0, 0, 1])).ece == pytest.approx(0)


def test_a_probability_on_an_edge_belongs_to_the_bin_below():
    bins = calibration_of(of_two([0.5, 1.0]), np.array([0, 0]), 2).bins
    assert [b.clips for b in bins] == [1, 1]


def test_an_answer_without_any_other_is_certain_and_counted():
    probs = np.array([[1.0, 0.0], [1.0, 0.0]])
    found = calibration_of(probs, np.array([0, 1]))
    assert found.ece == pytest.approx(0.5)
    assert found.bins[-1].clips == 2


@given(st.lists(st.tuples(st.floats(0.5, 1.0), st.booleans()), min_size=1, max_size=30))
def test_error_equals_a_slow_sum(answers):
    probs = of_two([p for p, _ in answers])
    label = np.array([0 if right else 1 for _, right in answers])
    confidence, right = probs.max(1), probs.argmax(1) == label
    total = 0.0
    edges = np.linspace(0, 1, 11)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = [i for i in range(len(answers)) if low < confidence[i] <= high]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) * abs(gap)
    assert calibration_of(probs, label, 10).ece == pytest.approx(total / len(answers), abs=1e-9)


def test_nothing_to_calibrate_is_refused():
    with pytest.raises(ValueError, match="needs clips and bins, got 0 clips, 15 bins"):
        calibration_of(np.zeros((0, 2)), np.zeros(0, np.int64))


def test_the_diagram_is_drawn_with_empty_bins_too(tmp_path):
    found = calibration_of(of_two([0.95, 0.55]), np.array([0, 1]))
    draw_reliability(found, tmp_path / "r.png", "2 clips")
    picture = cv2.imread(str(tmp_path / "r.png"))
    assert picture is not None
    assert picture.std() > 10
