"""Latency percentiles over an endless stream, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

LOWEST_MS = 1e-3
HIGHEST_MS = 1e6
BUCKET_RATIO = 1.01


class LatencyStats:
    """A histogram of durations with buckets 1 % wide: percentiles to half a per cent.

    Example:
        >>> stats = LatencyStats()
        >>> for latency_ms in range(1, 101):
        ...     stats.add(latency_ms)
        >>> round(stats.percentile(50)), round(stats.percentile(99)), stats.count
        (50, 99, 100)
    """

    def __init__(self) -> None:
        buckets = math.ceil(math.log(HIGHEST_MS / LOWEST_MS, BUCKET_RATIO)) + 1
        self._counts = np.zeros(buckets, np.int64)

    @property
    def count(self) -> int:
        """Durations added so far."""
        return int(self._counts.sum())

    def add(self, latency_ms: float) -> None:
        """Add one duration in milliseconds; what lies off the scale counts at its end."""
        clipped_ms = min(max(latency_ms, LOWEST_MS), HIGHEST_MS)
        self._counts[round(math.log(clipped_ms / LOWEST_MS, BUCKET_RATIO))] += 1

    @classmethod
    def of_all(cls, parts: Iterable[LatencyStats]) -> LatencyStats:
        """What was added to any of them so far."""
        total = cls()
        for part in parts:
            total._counts = total._counts + part._counts
        return total

    def copy(self) -> LatencyStats:
        """What was added so far; later additions do not change it."""
        same = LatencyStats()
        same._counts = self._counts.copy()
        return same

    def since(self, earlier: LatencyStats) -> LatencyStats:
        """What was added after `earlier` was copied from these.

        Example:
            >>> stats = LatencyStats()
            >>> stats.add(5.0)
            >>> before = stats.copy()
            >>> stats.add(80.0)
            >>> recent = stats.since(before)
            >>> recent.count, round(recent.percentile(50))
            (1, 80)
        """
        difference = LatencyStats()
        difference._counts = self._counts - earlier._counts
        return difference

    def percentile(self, percent: float) -> float:
        """The duration in milliseconds that `percent` of all do not exceed; NaN without any.

        Args:
            percent: 0 < percent <= 100.

        Raises:
            ValueError: `percent` is out of range.
        """
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be > 0 and <= 100, got {percent}")
        if self.count == 0:
            return math.nan
        rank = math.ceil(self.count * percent / 100)
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(LOWEST_MS * BUCKET_RATIO**bucket)

    def summary(self) -> str:
        """p50, p95 and p99 for people."""
        if self.count == 0:
            return "latency: no decision yet"
        p50, p95, p99 = (self.percentile(percent) for percent in (50, 95, 99))
        return f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
