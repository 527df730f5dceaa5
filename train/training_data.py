"""A recipe's view of a data set: what the checkpoint says of it, and the loaders of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.sampling import ClipLengths, window_from_lengths
from train.checkpoint import Facts
from train.data.augment import AugmentRule
from train.data.clips import ArrayClipSet, ClipRule, KeptClips, VideoClipSet
from train.data.flips import flip_map
from train.data.loader import ClipLoader, clip_loader
from train.data.reversal import reversal_map
from train.data.split import Split
from train.model.tdrl import ModelConfig
from train.recipe import Recipe

EVALUATION_BATCH = 64
KEPT_BYTES = 512 << 20  # validation clips up to this size are decoded once


@dataclass(frozen=True)
class Rank:
    """Which of the processes of a run this is."""

    number: int = 0
    count: int = 1


ALONE = Rank()


def facts_of(recipe: Recipe, train: Split, name: str) -> Facts:
    """What the checkpoint will say: architecture, labels, picture rule, sampling contract.

    Raises:
        ValueError: No such model or picture.
        DataError: The clips' lengths cannot be measured.
    """
    lengths_s = train.lengths_s
    window_s = recipe.window_s or window_from_lengths(lengths_s)
    return Facts(
        name=name,
        model=ModelConfig(
            backbone=recipe.backbone,
            num_classes=len(train.labels),
            unit=recipe.unit(),
            dropout=recipe.dropout,
            head=recipe.head,
        ),
        labels=train.labels,
        picture=recipe.picture(),
        sampling=recipe.contract(window_s, ClipLengths.of(lengths_s)),
        recipe=recipe.to_json(),
    )


def training_loader(
    recipe: Recipe,
    facts: Facts,
    split: Split,
    *,
    rank: Rank = ALONE,
    broken_list: Path | None = None,
) -> ClipLoader:
    """Training clips as the recipe varies them, in a new order every epoch.

    Args:
        recipe: The run's recipe.
        facts: What `facts_of` made of it.
        split: The training clips.
        rank: The share of this process.
        broken_list: File that gets a line for every clip that cannot be read.

    Raises:
        DataError: Fewer clips than one batch, or arrays of another size.
    """
    return clip_loader(
        _clips(recipe, facts, split, is_training=True, broken_list=broken_list),
        batch_size=recipe.batch_size,
        shuffle=True,
        seed=recipe.seed,
        workers=recipe.workers,
        rank=rank.number,
        num_ranks=rank.count,
        drop_last=True,
    )


def validation_loader(
    recipe: Recipe,
    facts: Facts,
    split: Split,
    *,
    rank: Rank = ALONE,
    broken_list: Path | None = None,
) -> ClipLoader:
    """Validation clips, the same in every epoch; see `training_loader`."""
    clips = _clips(recipe, facts, split, is_training=False, broken_list=broken_list)
    kept_bytes = len(clips) * recipe.num_segments * 3 * recipe.height_px * recipe.width_px
    is_kept = kept_bytes <= KEPT_BYTES
    return clip_loader(
        KeptClips(clips) if is_kept else clips,
        batch_size=EVALUATION_BATCH,
        shuffle=False,
        seed=recipe.seed,
        # what is kept is kept in the process that trains
        workers=0 if is_kept else recipe.workers,
        rank=rank.number,
        num_ranks=rank.count,
    )


def _clips(
    recipe: Recipe, facts: Facts, split: Split, *, is_training: bool, broken_list: Path | None
) -> ArrayClipSet | VideoClipSet:
    """The split's clips: varied and drawn anew for training, the same every time for validation."""
    rule = ClipRule(
        num_segments=recipe.num_segments,
        spacing_s=facts.sampling.spacing_s,
        sampling=recipe.sampling if is_training else recipe.validation,
        seed=recipe.seed,
        random=is_training,
    )
    return split.clips(
        facts.picture,
        rule,
        augment_rule(recipe, split.labels) if is_training else None,
        cache=None if recipe.cache is None else Path(recipe.cache),
        broken_list=broken_list,
    )


def augment_rule(recipe: Recipe, labels: tuple[str, ...]) -> AugmentRule | None:
    """How training clips are varied; None where they are not.

    Raises:
        ValueError: The recipe reverses classes that are none.
    """
    varied = (recipe.multi_scale_crop, recipe.flip, recipe.jitter, recipe.low_light)
    if not (any(varied) or recipe.reverse):
        return None
    return AugmentRule(
        multi_scale_crop=recipe.multi_scale_crop,
        flip=recipe.flip,
        flip_map=flip_map(labels) if recipe.flip else {},
        seed=recipe.seed,
        jitter=recipe.jitter,
        low_light=recipe.low_light,
        reverse_map=reversal_map(recipe.reverse, labels),
    )


def class_weights(split: Split, reverse: Sequence[str] = ()) -> Tensor:
    """Weights (K,) that give every class with clips the same share in the loss, mean 1 a clip.

    Args:
        split: The training clips.
        reverse: Pairs whose clips are half of the time each other's, see `Recipe`.
    """
    counts = torch.zeros(len(split.labels))
    backwards = reversal_map(reverse, split.labels)
    for label in split.clip_labels:
        counts[label] += 0.5
        counts[backwards.get(label, label)] += 0.5
    return counts.sum() / ((counts > 0).sum() * torch.where(counts > 0, counts, 1.0))


def clips_of_batch(loader: ClipLoader, epoch: int, batch_idx: int, split: Split) -> str:
    """What a training batch of this process holds, for people: its first three clips."""
    sampler = loader.clip_sampler
    sampler.set_epoch(epoch)
    size = loader.batch_size or 1
    order = [item for _, item in sampler.whole_epoch()]
    items = order[batch_idx * size : (batch_idx + 1) * size]
    names = [split.name_of(item) for item in items[:3]]
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(names) + more
