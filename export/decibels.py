"""Signal to noise as a number that reports can hold."""

from __future__ import annotations

import numpy as np

from runtime.selftest import sqnr_db
from runtime.sessions.base import Logits

LARGEST_DB = 999.0


def bounded_db(got: Logits, expected: Logits) -> float:
    """SQNR in decibels: 999 where both are equal, -999 where it is no number.

    Args:
        got: Shape (S, K).
        expected: The reference, shape (S, K).

    Example:
        >>> bounded_db(np.float32([[1, np.nan]]), np.float32([[1, 2]]))
        -999.0
    """
    found = np.nan_to_num(sqnr_db(got, expected), nan=-LARGEST_DB)
    return float(np.clip(found, -LARGEST_DB, LARGEST_DB))
