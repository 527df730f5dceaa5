"""Does a probability mean what it says? Expected calibration error and its reliability diagram.

A model is calibrated if of all answers given with probability p the share p is right
(Guo et al., arXiv:1706.04599). A threshold on a live stream is only as good as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files import whole_file

NUM_BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers whose probability lies in (lower, upper]; means are None in an empty bin.

    Attributes:
        lower: Lower end, not included (the first bin holds 0).
        upper: Upper end, included.
        clips: How many.
        confidence: Their mean probability.
        accuracy: The share of them that is right.
    """

    lower: float
    upper: float
    clips: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of the most probable class.

    Attributes:
        ece: Mean |accuracy - confidence| over the bins, weighted by clips, 0..1.
        bins: The bins, of equal width, in order.
    """

    ece: float
    bins: tuple[ReliabilityBin, ...]

    def to_json(self) -> dict[str, Any]:
        """The calibration as plain values for a report."""
        return asdict(self)


def calibration_of(
    probs: NDArray[np.float64], label: NDArray[np.int64], num_bins: int = NUM_BINS
) -> Calibration:
    """Expected calibration error over bins of equal width (arXiv:1706.04599, eq. 3).

    Args:
        probs: Shape (N, K), float64, rows sum to 1, N >= 1.
        label: True classes, shape (N,), int64.
        num_bins: Bins between 0 and 1.

    Raises:
        ValueError: No clips, or no bin.

    Example:
        >>> calibration_of(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])).ece
        0.4
    """
    if len(label) == 0 or num_bins < 1:
        raise ValueError(f"needs clips and bins, got {len(label)} clips, {num_bins} bins")
    confidence, right = probs.max(1), probs.argmax(1) == label
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    bins, gap = [], 0.0
    for number, (lower, upper) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = place == number
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else None
        share = float(right[inside].mean()) if count else None
        if mean is not None and share is not None:
            gap += count * abs(share - mean)
        bins.append(ReliabilityBin(float(lower), float(upper), count, mean, share))
    return Calibration(round(gap / len(label), 12), tuple(bins))


def draw_reliability(calibration: Calibration, path: Path, title: str = "") -> None:
    """Draw accuracy against confidence, and how many clips each bin holds, as PNG.

    Args:
        calibration: What to draw.
        path: The PNG; whole or not at all.
        title: Above the picture.
    """
    from matplotlib.figure import Figure

    filled = [b for b in calibration.bins if b.clips]
    figure = Figure(figsize=(5.2, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    middles, widths = _bars(filled)
    accuracy = [b.accuracy or 0.0 for b in filled]
    confidence = [b.confidence or 0.0 for b in filled]
    upper.plot((0, 1), (0, 1), color="grey", linestyle="--", linewidth=1, label="calibrated")
    upper.bar(middles, accuracy, widths, color="#4c78a8", edgecolor="white", label="accuracy")
    upper.plot(confidence, accuracy, "o", color="black", markersize=4, label="mean probability")
    upper.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="share that is right")
    upper.set_title(f"{title}\nECE {calibration.ece:.3f}".strip())
    upper.legend(loc="upper left", fontsize=8)
    lower.bar(middles, [b.clips for b in filled], widths, color="#b0b0b0", edgecolor="white")
    lower.set(xlabel="probability of the answer", ylabel="clips")
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)


def _bars(bins: Sequence[ReliabilityBin]) -> tuple[list[float], list[float]]:
    return [(b.lower + b.upper) / 2 for b in bins], [b.upper - b.lower for b in bins]
