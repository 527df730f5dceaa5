from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.latency import LatencyStats


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_exact_to_a_bucket(values_ms, percent):
    stats = LatencyStats()
    for value_ms in values_ms:
        stats.add(value_ms)
    exact = np.percentile(values_ms, percent, method="inverted_cdf")
    assert stats.percentile(percent) == pytest.approx(exact, rel=0.006)
    assert stats.count == len(values_ms)


def test_memory_is_bounded_and_nothing_falls_off_the_scale():
    stats = LatencyStats()
    size = len(stats._counts)
    for value_ms in (-1.0, 0.0, 1e12):
        stats.add(value_ms)
    assert stats.count == 3
    assert len(stats._counts) == size < 4096


def test_nothing_measured_is_said_so():
    stats = LatencyStats()
    assert math.isnan(stats.percentile(50))
    assert stats.summary() == "latency: no decision yet"
    with pytest.raises(ValueError, match="percent must be > 0"):
        stats.percentile(0)
