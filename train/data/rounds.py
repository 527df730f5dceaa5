"""Classes in turns: whatever part of the order is taken, every class has its share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def in_rounds(labels: Sequence[int], seed: int = 0) -> list[int]:
    """Positions in rounds, each with at most one of a class, in random order.

    Args:
        labels: Class of each item.
        seed: Of the order; the same every time.
    """
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    seen: defaultdict[int, int] = defaultdict(int)
    for position in np.random.default_rng(seed).permutation(len(labels)).tolist():
        label = labels[position]
        rounds[seen[label]].append(position)
        seen[label] += 1
    return [position for number in sorted(rounds) for position in rounds[number]]
