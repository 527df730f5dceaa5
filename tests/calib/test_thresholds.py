from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calib.histogram import NUM_BINS, Histogram
from calib.thresholds import (
    SMALLEST,
    THRESHOLDS,
    threshold_entropy,
    threshold_minmax,
    threshold_mse,
    threshold_percentile,
)

SEARCHED = [threshold_entropy, threshold_mse]
rng = np.random.default_rng(7)
UNIFORM = rng.uniform(-1, 1, 200_000).astype(np.float32)
NORMAL = rng.normal(0, 1, 200_000).astype(np.float32)


def histogram_of(values):
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def rounding_error(values, threshold):
    """Mean squared error of INT8 with that threshold."""
    scale = threshold / 127
    rounded = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.mean((values - rounded) ** 2))


def test_minmax_is_exactly_the_largest_magnitude():
    assert threshold_minmax(histogram_of([0.1, -2.7182817, 1])) == np.float32(2.7182817)
    grown = Histogram()
    for value in (0.3, 0.7, 5.1):  # the grid ends at 9.6, the values do not
        grown.add(np.array([value], np.float32))
    assert threshold_minmax(grown) == np.float32(5.1)


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 2000), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(sorted(THRESHOLDS)),
)
def test_every_method_is_positive_and_never_above_the_largest(values, method):
    threshold = THRESHOLDS[method](histogram_of(values))
    assert SMALLEST <= threshold <= max(np.abs(values).max(), SMALLEST)


def test_percentile_leaves_one_in_ten_thousand():
    values = np.arange(1, 100_001, dtype=np.float32) / 100_000
    threshold = threshold_percentile(histogram_of(values))
    assert (values > threshold).sum() <= 10
    assert threshold == pytest.approx(0.9999, abs=1 / NUM_BINS)


def test_percentile_drops_outliers_that_are_rare_enough():
    body = np.linspace(0, 1, 99_999, dtype=np.float32)
    assert threshold_percentile(histogram_of([*body, 50])) == pytest.approx(1, abs=50 / NUM_BINS)
    few = np.linspace(0, 1, 999, dtype=np.float32)  # one in a thousand is more than is dropped
    assert threshold_percentile(histogram_of([*few, 50])) == 50


@pytest.mark.parametrize("method", SEARCHED)
def test_a_lone_outlier_is_clipped(method):
    for body, least in ((UNIFORM, 0.9), (NORMAL, 2.0)):
        outlier = float(10 * np.abs(body).max())
        histogram = histogram_of(np.append(body, outlier))
        histogram.counts[: NUM_BINS // 5] *= 1000  # alone among two hundred million
        assert least <= method(histogram) < outlier / 5


@pytest.mark.parametrize("method", SEARCHED)
def test_a_uniform_distribution_is_not_clipped(method):
    assert method(histogram_of(UNIFORM)) > 0.97


def test_mse_is_the_least_error_of_all():
    for values in (UNIFORM, NORMAL, np.append(NORMAL, 60), rng.laplace(0, 1, 100_000)):
        histogram = histogram_of(values)
        best = rounding_error(values, threshold_mse(histogram))
        for factor in (0.25, 0.5, 0.7, 0.85, 1.0):
            assert best <= 1.05 * rounding_error(values, factor * histogram.largest)


@pytest.mark.parametrize("method", SEARCHED)
def test_the_zeros_behind_a_relu_do_not_matter(method):
    positive = np.abs(NORMAL[:50_000]) + 0.01
    alone = method(histogram_of(positive))
    for zeros in (50_000, 5_000_000):
        values = np.concatenate([positive, np.zeros(zeros, np.float32)])
        assert method(histogram_of(values)) == pytest.approx(alone, rel=0.05)
    assert alone > 2.5


@pytest.mark.parametrize("method", sorted(THRESHOLDS))
def test_tensors_of_one_value(method):
    choose = THRESHOLDS[method]
    assert choose(Histogram()) == SMALLEST
    assert choose(histogram_of(np.zeros(1000))) == SMALLEST
    assert choose(histogram_of(np.full(1000, -3.0))) == pytest.approx(3.0)
    assert choose(histogram_of([*np.zeros(1000), 3.0])) == pytest.approx(3.0, rel=1e-3)
