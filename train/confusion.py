"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.files import whole_file

LARGEST_WITH_NUMBERS = 30


def confusion_matrix(
    true: Sequence[int], answer: Sequence[int], num_classes: int
) -> NDArray[np.int64]:
    """Counts, shape (K, K), int64: rows true classes, columns answers.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (np.asarray(true, np.int64), np.asarray(answer, np.int64)), 1)
    return matrix


def draw_confusion(
    matrices: dict[str, NDArray[np.int64]], labels: Sequence[str], path: Path
) -> None:
    """Draw confusion matrices side by side, rows normalised, as PNG.

    Args:
        matrices: Counts (K, K) by title.
        labels: Class names.
        path: The PNG; whole or not at all.
    """
    from matplotlib.figure import Figure

    side = max(4.5, 0.42 * len(labels))
    figure = Figure(figsize=(len(matrices) * (side + 1.6), side + 1.2), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, counts) in zip(axes, matrices.items(), strict=True):
        rows = counts.sum(1, keepdims=True)
        share = counts / np.maximum(rows, 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_xlabel("answer")
        axis.set_ylabel("truth")
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        if len(labels) <= LARGEST_WITH_NUMBERS:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "white" if share[i, j] > 0.6 else "black"
                axis.text(j, i, counts[i, j], ha="center", va="center", color=colour, fontsize=7)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
