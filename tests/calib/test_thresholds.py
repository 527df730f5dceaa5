from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calib.histogram import NUM_BINS, Histogram
from calib.thresholds import (
    LARGEST_DB,
    SMALLEST,
    THRESHOLDS,
    choose_per_tensor,
    histogram_sqnr_db,
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


# --- each tensor its own method

TENSORS = {
    "uniform": UNIFORM,
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0),
    "outlier": np.append(NORMAL, np.float32(60)),
    "heavy": rng.laplace(0, 1, 200_000).astype(np.float32),
    "relu6": np.clip(4 * NORMAL, 0, 6),
}


def true_sqnr_db(values, threshold):
    return 10 * np.log10(float(np.mean(values**2)) / rounding_error(values, threshold))


@pytest.mark.parametrize("name", sorted(TENSORS))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_the_histogram_tells_the_sqnr_of_the_values(name, share):
    values = TENSORS[name]
    histogram = histogram_of(values)
    threshold = share * histogram.largest
    got = histogram_sqnr_db(histogram, threshold)
    assert got == pytest.approx(true_sqnr_db(values, threshold), abs=0.02)


def test_every_tensor_gets_the_method_that_loses_least_of_it():
    histograms = {name: histogram_of(values) for name, values in TENSORS.items()}
    found = choose_per_tensor(histograms, TENSORS)
    assert list(found.choices) == list(TENSORS)
    for name, values in TENSORS.items():
        choice = found.choices[name]
        assert choice.threshold == THRESHOLDS[choice.method](histograms[name])
        best = max(true_sqnr_db(values, choose(histograms[name])) for choose in THRESHOLDS.values())
        assert true_sqnr_db(values, choice.threshold) >= best - 0.1
    assert found.thresholds == {name: each.threshold for name, each in found.choices.items()}
    assert len({choice.method for choice in found.choices.values()}) > 1
    assert sum(found.counts.values()) == len(TENSORS)
    assert set(found.counts) == set(THRESHOLDS)


def test_only_what_was_asked_for_is_chosen():
    histograms = {"a": histogram_of(NORMAL), "b": histogram_of(UNIFORM)}
    assert set(choose_per_tensor(histograms, ["b"]).thresholds) == {"b"}
    assert choose_per_tensor(histograms, []).thresholds == {}
    with pytest.raises(KeyError, match="c"):
        choose_per_tensor(histograms, ["c"])


def test_the_first_of_equal_methods_and_what_the_report_says():
    histograms = {"zero": histogram_of(np.zeros(50)), "outlier": histogram_of(TENSORS["outlier"])}
    found = choose_per_tensor(histograms, histograms)
    assert found.choices["zero"].method == "minmax"
    assert found.choices["zero"].sqnr_db == LARGEST_DB
    assert found.to_json() == {
        "counts": found.counts,
        "worst_tensor": "outlier",
        "worst_sqnr_db": round(found.choices["outlier"].sqnr_db, 2),
    }
    assert choose_per_tensor({}, []).to_json()["worst_sqnr_db"] is None


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be > 0"):
        histogram_sqnr_db(histogram_of(NORMAL), threshold)
