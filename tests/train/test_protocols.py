from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from runtime.errors import CheckpointError, DataError
from tests.train.models import UNITS, facts_of_model, lively_model, pictures
from train import protocols
from train.data.views import ViewRule
from train.model.tdrl import Tdrl
from train.protocols import (
    Answers,
    answer_views,
    ensemble,
    mean_probs,
    parse_protocol,
    require_same_labels,
)

MODEL = lively_model("tiny", UNITS["pem-tsm"])


class Views:
    """A set of random views that counts how often each item is asked for."""

    def __init__(self, num_clips, num_views=2, broken=()):
        self.asked = []
        self.broken = broken
        self.num_clips = num_clips
        self.view_shape = (num_views, 4, 32, 32)

    def __len__(self):
        return self.num_clips

    def __getitem__(self, index):
        self.asked.append(index)
        if index in self.broken:
            raise DataError(f"clip {index} is cut short")
        return pictures(self.view_shape[0], 4, seed=index), index % 4


@torch.no_grad()
def slow_probs(model, views):
    """One view at a time."""
    return np.mean([model(view[None])[0].mean(0).softmax(0).numpy() for view in views], axis=0)


# ---- names


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1x1", ViewRule(1, 1)),
        ("2x3", ViewRule(2, 3)),
        ("10x3", ViewRule(10, 3, "dense")),
        ("10x3-segments", ViewRule(10, 3)),
        ("5x1", ViewRule(5, 1)),
        ("1x3-dense", ViewRule(1, 3, "dense")),
    ],
)
def test_protocols_have_names(text, rule):
    assert parse_protocol(text) == rule
    assert parse_protocol(text).num_views == rule.num_clips * rule.num_crops


@pytest.mark.parametrize("text", ["", "3", "0x1", "2x2", "1x10", "2x3-", "2x3-live", "2 x 3", "x"])
def test_what_is_no_protocol_is_refused(text):
    with pytest.raises(ValueError, match="protocol must be CxK"):
        parse_protocol(text)


# ---- averaging


def test_probabilities_are_averaged_over_views_not_logits():
    views, sure = pictures(6, 4, seed=1), deepcopy(MODEL)
    with torch.no_grad():
        sure.fc.weight.mul_(50)
        of_logits = sure(views).mean((0, 1)).softmax(0).numpy()
    found = mean_probs(sure, [views])[0]
    assert np.allclose(found, slow_probs(sure, views), atol=1e-4)
    assert not np.allclose(found, of_logits, atol=1e-3), "the case tells the two apart"
    assert found.sum() == pytest.approx(1)


def test_clips_of_a_batch_stay_apart_however_it_is_cut():
    clips = [pictures(n, 4, seed=n) for n in (3, 1, 2)]
    expected = [slow_probs(MODEL, clip) for clip in clips]
    for at_once in (1, 2, 64):
        assert np.allclose(mean_probs(MODEL, clips, at_once), expected, atol=1e-5)


def test_answers_are_those_of_a_slow_loop_in_order():
    views = Views(7)
    answers = answer_views(MODEL, views)
    expected = [slow_probs(MODEL, views[i][0]) for i in range(7)]
    assert np.allclose(answers.probs, expected, atol=1e-5)
    assert answers.label.tolist() == [i % 4 for i in range(7)]
    assert answers.items.tolist() == list(range(7))
    assert answers.backwards is None


def test_backwards_answers_see_the_frames_in_reverse():
    views = Views(3)
    answers = answer_views(MODEL, views, also_backwards=True)
    expected = [slow_probs(MODEL, views[i][0].flip(1)) for i in range(3)]
    assert answers.backwards is not None
    assert np.allclose(answers.backwards, expected, atol=1e-5)
    assert not np.allclose(answers.backwards, answers.probs, atol=1e-3)


# ---- memory


class Counting(Tdrl):
    """Notes how many views come at once, and how much of the set was read by then."""

    def __init__(self, views):
        nn.Module.__init__(self)
        self.fc = nn.Linear(1, 1)
        self.views = views
        self.passes = []

    def forward(self, clip):
        self.passes.append((len(clip), len(self.views.asked)))
        return torch.zeros(len(clip), clip.shape[1], 4)


def test_each_clip_is_read_once_and_only_a_batch_is_held(monkeypatch):
    monkeypatch.setattr(protocols, "MOST_CLIPS", 6)
    views = Views(10, num_views=3)
    model = Counting(views)
    answers = answer_views(model, views, also_backwards=True)
    assert views.asked == list(range(10)), "once each, for both directions"
    # 6 views at once are 2 clips: after n passes forwards 2n clips were read, never more
    assert model.passes[::2] == [(6, 2), (6, 4), (6, 6), (6, 8), (6, 10)]
    assert len(answers.label) == 10


def test_large_pictures_come_in_smaller_passes(monkeypatch):
    monkeypatch.setattr(protocols, "MOST_PIXELS", 2 * 4 * 32 * 32)
    views = Views(3, num_views=5)
    model = Counting(views)
    answer_views(model, views)
    assert [at_once for at_once, _ in model.passes] == [2, 2, 1] * 3


def test_processes_that_read_give_the_same():
    alone = answer_views(MODEL, Views(5))
    together = answer_views(MODEL, Views(5), workers=1)
    assert np.array_equal(alone.probs, together.probs)


# ---- files that cannot be read


def test_a_clip_in_a_hundred_may_be_unreadable_and_is_left_out():
    answers = answer_views(MODEL, Views(100, num_views=1, broken=(41,)))
    assert answers.unreadable == ("clip 41 is cut short",)
    assert answers.items.tolist() == [i for i in range(100) if i != 41]
    assert answers.label.tolist() == [i % 4 for i in answers.items]


def test_more_unreadable_clips_end_the_evaluation():
    with pytest.raises(DataError, match="2 of 100 clips cannot be read, .*first: clip 3 is cut"):
        answer_views(MODEL, Views(100, num_views=1, broken=(3, 4)))


# ---- ensembles


def answers_of(probs, items=None, backwards=None, unreadable=()):
    probs = np.asarray(probs, np.float64)
    items = np.arange(len(probs)) if items is None else np.asarray(items)
    return Answers(probs, backwards, items % 2, items, unreadable)


def test_an_ensemble_is_the_mean_of_probabilities():
    first, second = answers_of([[0.9, 0.1], [0.4, 0.6]]), answers_of([[0.2, 0.8], [0.5, 0.5]])
    both = ensemble([first, second])
    assert np.allclose(both.probs, [[0.55, 0.45], [0.45, 0.55]])
    assert both.label.tolist() == [0, 1]
    alone = ensemble([first])
    assert np.array_equal(alone.probs, first.probs)


def test_an_ensemble_leaves_out_what_one_member_could_not_read():
    first = answers_of([[1, 0], [1, 0], [1, 0]], items=[0, 1, 3], unreadable=("2 is cut",))
    second = answers_of([[0, 1], [0, 1], [0.5, 0.5]], items=[0, 2, 3], unreadable=("1 is cut",))
    both = ensemble([first, second])
    assert both.items.tolist() == [0, 3]
    assert np.allclose(both.probs, [[0.5, 0.5], [0.75, 0.25]])
    assert both.label.tolist() == [0, 1]
    assert both.unreadable == ("2 is cut", "1 is cut")


def test_an_ensemble_is_known_backwards_only_if_all_are():
    backwards = np.array([[0.2, 0.8]])
    first = answers_of([[1, 0]], backwards=backwards)
    assert ensemble([first, answers_of([[1, 0]])]).backwards is None
    both = ensemble([first, answers_of([[1, 0]], backwards=1 - backwards)]).backwards
    assert both is not None
    assert np.allclose(both, 0.5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "b", "c"), r"a\.ckpt has 4, b\.ckpt has 3"),
        (("a", "c", "b", "d"), r"number 1 is 'b' in a\.ckpt and 'c' in b\.ckpt; train both"),
    ],
)
def test_other_labels_are_refused(labels, message):
    facts = facts_of_model(MODEL.config, labels=("a", "b", "c", "d"))
    other = facts_of_model(MODEL.config, labels=labels)
    require_same_labels([(Path("a.ckpt"), facts), (Path("b.ckpt"), facts)])
    with pytest.raises(CheckpointError, match=message):
        require_same_labels([(Path("a.ckpt"), facts), (Path("b.ckpt"), other)])
