import csv
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runtime.artifacts import ARTIFACTS
from runtime.command import run_command
from runtime.errors import CheckpointError, DataError
from runtime.preprocess import PictureRule
from runtime.sampling import ClipLengths
from tests.train.models import UNITS, facts_of_model, lively_model, write_checkpoint
from train.checkpoint import load_checkpoint, read_checkpoint
from train.data.arrow_of_time import LABELS
from train.data.catalog import load_split
from train.evaluate import clip_logits, load_clips, top1_of
from train.fit import fit, initialise, main
from train.live_fit import consensus_candidates
from train.model.tdrl import ModelConfig, Tdrl
from train.module import TdrlModule
from train.run_checkpoints import BEST, LAST

REPOSITORY = Path(__file__).parents[2]


def weights(run, name=LAST):
    return read_checkpoint(run / "checkpoint" / name)["state_dict"]


def steps_of(run, name=LAST):
    return int(weights(run, name)["model.backbone.bn1.num_batches_tracked"])


def assert_same_weights(run, other):
    ours, theirs = weights(run), weights(other)
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def copied(run, tmp_path):
    """A finished run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C before a step of an epoch."""

    def at(epoch, step):
        def press(module, batch, batch_idx):
            if (module.current_epoch, batch_idx) == (epoch, step):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TdrlModule, "on_train_batch_start", press)

    yield at
    monkeypatch.undo()


# ---- a whole run


def test_a_run_leaves_its_best_and_its_last_checkpoint(trained):
    assert {p.name for p in (trained / "checkpoint").iterdir()} == {BEST, LAST}
    assert {p.name for p in trained.iterdir()} == {"checkpoint", "logs"}


def test_the_best_checkpoint_says_all_that_export_needs(trained, tiny_data, recipe):
    _, facts = load_checkpoint(trained / "checkpoint" / BEST)
    assert facts.name == "trained"
    assert facts.labels == LABELS
    assert facts.picture == PictureRule(height_px=32, width_px=32)
    assert (facts.model.backbone, facts.model.num_classes) == ("tiny", 13)
    assert (facts.model.unit.form, facts.model.unit.shift_div) == ("causal", 4)
    assert (facts.sampling.num_segments, facts.sampling.window_s) == (4, 2.0)
    assert facts.sampling.consensus_len in consensus_candidates(facts.sampling)
    lengths_s = load_split(tiny_data, "train", LABELS).lengths_s
    assert facts.sampling.clip_lengths == ClipLengths.of(lengths_s)
    assert len(lengths_s) == 40
    assert facts.recipe == recipe.to_json()


def test_the_best_checkpoints_accuracy_is_that_of_its_weights(trained, tiny_data):
    model, facts = load_checkpoint(trained / "checkpoint" / BEST)
    clips = load_clips(tiny_data, "validation", facts)
    measured = top1_of(clip_logits(model, clips.pictures), clips.label)
    assert facts.metrics == {"val_top1": pytest.approx(measured)}


def test_weights_were_learned(trained, recipe):
    before = Tdrl(load_checkpoint(trained / "checkpoint" / BEST)[1].model).state_dict()
    after = weights(trained)
    assert after["model.backbone.layer1.0.unit.pem.attend.weight"].any()
    assert steps_of(trained) == recipe.epochs * (40 * 2 // 8)
    assert set(after) == {f"model.{name}" for name in before}


def test_metrics_of_every_epoch_are_logged(trained):
    (log,) = (trained / "logs").rglob("metrics.csv")
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert {row["epoch"] for row in rows if row["val/top1"]} == {"0", "1"}


def test_a_run_elsewhere_leaves_latest_alone(trained):
    latest = ARTIFACTS / "latest"
    assert not latest.exists() or latest.resolve() != trained.resolve()


# ---- going on, and not running over


def test_ctrl_c_leaves_a_last_checkpoint_from_which_the_run_goes_on_bit_for_bit(
    trained, tiny_data, recipe, tmp_path, interrupt, monkeypatch
):
    usual = signal.getsignal(signal.SIGINT)
    interrupt(epoch=1, step=3)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tiny_data, tmp_path, name="trained")
    assert signal.getsignal(signal.SIGINT) is usual
    _, facts = load_checkpoint(tmp_path / "checkpoint" / LAST)
    assert facts.labels == LABELS
    assert steps_of(tmp_path) == 10 + 4, "the step that Ctrl-C came in is finished and saved"
    monkeypatch.undo()
    best = fit(recipe, tiny_data, tmp_path, name="trained", resume=True)
    assert_same_weights(tmp_path, trained)
    assert load_checkpoint(best)[1] == load_checkpoint(trained / "checkpoint" / BEST)[1]
    assert len(list((tmp_path / "logs").rglob("metrics.csv"))) == 2, "the first part's log stays"


def test_ctrl_c_in_the_first_epoch_is_resumed_too(
    tiny_data, tmp_path, interrupt, capsys, monkeypatch
):
    interrupt(epoch=0, step=1)
    argv = ["--recipe", "demo", "--data", str(tiny_data), "--out", str(tmp_path)]
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    assert run_command(lambda: main([*argv, *small])) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "interrupted"
    assert steps_of(tmp_path) == 2
    assert not (tmp_path / "checkpoint" / BEST).exists()
    monkeypatch.undo()
    assert run_command(lambda: main([*argv, *small, "--auto-resume"])) == 0
    assert steps_of(tmp_path) == 10


SMALL = {"height_px": 32, "width_px": 32, "num_segments": 4, "epochs": 1, "batch_size": 8}


def test_a_finished_run_resumes_to_itself_where_it_was_moved_to(
    trained, tiny_data, recipe, tmp_path
):
    run = copied(trained, tmp_path)
    best = fit(recipe, tiny_data, run, name="trained", resume=True)
    assert_same_weights(run, trained)
    assert load_checkpoint(best)[1] == load_checkpoint(trained / "checkpoint" / BEST)[1]


def test_a_moved_run_still_knows_its_best(tiny_data, recipe, tmp_path, interrupt, monkeypatch):
    """The last checkpoint is the last epoch's, the best one the best epoch's, moved or not."""
    monkeypatch.setattr(TdrlModule, "validation_step", pretended_top1)
    recipe = replace(recipe, epochs=3)
    interrupt(epoch=2, step=0)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tiny_data, tmp_path / "a", name="x")
    assert [steps_of(tmp_path / "a", name) for name in (BEST, LAST)] == [10, 21]
    (tmp_path / "a").rename(tmp_path / "b")
    interrupt(epoch=-1, step=0)
    best = fit(recipe, tiny_data, tmp_path / "b", name="x", resume=True)
    assert load_checkpoint(best)[1].metrics == {"val_top1": 0.75}
    assert [steps_of(tmp_path / "b", name) for name in (BEST, LAST)] == [10, 30]


def pretended_top1(module, batch, batch_idx):
    module.log("val/top1", 0.75 - 0.25 * module.current_epoch)


@pytest.mark.parametrize("there", [BEST, LAST])
def test_older_checkpoints_are_not_overwritten(tiny_data, recipe, tmp_path, there):
    old = tmp_path / "checkpoint" / there
    old.parent.mkdir()
    old.write_bytes(b"precious")
    message = "already holds checkpoints; pass --resume, --overwrite or another --name"
    with pytest.raises(CheckpointError, match=message):
        fit(recipe, tiny_data, tmp_path, name="x")
    assert old.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "wrong", [["--data", "gone"], ["--set", "batch_size=4096"], ["--set", "init=gone.pth"]]
)
def test_overwrite_keeps_the_old_run_until_a_new_one_can_start(tiny_data, tmp_path, wrong, capsys):
    old = tmp_path / "checkpoint" / BEST
    old.parent.mkdir()
    old.write_bytes(b"precious")
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    argv = ["--data", str(tiny_data), "--out", str(tmp_path), "--overwrite", *small, *wrong]
    assert run_command(lambda: main(argv)) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert old.read_bytes() == b"precious"


def test_overwrite_replaces_a_run_and_the_last_line_says_what_is_next(
    trained, tiny_data, tmp_path, capsys
):
    run = copied(trained, tmp_path)
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    argv = ["--data", str(tiny_data), "--out", str(run), "--overwrite", *small]
    assert run_command(lambda: main(argv)) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    best = run / "checkpoint" / BEST
    top1 = read_checkpoint(best)["tdrl"]["metrics"]["val_top1"]
    assert lines[-1] == f"best checkpoint {best}: clip top-1 {top1:.1%}; next: make engine"
    epoch_line = next(line for line in lines if line.startswith("epoch 1 of 1: "))
    assert all(name in epoch_line for name in ("train/loss", "train/top1", "val/top1"))
    assert load_checkpoint(best)[1].name == "demo"
    assert steps_of(run) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "was trained with epochs 2, now it is 3; resume as it began"),
        ({"backbone": "resnet18"}, "was trained with backbone 'tiny', now it is 'resnet18'"),
        ({"exclude": ("still",)}, r"was trained with exclude \(\), now it is \('still',\)"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe(trained, tiny_data, recipe, change, message):
    with pytest.raises(CheckpointError, match=message):
        fit(replace(recipe, **change), tiny_data, trained, name="trained", resume=True)


def test_an_older_run_without_a_field_went_by_its_default(trained, tiny_data, recipe, tmp_path):
    run = copied(trained, tmp_path)
    last = run / "checkpoint" / LAST
    data = torch.load(last, weights_only=True)
    del data["tdrl"]["recipe"]["head"]
    torch.save(data, last)
    other = replace(recipe, head="gru", pre_roll=0.0)
    with pytest.raises(CheckpointError, match="was trained with head 'none', now it is 'gru'"):
        fit(other, tiny_data, run, name="trained", resume=True)
    fit(recipe, tiny_data, run, name="trained", resume=True)


def test_a_run_does_not_go_on_with_other_classes(trained, tiny_data, recipe, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for part in ("train", "validation"):
        (data / part).symlink_to(tiny_data / part)
    (data / "labels.txt").write_text("\n".join(reversed(LABELS)))
    with pytest.raises(CheckpointError, match=r"was trained with labels \['slide_left'.*now it is"):
        fit(recipe, data, trained, name="trained", resume=True)


def test_a_damaged_last_checkpoint_is_one_clear_error(trained, tiny_data, recipe, tmp_path):
    run = copied(trained, tmp_path)
    last = run / "checkpoint" / LAST
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read, it may be damaged"):
        fit(recipe, tiny_data, run, name="trained", resume=True)


# ---- starting points


def test_a_checkpoint_of_other_classes_gives_all_but_the_classifier(tmp_path):
    given = lively_model("tiny", UNITS["pem-tsm"])
    path = write_checkpoint(tmp_path / "a.ckpt", given, facts_of_model(given.config))
    model = Tdrl(ModelConfig(backbone="tiny", num_classes=9, unit=UNITS["pem-tsm"]))
    fresh = model.fc.weight.clone()
    initialise(model, path)
    assert torch.equal(model.fc.weight, fresh)
    theirs = given.backbone.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.backbone.state_dict().items())
    same = Tdrl(given.config)
    initialise(same, path)
    assert torch.equal(same.fc.weight, given.fc.weight)


def test_a_lookahead_checkpoint_starts_the_causal_model(tmp_path):
    unit = replace(UNITS["pem-tsm"], form="lookahead")
    given = lively_model("tiny", unit)
    path = write_checkpoint(tmp_path / "a.ckpt", given, facts_of_model(given.config))
    model = Tdrl(ModelConfig(backbone="tiny", num_classes=4, unit=UNITS["pem-tsm"]))
    initialise(model, path)
    theirs = given.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())


def test_torchvision_weights_start_the_backbone(tmp_path):
    plain = lively_model("resnet18", UNITS["plain"])
    torch.save(plain.backbone.state_dict(), tmp_path / "resnet18.pth")
    model = Tdrl(ModelConfig(backbone="resnet18", num_classes=4, unit=UNITS["pem"]))
    initialise(model, tmp_path / "resnet18.pth")
    given = plain.backbone.state_dict()["layer1.0.conv1.weight"]
    assert torch.equal(model.backbone.blocks()[0].gated_convolution.weight, 2 * given)


# ---- what a user can do wrong


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "gone"], "gone"),
        (["--recipe", "demp"], "no recipe 'demp'; shipped recipes:"),
        (["--set", "epochs"], "--set wants FIELD=VALUE, got 'epochs'"),
        (["--set", "epoch=3"], "--set epoch=3: unknown field 'epoch'; did you mean epochs?"),
        (["--set", "epochs=none"], "epochs must be a number, got 'none'"),
        (
            ["--set", "temporal=gru"],
            "temporal must be one of none, tsm, tim, mem, tei, vsn, got 'gru'",
        ),
        (["--set", "exclude=[stil]"], "exclude names 'stil', which"),
        (["--set", "init=gone.ckpt"], "init 'gone.ckpt' is no file here"),
        (["--set", "batch_size=8"], "the training arrays hold 32×32 pictures, the recipe asks for"),
        (["--set", "height_px=4"], "height_px must be >= 8, got 4"),
        (["--resume"], "nothing to resume: no checkpoint at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_with_one_line_and_a_status(tiny_data, tmp_path, capsys, argv, message):
    folders = ["--data", str(tiny_data), "--out", str(tmp_path / "run")]
    assert run_command(lambda: main([*folders, *argv])) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_the_command_itself_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "train.fit", "--data", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {tmp_path} holds data of no known format; known are: own (")


def test_fewer_clips_than_a_batch_are_refused(tiny_data, recipe, tmp_path):
    message = "80 clips are fewer than one batch of 128; add clips or set batch_size lower"
    with pytest.raises(DataError, match=message):
        fit(replace(recipe, batch_size=128), tiny_data, tmp_path, name="x")
