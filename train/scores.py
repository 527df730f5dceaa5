"""What a table of probabilities is worth: accuracies, likelihood, confused pairs, intervals."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files import whole_file

Probs = NDArray[np.float64]
Classes = NDArray[np.int64]

TOP_K = 5
NUM_RESAMPLES = 2000
INTERVAL_PERCENT = (2.5, 97.5)
# The likelihood of an answer that was given no probability at all stays finite.
SMALLEST_PROB = 1e-12
CLASS_COLUMNS = ("label", "clips", "recall", "precision", "confused_with", "confused_share")


@dataclass(frozen=True)
class ConfusedPair:
    """Clips of one class that were taken for another.

    Attributes:
        true: What they were.
        answer: What they were taken for.
        clips: How many.
        share: Of all clips of the true class, 0..1.
    """

    true: str
    answer: str
    clips: int
    share: float


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class's line; recall and precision are None where nothing could be counted."""

    label: str
    clips: int
    recall: float | None
    precision: float | None
    confused_with: str | None
    confused_share: float | None


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Accuracies 0..1 over N clips.

    Attributes:
        top1: Share whose most probable class is right.
        top1_interval: Its 95 % bootstrap interval, recordings resampled whole.
        top5: Share whose class is among the five most probable; None for five classes or fewer.
        mean_class_accuracy: Mean recall of the classes that occur (balanced accuracy).
        nll: Mean negative log-likelihood, natural logarithm.
        per_class: One entry a class, in the order of the logits.
        confused: The most frequent mistakes, most frequent first.
    """

    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    mean_class_accuracy: float
    nll: float
    per_class: tuple[ClassScore, ...]
    confused: tuple[ConfusedPair, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain values for a report."""
        return asdict(self)


def score_clips(
    probs: Probs,
    label: Classes,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> ClipScores:
    """Score probabilities against the truth.

    Args:
        probs: Shape (N, K), float64, rows sum to 1, N >= 1.
        label: True classes, shape (N,), int64.
        labels: Class names, K of them.
        groups: Recording of each clip; clips of one recording are resampled together. None
            takes every clip for itself.
        seed: Of the bootstrap.

    Raises:
        ValueError: No clips, or shapes that do not fit.
    """
    if probs.ndim != 2 or probs.shape != (len(label), len(labels)) or len(label) == 0:
        raise ValueError(
            f"probs must be (N, K) with N >= 1 labels and K names, got {probs.shape}, "
            f"{len(label)} labels, {len(labels)} names"
        )
    answer = probs.argmax(1)
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (label, answer), 1)
    right = answer == label
    own = probs[np.arange(len(label)), label]
    per_class = class_scores(counts, labels)
    found = [score.recall for score in per_class if score.recall is not None]
    return ClipScores(
        top1=float(right.mean()),
        top1_interval=bootstrap_interval(right, groups, seed=seed),
        top5=top_k(probs, label, TOP_K) if len(labels) > TOP_K else None,
        mean_class_accuracy=float(np.mean(found)),
        nll=float(-np.log(np.maximum(own, SMALLEST_PROB)).mean()),
        per_class=per_class,
        confused=most_confused(counts, labels),
    )


def top_k(probs: Probs, label: Classes, k: int) -> float:
    """Share of rows whose class is among the k most probable; of equal ones the first leads.

    Example:
        >>> top_k(np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), np.array([1, 1]), 1)
        0.0
    """
    own = probs[np.arange(len(label)), label][:, None]
    earlier = np.arange(probs.shape[1]) < label[:, None]
    rank = ((probs > own) | ((probs == own) & earlier)).sum(1)
    return float((rank < k).mean())


def bootstrap_interval(
    right: NDArray[np.bool_], groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a share (Efron, 1979).

    Clips of one recording look alike: resampled one by one they promise too narrow an interval.
    So recordings are drawn, each with all of its clips.

    Args:
        right: Shape (N,), bool, N >= 1.
        groups: Recording of each clip, N of them; None takes every clip for itself.
        seed: Of the resampling.

    Returns:
        Lower and upper end, 0..1.
    """
    names = np.arange(len(right)) if groups is None else np.asarray(groups)
    _, group = np.unique(names, return_inverse=True)
    num_groups = int(group.max()) + 1
    hits = np.bincount(group, weights=right, minlength=num_groups)
    sizes = np.bincount(group, minlength=num_groups)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(num_groups, size=num_groups)
        shares.append(hits[drawn].sum() / sizes[drawn].sum())
    lower, upper = np.percentile(shares, INTERVAL_PERCENT)
    return float(lower), float(upper)


def class_scores(counts: NDArray[np.int64], labels: Sequence[str]) -> tuple[ClassScore, ...]:
    """Recall, precision and the most frequent mistake of every class.

    Args:
        counts: Shape (K, K), int64, rows true classes, columns answers.
        labels: Class names.
    """
    true, answered, hits = counts.sum(1), counts.sum(0), counts.diagonal()
    mistakes = counts - np.diag(hits)
    worst = mistakes.argmax(1)
    scores = []
    for k, name in enumerate(labels):
        num_wrong = int(mistakes[k, worst[k]])
        scores.append(
            ClassScore(
                label=name,
                clips=int(true[k]),
                recall=float(hits[k] / true[k]) if true[k] else None,
                precision=float(hits[k] / answered[k]) if answered[k] else None,
                confused_with=labels[worst[k]] if num_wrong else None,
                confused_share=num_wrong / int(true[k]) if num_wrong else None,
            )
        )
    return tuple(scores)


def most_confused(
    counts: NDArray[np.int64], labels: Sequence[str], limit: int = 10
) -> tuple[ConfusedPair, ...]:
    """The most frequent mistakes: by clips, then by their share of the class, then by order.

    Args:
        counts: Shape (K, K), int64, rows true classes, columns answers.
        labels: Class names.
        limit: How many at most.

    Example:
        >>> most_confused(np.array([[3, 1], [2, 0]]), ["open", "close"], 1)
        (ConfusedPair(true='close', answer='open', clips=2, share=1.0),)
    """
    true = counts.sum(1)
    pairs = [
        ConfusedPair(labels[i], labels[j], int(counts[i, j]), float(counts[i, j] / true[i]))
        for i, j in zip(*np.nonzero(counts), strict=True)
        if i != j
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.clips, -pair.share))[:limit])


def write_class_scores(
    path: Path,
    scores: Sequence[ClassScore],
    more: Mapping[str, Mapping[str, float | None]] | None = None,
) -> None:
    """Write one line a class as csv, whole or not at all; empty cells where nothing was counted.

    Args:
        path: The file.
        scores: The classes.
        more: Further columns: by name, a value for every label.
    """
    columns = dict(more or {})
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*CLASS_COLUMNS, *columns), lineterminator="\n")
        writer.writeheader()
        for score in scores:
            row = {name: values.get(score.label) for name, values in columns.items()}
            writer.writerow({**asdict(score), **row})
