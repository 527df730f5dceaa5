"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.files import whole_file

LARGEST_WITH_NUMBERS = 30
LARGEST_WITH_NAMES = 60
LONGEST_NAME = 32
LARGE_SIDE_INCHES = 9.0


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

    Up to 30 classes have their counts written in, up to 60 their names at the axes; more classes
    are numbered in the order of the logits.

    Args:
        matrices: Counts (K, K) by title.
        labels: Class names.
        path: The PNG; whole or not at all.
    """
    from matplotlib.figure import Figure

    named = len(labels) <= LARGEST_WITH_NAMES
    side = max(3.2, 0.34 * len(labels)) if named else LARGE_SIDE_INCHES
    margin = 0.09 * min(LONGEST_NAME, max(map(len, labels))) + 0.8 if named else 1.2
    size = (len(matrices) * (side + margin) + 0.8, side + margin + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, counts) in zip(axes, matrices.items(), strict=True):
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=title, xlabel="answer", ylabel="truth")
        if named:
            names = [_short(label) for label in labels]
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
            axis.set_yticks(range(len(names)), names, fontsize=8)
        else:
            axis.set_xlabel(f"answer: class 0 to {len(labels) - 1}, names in per_class.csv")
        if len(labels) <= LARGEST_WITH_NUMBERS:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "white" if share[i, j] > 0.6 else "black"
                axis.text(j, i, counts[i, j], ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes[-1], label="share of the true class", shrink=0.7)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"
