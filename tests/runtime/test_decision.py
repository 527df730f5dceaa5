from __future__ import annotations

import numpy as np
import pytest

from runtime.decision import Decision, consensus, softmax, utc_now


def decision(label="a", prob=0.5, time_s=0.0, *, warming=False) -> Decision:
    return Decision(
        source="s",
        tick=0,
        phase=0,
        label=label,
        index=0,
        prob=prob,
        probs=np.array([prob, 1 - prob], np.float32),
        warming=warming,
        stream_time_s=time_s,
        monotonic_ns=0,
        utc="",
        latency_ms=0.0,
    )


def test_consensus_averages_time_then_phases():
    first = np.array([[0, 0], [2, 4]], np.float32)
    second = np.array([[5, 6]], np.float32)
    got = consensus([first, second])
    np.testing.assert_array_equal(got, [3, 4])
    assert got.dtype == np.float32
    with pytest.raises(ValueError, match="at least one phase"):
        consensus([])


def test_softmax_is_stable_and_sums_to_one():
    probs = softmax(np.array([1e4, 0, -1e4], np.float32))
    np.testing.assert_allclose(probs, [1, 0, 0])
    assert probs.dtype == np.float32
    assert softmax(np.zeros(7, np.float32)).sum() == pytest.approx(1)


def test_a_temperature_divides_the_logits():
    logits = np.array([3, 1, 0], np.float32)
    half = np.array([1.5, 0.5, 0], np.float32)
    np.testing.assert_array_equal(softmax(logits, 1.0), softmax(logits))
    assert softmax(logits, 2.0).tolist() == pytest.approx(softmax(half).tolist())
    assert softmax(logits, 0.5)[0] > softmax(logits)[0] > softmax(logits, 2.0)[0]


def test_top_lists_the_best_first_and_keeps_order_on_ties():
    assert decision(prob=0.25).top(["a", "b"], 5) == [("b", 0.75), ("a", 0.25)]
    assert decision(prob=0.5).top(["a", "b"], 1) == [("a", 0.5)]


def test_utc_is_iso_8601_with_its_zone():
    assert utc_now().endswith("+00:00")
    assert utc_now()[10] == "T"
