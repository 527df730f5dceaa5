"""Test protocols: which views of a clip are averaged, and how, over views and over models.

`1x1` is one clip and one centre crop, `2x3` Something-Something's two clips and three crops,
`10x3` Kinetics' ten dense clips and three crops. Views and models are averaged as probabilities
(softmax of each view's consensus), as mmaction2 does with `average_clips='prob'`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from runtime.errors import CheckpointError, DataError
from train.checkpoint import Facts
from train.data.clips import MAX_BROKEN
from train.data.views import CROP_COUNTS, Moments, ViewItem, ViewRule
from train.model.tdrl import Tdrl

Probs: TypeAlias = NDArray[np.float64]

# Published names; other protocols are written CxK, with -dense for dense clips.
PROTOCOLS = {
    "1x1": ViewRule(1, 1),
    "2x3": ViewRule(2, 3),
    "10x3": ViewRule(10, 3, "dense"),
}
_PATTERN = re.compile(r"([1-9]\d*)x([1-9]\d*)(-segments|-dense)?")
# A batch of 64 clips of 8 frames at 112 px; larger pictures come in smaller batches.
MOST_CLIPS = 64
MOST_PIXELS = MOST_CLIPS * 8 * 112 * 112


def parse_protocol(text: str) -> ViewRule:
    """The views of a protocol's name.

    Raises:
        ValueError: The text is no protocol.

    Example:
        >>> parse_protocol("10x3")
        ViewRule(num_clips=10, num_crops=3, moments='dense')
        >>> parse_protocol("4x1")
        ViewRule(num_clips=4, num_crops=1, moments='segments')
        >>> parse_protocol("4x1-dense").moments
        'dense'
    """
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    match = _PATTERN.fullmatch(text)
    if match is None or int(match[2]) not in CROP_COUNTS:
        raise ValueError(
            f"protocol must be CxK: C clips, K crops of 1 or 3, as 1x1, 2x3, 10x3 or 4x1-dense, "
            f"got {text!r}"
        )
    moments: Moments = "dense" if match[3] == "-dense" else "segments"
    return ViewRule(int(match[1]), int(match[2]), moments)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says about a split.

    Attributes:
        probs: Mean probabilities over the views, shape (N, K), float64.
        backwards: The same of the clips played backwards, or None.
        label: True classes, shape (N,), int64.
        items: Which items of the set these are, shape (N,), int64: those that could be read.
        unreadable: What was wrong with the others, one line each.
    """

    probs: Probs
    backwards: Probs | None
    label: NDArray[np.int64]
    items: NDArray[np.int64]
    unreadable: tuple[str, ...]


class ViewSet(Protocol):
    """A set of views, as `train.data.views` makes them."""

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """V, T, h and w of every item."""
        ...

    def __len__(self) -> int:
        """How many clips."""
        ...

    def __getitem__(self, index: int) -> ViewItem:
        """All views of a clip (V, T, 3, h, w) uint8, and its class."""
        ...


def answer_views(
    model: Tdrl,
    views: ViewSet,
    *,
    also_backwards: bool = False,
    workers: int = 0,
    title: str = "clips",
) -> Answers:
    """Run a model over a set of views, batch by batch: memory holds a batch, never the split.

    Args:
        model: In evaluation mode, on the device that shall compute.
        views: The set; it is asked for each item once.
        also_backwards: Answer the clips in reversed order too.
        workers: Processes that read; 0 reads in this one.
        title: Of the progress bar.

    Raises:
        DataError: More than `MAX_BROKEN` of the items cannot be read; the first is named.
    """
    num_views, T, height, width = views.view_shape
    at_once = max(1, min(MOST_CLIPS, MOST_PIXELS // (T * height * width)))
    per_batch = max(1, at_once // num_views)
    loader = DataLoader(_Tried(views), per_batch, collate_fn=list, num_workers=workers)
    probs: list[Probs] = []
    backwards: list[Probs] = []
    labels, items, unreadable = [], [], []
    with tqdm(total=len(views), desc=title, unit="clip", disable=None) as bar:
        for batch in loader:
            unreadable += [found for _, found in batch if isinstance(found, str)]
            _require_mostly_readable(unreadable, len(views))
            read = [(item, found) for item, found in batch if not isinstance(found, str)]
            if read:
                items += [item for item, _ in read]
                labels += [label for _, (_, label) in read]
                clips = [pictures for _, (pictures, _) in read]
                probs.append(mean_probs(model, clips, at_once))
                if also_backwards:
                    backwards.append(mean_probs(model, [c.flip(1) for c in clips], at_once))
            bar.update(len(batch))
    return Answers(
        np.concatenate(probs),
        np.concatenate(backwards) if backwards else None,
        np.asarray(labels, np.int64),
        np.asarray(items, np.int64),
        tuple(unreadable),
    )


@torch.inference_mode()
def mean_probs(model: Tdrl, clips: Sequence[Tensor], at_once: int = MOST_CLIPS) -> Probs:
    """Probabilities of clips, averaged over the views of each.

    Args:
        model: In evaluation mode.
        clips: For each clip its views, (V, T, 3, h, w) uint8.
        at_once: Views in one pass through the model.

    Returns:
        Shape (len(clips), K), float64.
    """
    device = model.fc.weight.device
    parts = torch.cat(list(clips)).split(at_once)
    logits = torch.cat([model(part.to(device)).mean(1).double().cpu() for part in parts])
    of_clip = logits.softmax(1).split([len(views) for views in clips])
    return np.stack([probs.mean(0).numpy() for probs in of_clip])


def ensemble(members: Sequence[Answers]) -> Answers:
    """Mean probabilities of several models over the same split.

    Args:
        members: What each said; items that one of them could not read are left out.
    """
    items = reduce(np.intersect1d, [member.items for member in members])
    rows = [np.searchsorted(member.items, items) for member in members]
    pairs = list(zip(members, rows, strict=True))
    backwards = [member.backwards[row] for member, row in pairs if member.backwards is not None]
    return Answers(
        np.mean([member.probs[row] for member, row in pairs], axis=0),
        np.mean(backwards, axis=0) if len(backwards) == len(members) else None,
        members[0].label[rows[0]],
        items,
        tuple(dict.fromkeys(line for member in members for line in member.unreadable)),
    )


def require_same_labels(members: Sequence[tuple[Path, Facts]]) -> None:
    """Refuse an ensemble whose logits mean different things.

    Raises:
        CheckpointError: Two checkpoints have other labels, or the same in another order.
    """
    first_path, first = members[0]
    for path, facts in members[1:]:
        if len(facts.labels) != len(first.labels):
            raise CheckpointError(
                f"an ensemble needs the same labels: {first_path} has {len(first.labels)}, "
                f"{path} has {len(facts.labels)}"
            )
        for place, (one, other) in enumerate(zip(first.labels, facts.labels, strict=True)):
            if one != other:
                raise CheckpointError(
                    f"an ensemble needs the same labels in the same order: number {place} is "
                    f"{one!r} in {first_path} and {other!r} in {path}; train both on one data set"
                )


class _Tried(Dataset[tuple[int, ViewItem | str]]):
    """Items with their number; a line of text in place of one that cannot be read."""

    def __init__(self, views: ViewSet) -> None:
        self._views = views

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> tuple[int, ViewItem | str]:
        try:
            return index, self._views[index]
        except DataError as err:
            return index, str(err)


def _require_mostly_readable(unreadable: Sequence[str], size: int) -> None:
    if len(unreadable) > MAX_BROKEN * size:
        raise DataError(
            f"{len(unreadable)} of {size} clips cannot be read, more than {MAX_BROKEN:.0%}; "
            f"first: {unreadable[0]}"
        )
