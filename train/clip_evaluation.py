"""Clip accuracy of one checkpoint or of several as one: what a split's clips say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import DataError
from train.calibration_error import Calibration, calibration_of
from train.checkpoint import Facts, load_checkpoint
from train.data.arrow_of_time import PAIRS
from train.data.catalog import Split
from train.data.views import ViewRule, view_set
from train.model.tdrl import Tdrl
from train.protocols import Answers, answer_views, ensemble, require_same_labels
from train.scores import ClipScores, score_clips


@dataclass(frozen=True, eq=False)
class Member:
    """One checkpoint of an evaluation: its model in evaluation mode, and its facts."""

    path: Path
    model: Tdrl
    facts: Facts


@dataclass(frozen=True, eq=False)
class ClipResult:
    """What was measured on clips.

    Attributes:
        answers: Probabilities, averaged over views and members.
        scores: Accuracies.
        calibration: Calibration of the probabilities.
        order_control: Accuracy on exact pairs; None where the data have none.
        member_top1: Accuracy of every member alone.
    """

    answers: Answers
    scores: ClipScores
    calibration: Calibration
    order_control: float | None
    member_top1: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values for a report."""
        scores = self.scores.to_json()
        found = {
            "clips": len(self.answers.label),
            "clip_top1": scores["top1"],
            "clip_top1_interval": list(scores["top1_interval"]),
            "clip_top5": scores["top5"],
            "mean_class_accuracy": scores["mean_class_accuracy"],
            "nll": scores["nll"],
            "ece": self.calibration.ece,
            "unreadable": list(self.answers.unreadable),
            "confused": list(scores["confused"]),
            "per_class": list(scores["per_class"]),
            "reliability": list(self.calibration.to_json()["bins"]),
        }
        return found if self.order_control is None else {
            **found, "order_control": self.order_control
        }  # fmt: skip


def load_members(paths: Sequence[Path], device: str = "cpu") -> list[Member]:
    """Load the checkpoints of an evaluation.

    Args:
        paths: One or more.
        device: Where the models compute.

    Raises:
        ValueError: No checkpoint.
        CheckpointError: One cannot be used, or their labels differ.
    """
    if not paths:
        raise ValueError("checkpoints must name at least one checkpoint, got none")
    members = []
    for path in paths:
        model, facts = load_checkpoint(path)
        members.append(Member(path, model.to(device), facts))
    require_same_labels([(member.path, member.facts) for member in members])
    return members


def evaluate_clips(
    members: Sequence[Member], split: Split, rule: ViewRule, *, workers: int = 0
) -> ClipResult:
    """Measure a split's clips.

    Args:
        members: One checkpoint, or several whose probabilities are averaged.
        split: The clips.
        rule: The views of each clip.
        workers: Processes that read; 0 reads in this one.

    Raises:
        DataError: Too many clips cannot be read, or crops of arrays are asked for.
    """
    labels = members[0].facts.labels
    in_pairs = rule.num_views == 1 and set(labels) <= set(PAIRS)
    said: list[Answers] = []
    groups: tuple[str, ...] | None = None
    for member in members:
        sampling = member.facts.sampling
        views = view_set(
            split, member.facts.picture, sampling.num_segments, sampling.window_s, rule
        )
        groups = views.groups
        title = "clips" if len(members) == 1 else f"clips of {member.facts.name}"
        said.append(
            answer_views(member.model, views, also_backwards=in_pairs, workers=workers, title=title)
        )
    answers = ensemble(said)
    chosen = None if groups is None else [groups[item] for item in answers.items]
    return ClipResult(
        answers,
        score_clips(answers.probs, answers.label, labels, chosen),
        calibration_of(answers.probs, answers.label),
        order_control(answers, labels) if in_pairs else None,
        tuple(float((one.probs.argmax(1) == one.label).mean()) for one in said),
    )


def order_control(answers: Answers, labels: Sequence[str]) -> float:
    """Accuracy on exact pairs: every clip of a reversible class, forwards and backwards.

    Both clips of a pair hold the same frames, so a model that does not know their order gives
    the same answer twice and is right at most once: it cannot pass 50 %.

    Args:
        answers: Of clips in both directions.
        labels: Class names in the order of the logits.

    Raises:
        DataError: The data have no reversible classes.
    """
    partner = {
        index: labels.index(PAIRS[name])
        for index, name in enumerate(labels)
        if PAIRS.get(name, name) != name and PAIRS[name] in labels
    }
    chosen = np.isin(answers.label, list(partner))
    if answers.backwards is None or not chosen.any():
        raise DataError("no reversible classes in these data: the order control needs the demo's")
    forwards = answers.label[chosen]
    reverse = np.array([partner[int(c)] for c in forwards])
    right = (answers.probs[chosen].argmax(1) == forwards).mean()
    return float(right + (answers.backwards[chosen].argmax(1) == reverse).mean()) / 2
