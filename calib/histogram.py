"""Histograms of magnitudes with bounded memory: what calibration keeps of a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 2048
CHUNK = 16_384  # values counted at a time: what is made of them stays in the processor's cache


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
        flat = values.ravel()
        largest = max(float(flat.max(initial=0.0)), -float(flat.min(initial=0.0)))
        if not np.isfinite(largest):
            raise ValueError("calibration met a value that is not finite; check the model")
        self.num_values += flat.size
        if largest == 0.0:
            self.counts[0] += flat.size
            return
        self._make_room(largest)
        self.largest = max(self.largest, largest)
        bins_a_unit = NUM_BINS / self.limit
        for start in range(0, flat.size, CHUNK):
            magnitudes = np.abs(flat[start : start + CHUNK])
            bins = np.multiply(magnitudes, bins_a_unit, dtype=np.float64).astype(np.int64)
            found = np.bincount(bins, minlength=NUM_BINS + 1)
            found[NUM_BINS - 1] += found[NUM_BINS]  # a value at the limit is in the last bin
            self.counts += found[:NUM_BINS]

    def _make_room(self, largest: float) -> None:
        if self.limit == 0.0:
            self.limit = largest
        while self.limit < largest:
            self.limit *= 2
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate((pairs, np.zeros(NUM_BINS // 2, np.int64)))
