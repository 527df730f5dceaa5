"""Killed at any moment, a run goes on to the result it would have had."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.command import run_command
from runtime.errors import CheckpointError
from train.checkpoint import read_checkpoint
from train.fit import fit, main
from train.module import TdrlModule
from train.run_checkpoints import BEST, LAST, WholeCheckpoints
from train.trainer import Hardware

REPOSITORY = Path(__file__).parents[2]
EVERY_UPDATE = Hardware(save_every_s=0, accelerator="cpu")

# whatever draws by chance, keeps a mean or counts is on
ALL_ON = {
    "multi_scale_crop": True,
    "flip": True,
    "jitter": 0.2,
    "pre_roll": 0.5,
    "ema": 0.9,
    "accumulate": 2,
    "label_smoothing": 0.1,
    "class_weights": True,
}
STEPS = {
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "schedule": "steps",
    "lr_steps": (1,),
    "warmup_epochs": 0.5,
    "fc_lr5": True,
    "batch_norm": "partial",
    "pre_roll": 1.0,
}
TENSORS = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers")


def flat(value, name=""):
    """Leaves of nested containers by their path."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in items for k, v in flat(part, f"{name}/{key}").items()}


def assert_same_run(run, other):
    """Weights, their mean, the optimiser and the schedule, bit for bit."""
    for file in (LAST, BEST):
        ours, theirs = (read_checkpoint(r / "checkpoint" / file) for r in (run, other))
        assert (ours["epoch"], ours["global_step"]) == (theirs["epoch"], theirs["global_step"])
        a, b = ({name: flat(data.get(name)) for name in TENSORS} for data in (ours, theirs))
        a, b = flat(a), flat(b)
        assert list(a) == list(b)
        assert len(a) > 100
        differ = [
            name
            for name, value in a.items()
            if not (torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name])
        ]
        assert differ == [], file
        assert ours["tdrl"] == theirs["tdrl"], "accuracy and consensus too"


def in_a_child(body):
    """Run a body in a process of its own; its wait status (negative: the signal that ended it)."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(run_command(body))
        finally:
            traceback.print_exc()
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory):
    """The tiny data without its tapes: nothing to do after training."""
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "validation", "labels.txt"):
        (folder / part).symlink_to(tiny_data / part)
    return folder


@pytest.fixture(scope="module")
def all_on(recipe):
    return replace(recipe, **ALL_ON, workers=1)


@pytest.fixture(scope="module")
def whole(all_on, data, tmp_path_factory):
    """The folder of an uninterrupted run."""
    run = tmp_path_factory.mktemp("whole")
    fit(all_on, data, run, name="x", hardware=EVERY_UPDATE)
    return run


def send(signum):
    os.kill(os.getpid(), signum)


def mid_epoch(monkeypatch, signum):
    def on_train_batch_start(module, batch, batch_idx):
        if (module.current_epoch, batch_idx) == (1, 5):
            send(signum)

    monkeypatch.setattr(TdrlModule, "on_train_batch_start", on_train_batch_start)


def in_backward(monkeypatch, signum):
    """Between the two batches of an update, and before the first checkpoint of the epoch."""

    def on_after_backward(module):
        if (module.current_epoch, module.trainer.fit_loop.epoch_loop.batch_idx) == (0, 9):
            send(signum)

    monkeypatch.setattr(TdrlModule, "on_after_backward", on_after_backward)


def in_validation(monkeypatch, signum):
    def on_validation_batch_start(module, batch, batch_idx):
        if module.current_epoch == 1:
            send(signum)

    monkeypatch.setattr(TdrlModule, "on_validation_batch_start", on_validation_batch_start)


def between_epochs(monkeypatch, signum):
    """Killed after the first epoch's checkpoint, asked before it is written."""
    name = "on_train_epoch_start" if signum == signal.SIGKILL else "on_train_epoch_end"

    def hook(module):
        if module.current_epoch == (name == "on_train_epoch_start"):
            send(signum)

    monkeypatch.setattr(TdrlModule, name, hook)


def after_the_last_epoch(monkeypatch, signum):
    def on_train_epoch_end(module):
        if module.current_epoch == 1:
            send(signum)

    monkeypatch.setattr(TdrlModule, "on_train_epoch_end", on_train_epoch_end)


def between_best_and_last(monkeypatch, signum):
    usual = WholeCheckpoints.save_checkpoint

    def save_checkpoint(plugin, checkpoint, path, storage_options=None):
        usual(plugin, checkpoint, path, storage_options)
        if Path(path).name == BEST and checkpoint["epoch"] == 0:
            send(signum)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save_checkpoint)


def while_writing(monkeypatch, signum):
    usual = torch.save

    def save(value, file):
        if value["global_step"] == 7:
            file.write(b"PK half a checkpoint")
            file.flush()
            send(signum)
        usual(value, file)

    monkeypatch.setattr(torch, "save", save)


MOMENTS = [
    *(mid_epoch, in_backward, in_validation, between_epochs, between_best_and_last),
    while_writing,
]
by_name = pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)


@by_name
def test_a_killed_run_resumes_to_the_uninterrupted_result(
    whole, all_on, data, tmp_path, monkeypatch, moment
):
    assert killed(all_on, data, tmp_path, monkeypatch, moment) == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert LAST in left
    assert any(name.endswith(".part.ckpt") for name in left) == (moment is while_writing)
    fit(all_on, data, tmp_path, name="x", resume=True, hardware=EVERY_UPDATE)
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {BEST, LAST}
    assert_same_run(tmp_path, whole)


def killed(recipe, data, run, monkeypatch, moment):
    with monkeypatch.context() as patch:
        moment(patch, signal.SIGKILL)
        return in_a_child(lambda: fit(recipe, data, run, name="x", hardware=EVERY_UPDATE) and 0)


def test_sgd_with_steps_and_partial_norms_resumes_as_well(recipe, data, tmp_path, monkeypatch):
    steps = replace(recipe, **{**ALL_ON, **STEPS}, workers=0)
    fit(steps, data, tmp_path / "whole", name="x", hardware=EVERY_UPDATE)
    assert killed(steps, data, tmp_path / "a", monkeypatch, mid_epoch) == -signal.SIGKILL
    fit(steps, data, tmp_path / "a", name="x", resume=True, hardware=EVERY_UPDATE)
    assert_same_run(tmp_path / "a", tmp_path / "whole")


def test_a_run_that_was_killed_twice_resumes_too(whole, all_on, data, tmp_path, monkeypatch):
    assert killed(all_on, data, tmp_path, monkeypatch, in_backward) == -signal.SIGKILL
    with monkeypatch.context() as patch:
        mid_epoch(patch, signal.SIGKILL)
        status = in_a_child(
            lambda: fit(all_on, data, tmp_path, name="x", resume=True, hardware=EVERY_UPDATE) and 0
        )
    assert status == -signal.SIGKILL
    fit(all_on, data, tmp_path, name="x", resume=True, hardware=EVERY_UPDATE)
    assert_same_run(tmp_path, whole)


# ---- asked to stop


def argv_of(recipe, data, run):
    given = {"backbone": recipe.backbone, **STEP_FREE, **ALL_ON}
    fields = [f"--set={name}={value}" for name, value in given.items()]
    return ["--data", str(data), "--out", str(run), "--name", "x", "--accelerator=cpu", *fields]


# recipe demo with these is conftest's RECIPE
STEP_FREE = {
    "height_px": 32,
    "width_px": 32,
    "num_segments": 4,
    "epochs": 2,
    "batch_size": 8,
    "workers": 1,
}


@pytest.mark.parametrize(
    ("moment", "where"),
    [
        (mid_epoch, "after batch 6 of epoch 2"),
        (in_validation, "in the validation after epoch 2"),
        (between_epochs, "after epoch 1"),
        (after_the_last_epoch, "after the last epoch"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sigterm_is_one_line_and_status_143_and_the_run_goes_on(
    whole, all_on, data, tmp_path, monkeypatch, capsys, moment, where
):
    argv = argv_of(all_on, data, tmp_path)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        moment(patch, signal.SIGTERM)
        assert run_command(lambda: main(argv)) == 128 + signal.SIGTERM
    err = capsys.readouterr().err
    assert err == f"stopped by SIGTERM {where}; go on with --resume\n"
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert run_command(lambda: main([*argv, "--resume"])) == 0
    assert_same_run(tmp_path, whole)
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_stop_before_the_first_checkpoint_says_that_nothing_is_saved(
    all_on, data, tmp_path, monkeypatch, capsys
):
    def on_validation_batch_start(module, batch, batch_idx):
        send(signal.SIGTERM)

    monkeypatch.setattr(TdrlModule, "on_validation_batch_start", on_validation_batch_start)
    argv = argv_of(all_on, data, tmp_path)
    assert run_command(lambda: main(argv)) == 143
    err = capsys.readouterr().err
    assert err.endswith("after epoch 1; nothing is saved yet, start it again\n")
    assert not (tmp_path / "checkpoint" / LAST).exists()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_twice_the_run_ends_at_once(
    all_on, data, tmp_path, monkeypatch, capsys, signum, status
):
    """The step that runs does not end: only a second signal gets out of it."""

    def on_train_batch_start(module, batch, batch_idx):
        send(signum)
        time.sleep(0.01)
        send(signum)
        time.sleep(60)

    monkeypatch.setattr(TdrlModule, "on_train_batch_start", on_train_batch_start)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    began = time.monotonic()
    assert run_command(lambda: main(argv_of(all_on, data, tmp_path))) == status
    assert time.monotonic() - began < 30
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_sigterm_to_the_whole_process_group_stops_a_real_command(whole, all_on, data, tmp_path):
    """As `timeout`, systemd and SLURM do it: the loader's processes get the signal too."""
    command = [sys.executable, "-m", "train.fit", *argv_of(all_on, data, tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("epoch 1 of 2: ")
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    (line,) = err.splitlines()
    assert line.startswith("stopped by SIGTERM after ")
    assert line.endswith("; go on with --resume")
    assert run_command(lambda: main([*argv_of(all_on, data, tmp_path), "--resume"])) == 0
    assert_same_run(tmp_path, whole)


# ---- going on with something else


def test_a_run_does_not_go_on_with_other_clips(whole, all_on, data, tmp_path):
    path = whole / "checkpoint" / LAST
    saved = torch.load(path, weights_only=True)
    assert saved["tdrl_order"] == {"processes": 1, "training clips": 80}
    run = tmp_path / "checkpoint"
    run.mkdir()
    for name, was in (("training clips", 79), ("processes", 2)):
        torch.save({**saved, "tdrl_order": {**saved["tdrl_order"], name: was}}, run / LAST)
        with pytest.raises(CheckpointError, match=rf"with {was} {name}, now there are (80|1)"):
            fit(all_on, data, tmp_path, name="x", resume=True)
