"""Histograms of magnitudes with bounded memory: what calibration keeps of a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 2048


@dataclass(eq=False)
class Histogram:
    """Counts of |x| in equal bins from 0 to `limit`, which doubles when a value exceeds it.

    Attributes:
        limit: Upper edge of the last bin; 0 while only zeros were seen.
        counts: Values a bin, shape (2048,), int64.
        largest: Largest |x| seen.
        num_values: Values seen, zeros included.
    """

    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    largest: float = 0.0
    num_values: int = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array's magnitudes.

        Args:
            values: Any shape, float.

        Raises:
            ValueError: A value is not finite.
        """
        magnitudes = np.abs(values.ravel())
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("calibration met a value that is not finite; check the model")
        self.num_values += magnitudes.size
        if largest == 0.0:
            self.counts[0] += magnitudes.size
            return
        self._make_room(largest)
        self.largest = max(self.largest, largest)
        shares = np.divide(magnitudes, self.limit, dtype=np.float64)
        bins = np.minimum((shares * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        self.counts += np.bincount(bins, minlength=NUM_BINS)

    def _make_room(self, largest: float) -> None:
        if self.limit == 0.0:
            self.limit = largest
        while self.limit < largest:
            self.limit *= 2
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate((pairs, np.zeros(NUM_BINS // 2, np.int64)))
