"""From a recipe and a split to loaders: weights of classes, names of clips, augmentation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.train.small_data import CLASSES, write_clean
from train.data.augment import AugmentRule
from train.data.catalog import load_split
from train.data.entry import VideoSegment
from train.data.reversal import reversal_map
from train.data.split import Split
from train.training_data import (
    Rank,
    augment_rule,
    class_weights,
    clips_of_batch,
    facts_of,
    training_loader,
    validation_loader,
)


def split_of(tmp_path, labels, names=("a", "b", "c")):
    segments = [VideoSegment(tmp_path / f"{i}.mp4", 0.0, 1.0, c) for i, c in enumerate(labels)]
    return Split(names, None, tuple(segments))


# ---- weights of classes


def test_classes_weigh_by_the_inverse_of_their_clips(tmp_path):
    split = split_of(tmp_path, [0] * 6 + [1] * 3 + [2])
    weights = class_weights(split)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    of_clips = weights[split.clip_labels]
    assert of_clips.mean().item() == pytest.approx(1.0)
    shares = [of_clips[torch.tensor(split.clip_labels) == c].sum().item() for c in range(3)]
    assert shares == pytest.approx([10 / 3] * 3)


def test_a_class_without_clips_changes_nothing_for_the_others(tmp_path):
    split = split_of(tmp_path, [0, 0, 0, 2])
    weights = class_weights(split)
    assert weights[[0, 2]].tolist() == pytest.approx([4 / 6, 2.0])
    assert torch.isfinite(weights).all()


# ---- names of clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_clean(tmp_path_factory.mktemp("videos") / "data")


@pytest.mark.parametrize("rank", [Rank(), Rank(1, 2)])
def test_a_batch_is_named_by_what_it_holds(recipe, videos, rank):
    train = load_split(videos, "train", CLASSES)
    # one second of the recording's past would make the clips alike
    plain = replace(recipe, sampling="segments", window_s=None, workers=0, batch_size=4)
    facts = facts_of(plain, train, "x")
    loader = training_loader(plain, facts, train, rank=rank)
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        keys = list(loader.clip_sampler)
        for number, (_, labels) in enumerate(loader):
            items = [item for _, item in keys[4 * number : 4 * number + 4]]
            assert labels.tolist() == [train.segments[item].label for item in items]
            text = clips_of_batch(loader, epoch, number, train)
            first, second, third = (train.name_of(item) for item in items[:3])
            assert text == f"{first}, {second}, {third} and 1 more"
    segment = train.segments[items[0]]
    start = f" from {segment.start_s:g} s" if segment.start_s else ""
    assert first == f"{segment.path}{start} ({CLASSES[segment.label]})"


def test_small_batches_are_named_whole(recipe, videos):
    train = load_split(videos, "train", CLASSES)
    plain = replace(recipe, workers=0, batch_size=2)
    loader = training_loader(plain, facts_of(plain, train, "x"), train)
    assert " more" not in clips_of_batch(loader, 0, 0, train)
    assert clips_of_batch(loader, 0, 0, train).count(".mp4") == 2
    assert clips_of_batch(loader, 0, 0, train) != clips_of_batch(loader, 1, 0, train)


def test_validation_is_the_same_in_every_epoch(recipe, videos):
    validation = load_split(videos, "validation", CLASSES)
    varied = replace(recipe, flip=True, jitter=0.5, multi_scale_crop=True, workers=0)
    facts = facts_of(varied, load_split(videos, "train", CLASSES), "x")
    loader = validation_loader(varied, facts, validation)
    first: list[Any] = []
    again: list[Any] = []
    for found, epoch in ((first, 0), (again, 5)):
        loader.set_epoch(epoch)
        found.extend(loader)
    assert sum(len(labels) for _, labels in first) == 10
    for (clip, _), (same, _) in zip(first, again, strict=True):
        assert torch.equal(clip, same)


# ---- augmentation


def test_mirrored_clips_take_the_partners_label_as_the_names_say(recipe):
    rule = augment_rule(
        replace(recipe, flip=True, seed=5), ("swipe left", "swipe right", "clap", "turn left")
    )
    assert rule == AugmentRule(flip=True, flip_map={0: 1, 1: 0, 2: 2}, seed=5)


def test_nothing_is_varied_where_the_recipe_says_nothing(recipe):
    assert augment_rule(recipe, ("swipe left", "swipe right")) is None
    rule = augment_rule(replace(recipe, jitter=0.25), ("swipe left", "swipe right"))
    assert rule == AugmentRule(jitter=0.25, flip=False, flip_map={}, seed=recipe.seed)
    crops = augment_rule(replace(recipe, multi_scale_crop=True), ("a", "b"))
    assert crops == AugmentRule(multi_scale_crop=True, seed=recipe.seed)


def test_reversed_clips_take_the_partners_label(recipe):
    labels = ("close", "fall", "open")
    rule = augment_rule(replace(recipe, reverse=("open/close",), seed=5), labels)
    assert rule == AugmentRule(reverse_map={2: 0, 0: 2}, seed=5)
    with pytest.raises(ValueError, match="reverse names 'shut', which is none of the classes: cl"):
        augment_rule(replace(recipe, reverse=("open/shut",)), labels)


def test_reversed_clips_weigh_as_what_they_show(tmp_path):
    split = split_of(tmp_path, [0, 0, 0, 1, 2, 2])
    # half of the time a's three are b's, and b's one is a's
    assert class_weights(split, ("a/b",)).tolist() == pytest.approx([1.0] * 3)
    assert class_weights(split, ("a/a",)).tolist() == class_weights(split).tolist()
    one = split_of(tmp_path, [0, 2, 2])
    assert class_weights(one, ("a/b",)).tolist() == pytest.approx([2.0, 2.0, 0.5])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["open"], "reverse wants pairs like open/close, got 'open'"),
        (["open/close/fall"], "reverse wants pairs like open/close"),
        (["open/close", "fall/open"], "reverse names a class of 'fall/open' twice"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        reversal_map(pairs, ("close", "fall", "open"))
