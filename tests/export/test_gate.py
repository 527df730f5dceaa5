"""The gate by numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.gate import PairedLoss, clip_gate, paired_loss, require_pass
from runtime.errors import GateError


def rights(both, lost, gained, neither):
    """Examples of the four kinds: right in both, only in float, only in INT8, in none."""
    counts = (both, lost, gained, neither)
    right_float = np.repeat([True, True, False, False], counts)
    right_int8 = np.repeat([True, False, True, False], counts)
    return right_float, right_int8


def loss_of(both, lost, gained, neither=0):
    return paired_loss(*rights(both, lost, gained, neither))


@pytest.mark.parametrize(
    ("lost", "gained", "loss", "bound"),
    [
        # n = 1000: (l - g) / n + 1.645 · sqrt(l + g - (l - g)² / n) / n
        (0, 0, 0.0, 0.0),
        (1, 0, 0.001, 0.002644),
        (3, 1, 0.002, 0.005288),
        (4, 0, 0.004, 0.007283),
        (2, 6, -0.004, 0.000648),
        (100, 0, 0.1, 0.115606),
    ],
)
def test_the_bound_by_hand(lost, gained, loss, bound):
    found = loss_of(850, lost, gained, 150 - lost - gained)
    assert found.count == 1000
    assert (found.lost, found.gained) == (lost, gained)
    assert found.loss == pytest.approx(loss)
    assert found.bound == pytest.approx(bound, abs=1e-6)
    assert found.top1_float == pytest.approx((850 + lost) / 1000)
    assert found.top1_int8 == pytest.approx((850 + gained) / 1000)
    assert found.top1_float - found.top1_int8 == pytest.approx(found.loss)


@given(st.integers(1, 500), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_the_bound_is_never_under_the_loss(both, lost, gained, neither):
    found = loss_of(both, lost, gained, neither)
    assert found.bound >= found.loss
    more = loss_of(both, lost + 1, gained, neither)
    assert more.loss > found.loss


def test_pairs_count_and_not_only_the_two_accuracies():
    """The same accuracies, but the examples differ: less is known."""
    assert loss_of(500, 0, 0).bound == 0
    assert loss_of(480, 10, 10).bound == pytest.approx(1.645 * np.sqrt(20) / 500)


def test_examples_must_be_the_same():
    for shapes in (((3,), (4,)), ((0,), (0,))):
        with pytest.raises(ValueError, match="want the same examples, at least one"):
            paired_loss(*(np.ones(shape, bool) for shape in shapes))


def one_hot(classes, num_classes=3):
    return (5 * np.eye(num_classes)[classes]).astype(np.float32)


def test_clip_gate_collects_by_hand():
    label = np.array([0, 1, 2, 0])
    reference, other = one_hot([0, 1, 2, 1]), one_hot([0, 1, 1, 0])  # one lost, one gained
    result = clip_gate(reference, other, label, None)
    assert (result.clips.lost, result.clips.gained, result.clips.count) == (1, 1, 4)
    assert result.agreement == 0.5
    assert result.sqnr_db == pytest.approx(0)  # 4 · 25 of signal, 4 · 25 of noise
    # two pairs of (p, 1-2p ...) swapped: 5 nats times the difference of the probabilities
    high, low = np.exp(5) / (np.exp(5) + 2), 1 / (np.exp(5) + 2)
    assert result.divergence == pytest.approx(0.5 * 5 * (high - low), rel=1e-5)
    assert result.live is None
    json.dumps(result.to_json(), allow_nan=False)


def test_equal_graphs_pass_with_nothing_lost():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (500, 4)).astype(np.float32)
    label = rng.integers(0, 4, 500)
    right = logits.argmax(1) == label
    result = clip_gate(logits, logits, label, paired_loss(right, right))
    assert require_pass(result, allowed_loss=0.0) == []
    assert (result.clips.bound, result.agreement, result.sqnr_db) == (0, 1, 999)
    assert result.divergence == pytest.approx(0, abs=1e-6)
    json.dumps(result.to_json(), allow_nan=False)


def test_logits_that_are_no_numbers_have_the_worst_sqnr():
    logits = one_hot(np.zeros(4, np.int64))
    broken = logits.copy()
    broken[0, 2] = np.nan
    assert clip_gate(logits, broken, np.zeros(4, np.int64), None).sqnr_db == -999


@pytest.fixture
def passing():
    """600 clips and 450 actions with nothing lost."""
    logits = one_hot(np.zeros(600, np.int64))
    label = np.zeros(600, np.int64)
    live = loss_of(400, 0, 0, 50)
    return clip_gate(logits, logits, label, live)


def test_the_clips_bound_is_gated(passing):
    assert require_pass(passing) == []
    good = replace(passing, clips=loss_of(990, 1, 0, 9))  # 0.26 % < 0.5 %
    assert require_pass(good) == []
    bad = replace(passing, clips=loss_of(990, 3, 1, 6))  # loses 0.2 %, may lose 0.53 %
    message = (
        r"may lose 0\.53% of clip top-1 \(95 % bound; 3 lost, 1 gained of 1000\), allowed 0\.50%"
    )
    with pytest.raises(GateError, match=message):
        require_pass(bad)
    assert require_pass(bad, allowed_loss=0.006) == []


def test_live_accuracy_is_gated(passing):
    one = replace(passing, live=loss_of(90, 1, 0, 9))  # one action of 100 is no evidence
    (remark,) = require_pass(one)
    assert remark == "100 live actions: one of them is 1.0%"
    two = replace(passing, live=loss_of(90, 2, 0, 8))
    message = r"loses 2\.00% of live top-1 \(2 lost, 0 gained of 100 actions\), allowed 0\.50%"
    with pytest.raises(GateError, match=message):
        require_pass(two)
    assert len(require_pass(two, allowed_loss=0.02)) == 1
    many = replace(passing, live=loss_of(990, 6, 0, 4))  # 0.6 % of a thousand is evidence
    with pytest.raises(GateError, match="live top-1"):
        require_pass(many)


def test_few_clips_are_said_to_be_few(passing):
    few = replace(passing, clips=loss_of(399, 0, 0))
    (remark,) = require_pass(few)
    assert remark.startswith("399 clips are too few to prove a loss under 0.50%")
    assert "SQNR 999.0 dB" in remark
    assert not few.clips.to_json()["enough_examples"]
    assert require_pass(replace(passing, clips=loss_of(400, 0, 0))) == []


def test_paired_loss_says_whether_it_proves_anything():
    assert PairedLoss(400, 0.9, 0.9, 0, 0, 0.0).to_json()["enough_examples"]
    assert not PairedLoss(399, 0.9, 0.9, 0, 0, 0.0).to_json()["enough_examples"]
