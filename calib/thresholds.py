"""From histograms to clipping thresholds: the largest |x| that INT8 shall represent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib.histogram import NUM_BINS, Histogram

Method: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

LEVELS = 128  # magnitudes of a symmetric INT8
PERCENTILE = 99.99
CANDIDATE_STEP = 16
# A tensor that was zero throughout still needs a positive scale.
SMALLEST = 1e-6


def threshold_minmax(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return max(histogram.largest, SMALLEST)


def threshold_percentile(histogram: Histogram) -> float:
    """The magnitude that 99.99 % of the values do not exceed."""
    cumulative = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulative, cumulative[-1] * PERCENTILE / 100))
    return _clamped((index + 1) * histogram.limit / NUM_BINS, histogram)


def threshold_entropy(histogram: Histogram) -> float:
    """The threshold that loses the least information (Kullback-Leibler; TensorRT's old default).

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    return _best_candidate(histogram, _divergence)


def threshold_mse(histogram: Histogram) -> float:
    """The threshold with the least mean squared error of rounding and clipping."""
    return _best_candidate(histogram, _squared_error)


THRESHOLDS: Mapping[Method, Callable[[Histogram], float]] = {
    "minmax": threshold_minmax,
    "percentile": threshold_percentile,
    "entropy": threshold_entropy,
    "mse": threshold_mse,
}


def _best_candidate(
    histogram: Histogram, cost: Callable[[NDArray[np.float64], int], float]
) -> float:
    counts = histogram.counts.astype(np.float64)
    if counts[1:].sum() == 0:
        return threshold_minmax(histogram)
    # the zeros behind a ReLU cost nothing and would outweigh everything else
    counts[0] = min(counts[0], counts[1])
    candidates = range(LEVELS, NUM_BINS + 1, CANDIDATE_STEP)
    best = min(candidates, key=lambda num_bins: cost(counts, num_bins))
    return _clamped(best * histogram.limit / NUM_BINS, histogram)


def _divergence(counts: NDArray[np.float64], num_bins: int) -> float:
    """Kullback-Leibler divergence of the quantised from the clipped distribution."""
    kept = counts[:num_bins]
    reference = kept.copy()
    reference[-1] += counts[num_bins:].sum()
    level = np.arange(num_bins) * LEVELS // num_bins
    filled = kept > 0
    mass = np.bincount(level, kept, LEVELS)
    bins = np.bincount(level, filled, LEVELS)
    quantised = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    if quantised.sum() == 0:
        return float("inf")
    p, q = reference / reference.sum(), quantised / quantised.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))


def _squared_error(counts: NDArray[np.float64], num_bins: int) -> float:
    """Sum of squared errors, in squared bins."""
    centres = np.arange(NUM_BINS) + 0.5
    scale = num_bins / (LEVELS - 1)
    quantised = np.minimum(np.rint(centres / scale), LEVELS - 1) * scale
    return float(np.sum(counts * (centres - quantised) ** 2))


def _clamped(threshold: float, histogram: Histogram) -> float:
    return float(min(max(threshold, SMALLEST), threshold_minmax(histogram)))
