"""Waits between tries, for whatever comes back by itself: a camera, a server."""

from __future__ import annotations

import random

MOST_DOUBLINGS = 30  # behind it a power of two is no number that a clock needs


def backoff_s(attempt: int, first_s: float, longest_s: float) -> float:
    """Wait after a failed try: half to all of the doubled wait.

    Jitter keeps many devices from knocking on one camera or server at once.

    Args:
        attempt: 0 after the first failure.
        first_s: The longest wait then; each further failure doubles it.
        longest_s: The longest wait at all.
    """
    return min(longest_s, first_s * 2.0 ** min(attempt, MOST_DOUBLINGS)) * random.uniform(0.5, 1.0)
