"""What disks, signals and clocks do to checkpoints."""

import resource
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train.run_checkpoints
from runtime.command import run_command
from runtime.errors import CheckpointError, DataError
from tests.train.test_resume import argv_of, in_a_child
from train.checkpoint import read_checkpoint
from train.fit import fit, main
from train.module import TdrlModule
from train.run_checkpoints import BEST, LAST, WholeCheckpoints, remove_parts
from train.trainer import Hardware

QUICK = Hardware(accelerator="cpu", save_every_s=0)


def in_folder(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- full disks


def limit_files(size):
    """What a full disk does, for this process: writing beyond `size` bytes is an OSError."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_keeps_the_checkpoint_before_it(tmp_path, capfd):
    plugin = WholeCheckpoints()
    path = tmp_path / "checkpoint" / LAST
    plugin.save_checkpoint({"x": torch.zeros(10)}, path)
    before = path.read_bytes()

    def body():
        limit_files(100_000)
        plugin.save_checkpoint({"x": torch.zeros(100_000)}, path)

    assert in_a_child(body) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} cannot be written: ")
    assert "File too large" in line
    assert line.endswith("the checkpoint before it is kept; make room and go on with --resume")
    assert path.read_bytes() == before
    assert in_folder(path.parent) == [LAST]


def test_a_disk_that_fills_while_training_ends_in_one_line_and_the_run_goes_on(
    trained, tiny_data, recipe, tmp_path, capfd
):
    size = (trained / "checkpoint" / LAST).stat().st_size
    run = tmp_path / "run"
    usual = WholeCheckpoints.save_checkpoint

    def save_checkpoint(plugin, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] > 12:
            limit_files(size // 2)
        usual(plugin, checkpoint, path, storage_options)

    def body():
        WholeCheckpoints.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
        fit(recipe, tiny_data, run, name="trained", hardware=QUICK)

    assert in_a_child(body) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "last.ckpt cannot be written: " in line
    assert in_folder(run / "checkpoint") == [BEST, LAST]
    assert read_checkpoint(run / "checkpoint" / LAST)["global_step"] == 12
    fit(recipe, tiny_data, run, name="trained", resume=True, hardware=QUICK)
    ours, theirs = (read_checkpoint(r / "checkpoint" / LAST)["state_dict"] for r in (run, trained))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_disk_that_is_full_at_the_very_end_is_one_line_too(
    trained, tiny_data, recipe, tmp_path, capfd
):
    """The best checkpoint is written once more, with its accuracy."""
    run = tmp_path / "run"

    def body():
        def on_train_end(module):
            limit_files(50_000)

        TdrlModule.on_train_end = on_train_end  # type: ignore[method-assign]
        fit(recipe, tiny_data, run, name="trained", hardware=QUICK)

    assert in_a_child(body) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "best.ckpt cannot be written: " in line
    assert in_folder(run / "checkpoint") == [BEST, LAST]
    best = fit(recipe, tiny_data, run, name="trained", resume=True, hardware=QUICK)
    theirs = read_checkpoint(trained / "checkpoint" / BEST)
    assert read_checkpoint(best)["tdrl"] == theirs["tdrl"]


def test_a_folder_that_cannot_be_written_is_one_error():
    """Not even by root: /proc takes no files."""
    with pytest.raises(CheckpointError, match=r"cannot be written: .*none is there yet"):
        WholeCheckpoints().save_checkpoint({}, Path("/proc/self") / LAST)


def test_a_folder_that_is_a_file_is_one_error(tmp_path):
    (tmp_path / "checkpoint").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be written: .*none is there yet"):
        WholeCheckpoints().save_checkpoint({}, tmp_path / "checkpoint" / LAST)


def test_only_half_written_checkpoints_are_removed(tmp_path):
    for name in (".last.17.part.ckpt", BEST, "best.part.ckpt", ".hidden"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert in_folder(tmp_path) == [".hidden", BEST, "best.part.ckpt"]
    remove_parts(tmp_path / "gone")


# ---- how often


@pytest.mark.parametrize(
    ("hardware", "accumulate", "expected"),
    [
        (Hardware(accelerator="cpu"), 1, [10]),
        (QUICK, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (QUICK, 4, [1, 2, 3]),  # 10 batches: 4 + 4 + 2
    ],
)
def test_last_is_saved_between_updates_and_at_the_epochs_end(
    recipe, tiny_data, tmp_path, monkeypatch, hardware, accumulate, expected
):
    saved = []
    usual = WholeCheckpoints.save_checkpoint

    def save_checkpoint(plugin, checkpoint, path, storage_options=None):
        if path.name == LAST if hasattr(path, "name") else str(path).endswith(LAST):
            saved.append(checkpoint["global_step"])
        usual(plugin, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save_checkpoint)
    chosen = replace(recipe, epochs=1, accumulate=accumulate)
    fit(chosen, tiny_data, tmp_path, name="x", hardware=hardware)
    assert saved == expected


def test_seconds_between_checkpoints_are_seconds(recipe, tiny_data, tmp_path, monkeypatch):
    """A clock that goes on by 4 s a batch: every third batch is more than 10 s later."""
    now = [0.0]
    steps = []
    usual = WholeCheckpoints.save_checkpoint

    def save_checkpoint(plugin, checkpoint, path, storage_options=None):
        steps.append(checkpoint["global_step"])
        usual(plugin, checkpoint, path, storage_options)

    def on_train_batch_start(module, batch, batch_idx):
        now[0] += 4

    # this module's clock only: whoever waits for a process meanwhile needs the real one
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(train.run_checkpoints, "time", clock)
    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save_checkpoint)
    monkeypatch.setattr(TdrlModule, "on_train_batch_start", on_train_batch_start)
    hardware = Hardware(accelerator="cpu", save_every_s=10)
    fit(replace(recipe, epochs=1), tiny_data, tmp_path, name="x", hardware=hardware)
    assert steps == [3, 6, 9, 10, 10]


# ---- validations that are rare


def test_every_epoch_is_kept_where_only_every_second_one_is_validated(
    recipe, tiny_data, tmp_path, monkeypatch, capsys
):
    saved = []
    usual = WholeCheckpoints.save_checkpoint

    def save_checkpoint(plugin, checkpoint, path, storage_options=None):
        saved.append((Path(path).name, checkpoint["epoch"]))
        usual(plugin, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save_checkpoint)
    top1 = {1: 0.5, 3: 0.25}
    monkeypatch.setattr(
        TdrlModule,
        "validation_step",
        lambda module, batch, batch_idx: module.log("val/top1", top1[module.current_epoch]),
    )
    rare = replace(recipe, epochs=5, validate_every=2)
    best = fit(rare, tiny_data, tmp_path, name="x", hardware=Hardware(accelerator="cpu"))
    assert saved == [(LAST, 0), (BEST, 1), (LAST, 1), (LAST, 2), (LAST, 3), (LAST, 4)]
    data = read_checkpoint(best)
    assert (data["epoch"], data["tdrl"]["metrics"]) == (1, {"val_top1": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert ["val/top1" in line for line in lines] == [False, True, False, True, False]


def test_a_run_without_any_validation_is_refused(recipe):
    with pytest.raises(ValueError, match=r"validate_every must be <= epochs 2, .*got 3"):
        replace(recipe, validate_every=3)


# ---- losses that are no number


def test_a_loss_that_is_no_number_names_its_clips_and_keeps_the_last_good_checkpoint(
    recipe, tiny_data, tmp_path, monkeypatch, capsys
):
    usual = TdrlModule._classification_loss

    def loss(module, mean_logits, label):
        bad = module.trainer.global_step == 13
        return usual(module, mean_logits, label) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(TdrlModule, "_classification_loss", loss)
    argv = argv_of(recipe, tiny_data, tmp_path)
    assert run_command(lambda: main([*argv, "--set=accumulate=1", "--save-every-s=0"])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the loss is nan at epoch 2, batch 4 (clip ")
    assert " and 5 more); look at these clips; the last good checkpoint is kept; set " in line
    assert in_folder(tmp_path / "checkpoint") == [BEST, LAST]
    data = read_checkpoint(tmp_path / "checkpoint" / LAST)
    assert data["global_step"] == 13
    assert all(torch.isfinite(tensor).all() for tensor in data["state_dict"].values())


@pytest.mark.parametrize("save_every_s", [0, 600])
def test_a_rate_that_is_far_too_high_leaves_no_ruined_checkpoint(
    recipe, tiny_data, tmp_path, save_every_s
):
    """The first update ruins the weights: nothing at all is worth keeping."""
    wild = replace(recipe, learning_rate=1e30, epochs=1, schedule="cosine", clip_norm=0.0)
    hardware = Hardware(accelerator="cpu", save_every_s=save_every_s)
    with pytest.raises(DataError, match="the last good checkpoint is kept"):
        fit(wild, tiny_data, tmp_path, name="x", hardware=hardware)
    for path in (tmp_path / "checkpoint").glob("*"):
        weights = read_checkpoint(path)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in weights.values()), path.name


def test_weights_that_the_last_update_ruined_are_not_kept(recipe, tiny_data, tmp_path, monkeypatch):
    """The loss was fine, the gradient was not: no later loss of the epoch says so."""

    def on_after_backward(module):
        if module.trainer.global_step == 19:
            module.model.fc.weight.grad.fill_(float("nan"))

    monkeypatch.setattr(TdrlModule, "on_after_backward", on_after_backward)
    message = "the validation loss is nan after epoch 2; the last good checkpoint is kept"
    with pytest.raises(DataError, match=message):
        fit(recipe, tiny_data, tmp_path, name="x", hardware=QUICK)
    assert read_checkpoint(tmp_path / "checkpoint" / LAST)["global_step"] == 19


def test_ruined_weights_are_not_saved_within_an_epoch(recipe, tiny_data, tmp_path, monkeypatch):
    def on_after_backward(module):
        if module.trainer.global_step == 4:
            module.model.fc.weight.grad.fill_(float("nan"))

    monkeypatch.setattr(TdrlModule, "on_after_backward", on_after_backward)
    with pytest.raises(DataError, match=r"\S+ is not a number after update 5; the last good"):
        fit(recipe, tiny_data, tmp_path, name="x", hardware=QUICK)
    assert read_checkpoint(tmp_path / "checkpoint" / LAST)["global_step"] == 4
