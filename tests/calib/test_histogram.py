from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from calib.histogram import CHUNK, NUM_BINS, Histogram

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
ARRAYS = arrays(np.float32, array_shapes(min_dims=1, max_dims=4, max_side=6), elements=FINITE)


def filled(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


@given(st.lists(ARRAYS, min_size=1, max_size=5))
def test_counts_every_value_once_and_within_its_bin(parts):
    histogram = filled(*parts)
    values = np.sort(np.abs(np.concatenate([part.ravel() for part in parts]).astype(np.float64)))
    assert histogram.num_values == histogram.counts.sum() == len(values)
    assert histogram.largest == values[-1] <= histogram.limit or histogram.limit == 0
    # the edges of the bin that the n-th value is in enclose it, for every n
    place = np.searchsorted(np.cumsum(histogram.counts), np.arange(1, len(values) + 1))
    width = histogram.limit / NUM_BINS
    tiny = 1e-9 * histogram.limit
    assert np.all(place * width <= values + width + tiny)
    assert np.all((place + 1) * width >= values - width - tiny)


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(0, 1, width=32)))
def test_doubling_keeps_the_counts(small):
    small = np.append(small, np.float32(1))
    histogram = filled(small)
    before = histogram.counts.copy()
    histogram.add(np.array([3.5], np.float32))
    assert histogram.limit == 4.0
    expected = np.zeros(NUM_BINS, np.int64)
    expected[: NUM_BINS // 4] = before.reshape(-1, 4).sum(1)
    expected[int(3.5 / 4 * NUM_BINS)] += 1
    assert np.array_equal(histogram.counts, expected)


def test_the_order_of_arrays_only_moves_the_grid():
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(0, 1, 10_000)).astype(np.float32)
    values[0] = 4.0
    rising = filled(*np.split(np.sort(values), 100))
    falling = filled(*np.split(np.sort(values)[::-1], 100))
    assert rising.largest == falling.largest == 4.0
    for share in (0.1, 0.5, 0.9, 0.999):
        quantiles = [
            np.searchsorted(np.cumsum(h.counts), share * 10_000) * h.limit / NUM_BINS
            for h in (rising, falling)
        ]
        assert quantiles[0] == pytest.approx(quantiles[1], abs=2 * rising.limit / NUM_BINS)
        assert quantiles[0] == pytest.approx(np.quantile(values, share), abs=0.01)


def test_signs_do_not_matter():
    assert np.array_equal(filled([-1, 2, -3]).counts, filled([1, -2, 3]).counts)


def test_zeros_come_first_or_later():
    early, late = filled([0, 0], [1]), filled([1], [0, 0])
    assert early.counts[0] == late.counts[0] == 2
    assert early.num_values == late.num_values == 3
    assert early.limit == late.limit == 1
    assert filled(np.zeros((2, 3))).limit == 0


def test_subnormal_values_are_counted():
    histogram = filled([1e-42, 0, 5e-43])
    assert histogram.counts[NUM_BINS - 1] == 1
    assert histogram.counts.sum() == 3
    histogram.add(np.array([1e30], np.float32))
    assert histogram.counts.sum() == 4


def test_an_empty_array_changes_nothing():
    histogram = filled(np.zeros((0, 4)))
    assert histogram.num_values == histogram.counts.sum() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_not_counted(value):
    histogram = filled([1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(np.array([0.5, value], np.float32))
    assert histogram.num_values == histogram.counts.sum() == 2
    assert histogram.largest == 2.0


def test_memory_does_not_grow_with_the_values():
    histogram = Histogram()
    for _ in range(50):
        histogram.add(np.ones(10_000, np.float32))
    assert set(vars(histogram)) == {"limit", "counts", "largest", "num_values"}
    assert histogram.counts.nbytes == 8 * NUM_BINS


def test_large_arrays_are_counted_as_one():
    values = np.random.default_rng(3).normal(0, 1, 3 * CHUNK + 5).astype(np.float32)
    histogram = filled(values)
    assert histogram.largest == histogram.limit == np.abs(values).max()
    expected = np.histogram(np.abs(values), NUM_BINS, (0, histogram.limit))[0]
    assert np.abs(histogram.counts - expected).sum() < 10  # values on an edge
    assert histogram.counts.sum() == values.size
