"""Which held-out clips INT8 sees differently from float, and between which classes it moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.decision import softmax
from runtime.sessions.base import Logits

MOST_CLIPS = 12
MOST_MOVES = 12


def changed_clips(
    logits_float: Logits,
    logits_int8: Logits,
    label: NDArray[np.int64],
    labels: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Compare two graphs clip by clip.

    Clips are called by their number in the list of validation clips, from 1: file names may name
    people, and a bundle travels.

    Args:
        logits_float: Consensus logits, shape (B, K).
        logits_int8: The INT8 graph's, same shape.
        label: Classes, shape (B,).
        labels: Class names in the order of the logits.
        numbers: Each clip's number in the list, where only some of its clips were compared.

    Returns:
        The numbers for the report: clips with another answer first, then by how far the
        probabilities moved.
    """
    probs = [np.stack([softmax(row) for row in rows]) for rows in (logits_float, logits_int8)]
    answers = [rows.argmax(1) for rows in (logits_float, logits_int8)]
    moved = np.abs(probs[0] - probs[1]).max(1)
    other = answers[0] != answers[1]
    order = np.lexsort((-moved, ~other))[:MOST_CLIPS]
    moves = Counter(zip(answers[0][other].tolist(), answers[1][other].tolist(), strict=True))
    return {
        "count": len(label),
        "changed": int(other.sum()),
        "clips": [
            {
                "number": int(i) + 1 if numbers is None else numbers[i],
                "label": labels[label[i]],
                "float": labels[answers[0][i]],
                "int8": labels[answers[1][i]],
                "prob_float": float(probs[0][i, answers[0][i]]),
                "prob_int8": float(probs[1][i, answers[1][i]]),
                "moved": float(moved[i]),
            }
            for i in order
        ],
        "moves": [
            {"float": labels[before], "int8": labels[after], "count": count}
            for (before, after), count in moves.most_common(MOST_MOVES)
        ],
    }
