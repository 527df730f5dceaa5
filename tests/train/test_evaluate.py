import csv
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
from train.clip_evaluation import order_control
from train.data.arrow_of_time import LABELS
from train.data.catalog import load_split, load_tape
from train.data.views import ViewRule, view_set
from train.evaluate import Options, clip_logits, evaluate, load_clips, main, top1_of
from train.fit import fit
from train.model.tdrl import Tdrl
from train.protocols import Answers, mean_probs

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
    pictures = {"confusion.png", "reliability.png", "event_curve.png"}
    assert {p.name for p in out.iterdir()} == {"evaluation.json", "per_class.csv"} | pictures
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


def both_ways(model, clips, label):
    """What a model says about clips, forwards and backwards."""
    probs, backwards = (mean_probs(model, [c[None] for c in way]) for way in (clips, clips.flip(1)))
    items = np.arange(len(label))
    return Answers(probs, backwards, label.numpy(), items, ())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_an_order_blind_model_answers_it_is_half_right_at_most(seed):
    model = lively_model("tiny", UNITS["plain"])
    answers = both_ways(model, pictures(12, 4, seed=seed), torch.arange(12) % 3)
    assert order_control(answers, PAIR) <= 0.505


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
    assert order_control(both_ways(SeesOrder(), clips, label), PAIR) == 1.0
    assert order_control(both_ways(SeesOrder(), clips.flip(1), label), PAIR) == 0.0


def test_data_without_reversible_classes_have_no_order_control():
    answers = both_ways(lively_model("tiny", UNITS["plain"]), pictures(2, 4), torch.arange(2))
    with pytest.raises(DataError, match="no reversible classes in these data"):
        order_control(answers, ("still", "rise"))
    forwards = replace(answers, backwards=None)
    with pytest.raises(DataError, match="no reversible classes"):
        order_control(forwards, PAIR)


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
        (["--checkpoint", str(best), "--data", str(tmp_path)], "holds data of no known format"),
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


# ---- protocols and ensembles


def test_the_measures_stand_beside_top1(evaluated, trained):
    result, out = evaluated
    lower, upper = result["clip_top1_interval"]
    assert 0 <= lower <= result["clip_top1"] <= upper <= 1
    assert result["clip_top5"] >= result["clip_top1"]
    # one clip a class: the balanced accuracy is the plain one
    assert result["mean_class_accuracy"] == pytest.approx(result["clip_top1"])
    assert result["nll"] > 0
    assert 0 <= result["ece"] <= 1
    assert sum(b["clips"] for b in result["reliability"]) == result["clips"]
    assert (result["protocol"], result["views_per_clip"]) == ("1x1", 1)
    wrong = round((1 - result["clip_top1"]) * result["clips"])
    assert len(result["confused"]) == min(10, wrong)
    with (out / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(LABELS)
    assert {"recall", "precision", "live_recall", "event_recall"} <= rows[0].keys()


def test_live_results_hold_the_curve_and_the_background(evaluated):
    live = evaluated[0]["live"]
    assert (live["num_tapes"], live["background"]) == (1, "still")
    assert live["event_curve"][0]["threshold"] == 0
    assert {"enter", "exit", "min_duration_s", "lag_s"} <= live["policy"].keys()
    assert live["plain_event_f1"] is not None
    assert set(live["event_recall_of"]) == set(LABELS)


def test_more_views_are_averaged(trained, tiny_data, tmp_path):
    best = trained / "checkpoint" / "best.ckpt"
    options = Options(protocol="2x3")
    result = evaluate(best, tiny_data, tmp_path, options)
    assert (result["protocol"], result["views_per_clip"]) == ("2x3", 6)
    assert "order_control" not in result, "that is a matter of one view"
    model, facts = load_checkpoint(best)
    split = load_split(tiny_data, "validation", facts.labels)
    sampling = facts.sampling
    views = view_set(split, facts.picture, sampling.num_segments, sampling.window_s, ViewRule(2, 3))
    with torch.no_grad():
        probs = [model(views[i][0]).mean(1).softmax(1).mean(0) for i in range(len(views))]
    assert result["clip_top1"] == top1_of(torch.stack(probs), torch.arange(13))


def test_an_ensemble_of_one_model_twice_says_what_the_model_says(
    evaluated, trained, tiny_data, tmp_path
):
    best = trained / "checkpoint" / "best.ckpt"
    result = evaluate([best, best], tiny_data, tmp_path)
    alone = evaluated[0]
    for name in ("clip_top1", "nll", "ece", "order_control"):
        assert result[name] == pytest.approx(alone[name])
    assert [m["clip_top1"] for m in result["members"]] == [alone["clip_top1"]] * 2
    assert "live" not in result
    assert result["checkpoint"] == "best.ckpt + best.ckpt"


def test_members_may_take_different_numbers_of_frames(trained, tiny_data, tmp_path):
    best = trained / "checkpoint" / "best.ckpt"
    model, facts = load_checkpoint(best)
    longer = replace(facts, sampling=replace(facts.sampling, num_segments=8))
    other = write_checkpoint(tmp_path / "f8.ckpt", model, longer)
    result = evaluate([best, other], tiny_data, tmp_path / "out")
    assert [member["num_segments"] for member in result["members"]] == [4, 8]


def test_members_of_other_labels_are_refused(trained, control, tiny_data, tmp_path):
    with pytest.raises(CheckpointError, match="an ensemble needs the same labels"):
        evaluate([trained / "checkpoint" / "best.ckpt", control], tiny_data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_tape_of_a_data_set_counts(evaluated, trained, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "train.evaluate.load_tapes",
        lambda data, name, labels: 2 * [load_tape(data, name, labels)],
    )
    twice = evaluate(trained / "checkpoint" / "best.ckpt", tiny_data, tmp_path)["live"]
    once = evaluated[0]["live"]
    assert twice["num_tapes"] == 2
    assert twice["num_actions"] == 2 * once["num_actions"]
    assert twice["live_top1"] == once["live_top1"]
    assert twice["outside_s"] == pytest.approx(2 * once["outside_s"])


def test_a_threshold_of_certainty_leaves_no_event(trained, tiny_data, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text('{"enter": 1.0, "exit": 1.0}')
    options = Options(policy=policy)
    live = evaluate(trained / "checkpoint" / "best.ckpt", tiny_data, tmp_path, options)["live"]
    assert (live["policy"]["enter"], live["event_f1"], live["num_false_events"]) == (1.0, 0, 0)
    assert live["event_curve"][0]["event_recall"] is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "3x2"], "protocol must be CxK"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["--workers", "-1"], "--workers must be >= 0, got -1"),
        (["--policy", "gone.json"], "gone.json cannot be read: No such file"),
        (["--split", "train", "--protocol", "1x3"], "3 crops need the frames of video files"),
    ],
)
def test_wrong_options_are_one_line(trained, tiny_data, tmp_path, capsys, more, message):
    best = trained / "checkpoint" / "best.ckpt"
    argv = ["--checkpoint", str(best), "--data", str(tiny_data), "--out", str(tmp_path / "out")]
    assert run_command(partial(main, [*argv, *more])) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_several_checkpoints_may_be_given_in_both_ways(trained, tiny_data, tmp_path, capsys):
    best = str(trained / "checkpoint" / "best.ckpt")
    argv = ["--checkpoint", best, best, "--checkpoint", best, "--data", str(tiny_data)]
    assert run_command(lambda: main([*argv, "--out", str(tmp_path)])) == 0
    printed = capsys.readouterr().out
    assert printed.count("  alone, 4 frames") == 3
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["members"]) == 3
