"""From histograms to clipping thresholds: the largest |x| that INT8 shall represent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib.histogram import NUM_BINS, Histogram

Method: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

LEVELS = 128  # magnitudes of a symmetric INT8
PERCENTILE = 99.99
CANDIDATE_STEP = 16
# A tensor that was zero throughout still needs a positive scale.
SMALLEST = 1e-6
LARGEST_DB = 999.0  # where nothing is lost: reports cannot hold infinity


@dataclass(frozen=True)
class TensorChoice:
    """A tensor's best threshold.

    Attributes:
        method: The method that found it.
        threshold: The largest |x| that INT8 shall represent.
        sqnr_db: Signal to quantisation noise by the tensor's histogram, decibels.
    """

    method: Method
    threshold: float
    sqnr_db: float


@dataclass(frozen=True)
class PerTensor:
    """Each tensor's best threshold, by name."""

    choices: Mapping[str, TensorChoice]

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds by tensor."""
        return {name: choice.threshold for name, choice in self.choices.items()}

    @property
    def counts(self) -> dict[Method, int]:
        """How many tensors each method was chosen for; methods never chosen are there with 0."""
        found = Counter(choice.method for choice in self.choices.values())
        return {method: found[method] for method in THRESHOLDS}

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        worst = min(self.choices.items(), key=lambda item: item[1].sqnr_db, default=None)
        return {
            "counts": self.counts,
            "worst_tensor": worst and worst[0],
            "worst_sqnr_db": worst and round(worst[1].sqnr_db, 2),
        }


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


def choose_per_tensor(histograms: Mapping[str, Histogram], names: Iterable[str]) -> PerTensor:
    """For every tensor the method whose threshold loses least by the tensor's own histogram.

    Least error of each tensor is not least error of the logits: this is one more candidate beside
    the four methods, to be compared like them. Where methods give the same error, the first of
    `THRESHOLDS` is chosen.

    Args:
        histograms: Magnitudes by tensor.
        names: The tensors to choose for.

    Raises:
        KeyError: A tensor was not recorded.
    """
    return PerTensor({name: _best_method(histograms[name]) for name in names})


def histogram_sqnr_db(histogram: Histogram, threshold: float) -> float:
    """Signal to noise of symmetric INT8 with a threshold, by a histogram alone.

    Values are taken at the centres of their bins, and the zeros behind a ReLU, which INT8 holds
    exactly, do not count.

    Args:
        histogram: The tensor's magnitudes.
        threshold: The largest |x| that INT8 shall represent, > 0.

    Returns:
        Decibels; 999 where nothing is lost.

    Raises:
        ValueError: The threshold is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be > 0, got {threshold}")
    counts = _without_zeros(histogram)
    width = histogram.limit / NUM_BINS
    centres = np.minimum((np.arange(NUM_BINS) + 0.5) * width, histogram.largest)
    scale = threshold / (LEVELS - 1)
    quantised = np.minimum(np.rint(centres / scale), LEVELS - 1) * scale
    signal = float(counts @ centres**2)
    noise = float(counts @ (centres - quantised) ** 2)
    if noise == 0:
        return LARGEST_DB
    return min(float(10 * np.log10(signal / noise)), LARGEST_DB)


def _best_method(histogram: Histogram) -> TensorChoice:
    found = []
    for method, choose in THRESHOLDS.items():
        threshold = choose(histogram)
        found.append(TensorChoice(method, threshold, histogram_sqnr_db(histogram, threshold)))
    return max(found, key=lambda choice: choice.sqnr_db)


def _without_zeros(histogram: Histogram) -> NDArray[np.float64]:
    counts = histogram.counts.astype(np.float64)
    # the zeros behind a ReLU cost nothing and would outweigh everything else
    counts[0] = min(counts[0], counts[1])
    return counts


def _best_candidate(
    histogram: Histogram, cost: Callable[[NDArray[np.float64], int], float]
) -> float:
    counts = _without_zeros(histogram)
    if counts[1:].sum() == 0:
        return threshold_minmax(histogram)
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
