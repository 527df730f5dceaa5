import json
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from runtime.command import run_command
from runtime.errors import CheckpointError, DataError
from tests.train.models import UNITS, lively_model, pictures, write_checkpoint
from train.checkpoint import load_checkpoint
from train.confusion import confusion_matrix, draw_confusion
from train.data.arrow_of_time import LABELS
from train.evaluate import Clips, clip_logits, evaluate, load_clips, main, order_control, top1_of
from train.fit import fit
from train.model.tdrl import Tdrl

PAIR = ("rise", "fall", "still")


@pytest.fixture(scope="module")
def control(tiny_data, recipe, tmp_path_factory):
    """A finished run of an order-blind model that leaves `still` out."""
    run = tmp_path_factory.mktemp("control")
    blind = replace(recipe, temporal="none", pem=False, td_loss=0.0, pre_roll=0.0, epochs=1)
    return fit(replace(blind, exclude=("still",)), tiny_data, run, name="control")


@pytest.fixture(scope="module")
def evaluated(trained, tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(trained / "checkpoint" / "best.ckpt", tiny_data, out), out


def test_results_are_written_as_they_are_returned(evaluated):
    result, out = evaluated
    assert {p.name for p in out.iterdir()} == {"evaluation.json", "confusion.png"}
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(result))


def test_clip_accuracy_is_that_of_training(evaluated, trained):
    result, _ = evaluated
    _, facts = load_checkpoint(trained / "checkpoint" / "best.ckpt")
    assert result["clips"] == len(LABELS)
    assert result["clip_top1"] == pytest.approx(facts.metrics["val_top1"])
    assert result["consensus_len"] == facts.sampling.consensus_len


def test_live_accuracy_stands_beside_clip_accuracy(evaluated):
    live = evaluated[0]["live"]
    assert live["num_actions"] == 4
    assert 0 < live["num_scored"] <= 4
    assert 0 <= live["live_top1"] <= 1


def test_the_confusion_picture_shows_something(evaluated):
    picture = cv2.imread(str(evaluated[1] / "confusion.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 10


def test_an_order_blind_model_cannot_pass_half_of_the_pairs(control, tiny_data, tmp_path):
    result = evaluate(control, tiny_data, tmp_path)
    assert result["order_control"] <= 0.505
    assert result["clips"] == len(LABELS) - 1
    # the tape shows `still`, which this model does not know
    assert "live" not in result


@pytest.mark.parametrize("seed", range(3))
def test_whatever_an_order_blind_model_answers_it_is_half_right_at_most(seed):
    model = lively_model("tiny", UNITS["plain"])
    clips = Clips(pictures(12, 4, seed=seed), torch.arange(12) % 3)
    assert order_control(model, clips, PAIR) <= 0.505


class SeesOrder(Tdrl):
    """Class 0 where clips get brighter, class 1 where they get darker."""

    def __init__(self):
        nn.Module.__init__(self)
        self.fc = nn.Linear(1, 1)

    def forward(self, clip):
        light = clip.float().mean((2, 3, 4))
        rise = (light[:, -1] - light[:, 0])[:, None].expand_as(light)
        return torch.stack((rise, -rise, torch.full_like(rise, -1e9)), dim=2)


def test_a_model_that_sees_order_gets_all_pairs_right():
    clips = pictures(6, 4)
    for t in range(4):
        clips[:, t] = 60 * t
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    clips[label == 1] = clips[label == 1].flip(1)
    assert order_control(SeesOrder(), Clips(clips, label), PAIR) == 1.0
    assert order_control(SeesOrder(), Clips(clips.flip(1), label), PAIR) == 0.0


def test_data_without_reversible_classes_have_no_order_control():
    clips = Clips(pictures(2, 4), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="no reversible classes in these data"):
        order_control(lively_model("tiny", UNITS["plain"]), clips, ("still", "rise"))


def test_clips_are_the_validation_splits_at_segment_centres(trained, tiny_data):
    _, facts = load_checkpoint(trained / "checkpoint" / "best.ckpt")
    clips = load_clips(tiny_data, "validation", facts)
    assert clips.pictures.shape == (13, 4, 3, 32, 32)
    assert clips.pictures.dtype == torch.uint8
    assert clips.label.tolist() == list(range(13))
    again = load_clips(tiny_data, "validation", facts)
    assert torch.equal(clips.pictures, again.pictures)


def test_batches_do_not_change_the_logits():
    model = lively_model("tiny", UNITS["pem-tsm"])
    clips = pictures(70, 2)
    logits = clip_logits(model, clips)
    assert logits.shape == (70, 4)
    with torch.no_grad():
        assert torch.allclose(logits[-3:], model(clips[-3:]).mean(1), atol=1e-5)


def test_top1():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    assert top1_of(logits, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_evaluation_that_cannot_be_done_is_one_line(trained, tmp_path, capsys):
    best = trained / "checkpoint" / "best.ckpt"
    for argv, message in (
        (["--checkpoint", str(tmp_path / "a.ckpt"), "--data", str(tmp_path)], "no checkpoint at"),
        (["--checkpoint", str(best), "--data", str(tmp_path)], "no clips in"),
    ):
        assert run_command(partial(main, [*argv, "--out", str(tmp_path / "out")])) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "out").exists()


def test_the_summary_is_printed(trained, tiny_data, tmp_path, capsys):
    best = trained / "checkpoint" / "best.ckpt"
    argv = ["--checkpoint", str(best), "--data", str(tiny_data), "--out", str(tmp_path)]
    assert run_command(lambda: main(argv)) == 0
    printed = capsys.readouterr().out
    for name in ("clip top-1", "on exact pairs", "live top-1", "event F1", "false events an hour"):
        assert name in printed
    assert printed.strip().splitlines()[-1] == f"results: {tmp_path}"


def test_a_lookahead_model_has_no_live_accuracy(trained, tiny_data, tmp_path):
    model, facts = load_checkpoint(trained / "checkpoint" / "best.ckpt")
    unit = replace(facts.model.unit, form="lookahead")
    offline = replace(facts, model=replace(facts.model, unit=unit))
    path = write_checkpoint(tmp_path / "a.ckpt", model, offline)
    result = evaluate(path, tiny_data, tmp_path / "out")
    assert "live" not in result
    assert "clip_top1" in result


def test_a_model_of_other_pictures_classes_is_refused(tiny_data, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        evaluate(tmp_path / "gone.ckpt", tiny_data, tmp_path)


# ---- confusion


def test_confusion_counts_rows_of_truth_and_columns_of_answers():
    matrix = confusion_matrix([0, 0, 2, 2, 2], [0, 1, 2, 2, 0], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 2]]


def test_confusion_is_drawn_for_many_classes_and_for_classes_without_clips(tmp_path):
    many = np.eye(31, dtype=np.int64)
    many[3] = 0
    draw_confusion({"a": many, "b": many}, [str(i) for i in range(31)], tmp_path / "c.png")
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture is not None
    assert picture.shape[1] > 1.5 * picture.shape[0], "side by side"
