"""Two processes train as one: started by torchrun, by ourselves, or as torchrun starts them."""

import gc
import os
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import replace

import pytest
import torch

import train.fit as fit_module
from runtime.command import run_command
from tests.train.test_resume import ALL_ON, REPOSITORY, assert_same_run, in_a_child
from train.checkpoint import read_checkpoint
from train.data.arrow_of_time import LABELS
from train.data.catalog import load_split
from train.fit import fit, main
from train.module import TdrlModule
from train.run_checkpoints import BEST, LAST
from train.trainer import Hardware

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
CPU = Hardware(accelerator="cpu")
FIELDS = {
    "height_px": 32,
    "width_px": 32,
    "num_segments": 4,
    "epochs": 2,
    "batch_size": 8,
    **ALL_ON,
    "batch_norm": "partial",
}
ANOTHER_ENDED = "error: another process of this run ended; its message says why"


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "validation", "labels.txt"):
        (folder / part).symlink_to(tiny_data / part)
    return folder


def arguments(data, run):
    fields = [f"--set={name}={value}" for name, value in FIELDS.items()]
    return ["--data", str(data), "--out", str(run), "--name", "x", "--accelerator", "cpu", *fields]


# ---- processes that are forks of this one: what torchrun does, without 10 s of imports


def in_two_processes(body):
    """Run a body in two processes that believe torchrun; the statuses of ranks 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = [start_process(rank, port, body) for rank in (0, 1)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def start_process(rank, port, body):
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        gc.freeze()  # what this process holds of native libraries is not ended in a copy of it
        try:
            signal.alarm(120)  # a process that waits for ever is a failure
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
            sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
            os.environ |= {**ranks, **sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            status = run_command(lambda: body(rank))
            sys.stdout.flush()
        finally:
            if status == 99:
                traceback.print_exc()
            os._exit(status)
    return pid


def test_no_validation_clip_counts_twice(recipe, data, tmp_path):
    """Seven clips for two processes: each gets four, the first one comes once more."""
    usual = load_split

    def odd_split(path, name, labels):
        split = usual(path, name, labels)
        return split if name == "train" else replace(split, segments=split.segments[:7])

    def body(rank):
        def note(module):
            counted = int(module.val_top1.tp + module.val_top1.fn)
            (tmp_path / str(rank)).write_text(str(counted))

        TdrlModule.on_validation_epoch_end = note  # type: ignore[method-assign]
        fit_module.__dict__["load_split"] = odd_split
        fit(replace(recipe, epochs=1), data, tmp_path / "run", name="x", hardware=CPU)

    assert in_two_processes(body) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["4", "3"]


def test_two_processes_share_the_clips_and_speak_with_one_voice(recipe, data, tmp_path, capfd):
    """Both end with the same weights; what is printed and written, one of them does."""
    scaled = replace(recipe, epochs=1, optimizer="sgd", lr_batch=64, learning_rate=0.04)
    seen = tmp_path / "seen"
    seen.mkdir()

    def body(rank):
        usual = TdrlModule.training_step
        labels = []

        def training_step(module, batch, batch_idx):
            labels.extend(batch[1].tolist())
            return usual(module, batch, batch_idx)

        def on_train_end(module):
            torch.save((labels, module.model.state_dict()), seen / str(rank))

        TdrlModule.training_step = training_step  # type: ignore[method-assign]
        TdrlModule.on_train_end = on_train_end  # type: ignore[method-assign]
        fit(scaled, data, tmp_path / "run", name="x", hardware=CPU)

    assert in_two_processes(body) == [0, 0]
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert line.startswith("epoch 1 of 1: ")
    assert "Traceback" not in err
    (first, weights), (second, same) = (torch.load(seen / rank) for rank in "01")
    assert (len(first), len(second)) == (40, 40)
    assert sorted([*first, *second]) == sorted(load_split(data, "train", LABELS).clip_labels)
    norms = ("running_mean", "running_var", "num_batches_tracked")
    trained = [name for name in weights if not name.endswith(norms)]
    assert all(torch.equal(weights[name], same[name]) for name in trained)
    last = read_checkpoint(tmp_path / "run" / "checkpoint" / LAST)
    assert last["global_step"] == 5, "80 clips, 2 processes, batches of 8"
    assert last["tdrl_order"] == {"processes": 2, "training clips": 80}
    (optimizer,) = last["optimizer_states"]
    rates = {group["max_lr"] for group in optimizer["param_groups"]}
    assert rates == {0.04 * 16 / 64}, "for the clips of both processes"


# ---- against a real torchrun


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run of two processes by torchrun."""
    run = tmp_path_factory.mktemp("whole")
    status, out, err = finished([*TORCHRUN, "-m", "train.fit", *arguments(data, run)])
    assert status == 0, err
    assert [line.split(":")[0] for line in out[:-1]] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert out[-1].startswith(f"best checkpoint {run / 'checkpoint' / BEST}: clip top-1 ")
    # 80 clips, 2 processes, batches of 8, two of them an update
    assert read_checkpoint(run / "checkpoint" / LAST)["global_step"] == 2 * 3
    return run


def started(arguments):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )


def finished(arguments):
    with started(arguments) as process:
        out, err = process.communicate(timeout=180)
    return process.returncode, out.splitlines(), err


@pytest.mark.slow
def test_processes_of_our_own_stop_together_and_go_on_under_torchrun(whole, data, tmp_path, capfd):
    command = ["-m", "train.fit", *arguments(data, tmp_path), "--devices", "2"]
    with started(command) as process:
        assert process.stdout.readline().startswith("epoch 1 of 2: ")
        process.send_signal(signal.SIGTERM)  # to one process: the other hears of it
        _, err = process.communicate(timeout=180)
    assert process.returncode == 143
    (line,) = err.splitlines()
    assert line.startswith("stopped by SIGTERM after ")
    resumed = [*arguments(data, tmp_path), "--resume"]
    assert in_two_processes(lambda rank: main(resumed)) == [0, 0]
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("best")]
    assert line.startswith(f"best checkpoint {tmp_path / 'checkpoint' / BEST}: clip top-1 ")
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_stop_of_either_process_stops_both_and_the_run_goes_on(
    whole, data, tmp_path, capfd, asked
):
    def stopped(rank):
        def on_train_batch_start(module, batch, batch_idx):
            if rank == asked and (module.current_epoch, batch_idx) == (1, 1):
                os.kill(os.getpid(), signal.SIGTERM)

        TdrlModule.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign]
        return main(arguments(data, tmp_path))

    assert in_two_processes(stopped)[asked] == 143
    stops = [line for line in capfd.readouterr().err.splitlines() if line.startswith("stopped")]
    assert stops == ["stopped by SIGTERM after batch 2 of epoch 2; go on with --resume"]
    resumed = [*arguments(data, tmp_path), "--resume"]
    assert in_two_processes(lambda rank: main(resumed)) == [0, 0]
    assert_same_run(tmp_path, whole)


# ---- a process that fails


def ruin_losses(rank):
    """From now on one process's loss is no number after the fourth update."""
    usual = TdrlModule._classification_loss

    def loss(module, mean_logits, label):
        bad = module.global_rank == rank and module.trainer.global_step == 4
        return usual(module, mean_logits, label) * (float("nan") if bad else 1.0)

    TdrlModule._classification_loss = loss  # type: ignore[method-assign]


def assert_failed_well(run, err):
    lines = sorted(line for line in err.splitlines() if line.startswith("error: "))
    assert lines[-1].startswith("error: the loss is nan at epoch ")
    assert set(lines[:-1]) <= {ANOTHER_ENDED}
    assert "Traceback" not in err
    saved = read_checkpoint(run / "checkpoint" / LAST)
    assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())


@pytest.mark.parametrize("failing", [0, 1])
def test_a_loss_that_is_no_number_on_one_process_ends_both(data, tmp_path, capfd, failing):
    """Nobody waits for a process that is gone."""

    def body(rank):
        ruin_losses(failing)
        return main(arguments(data, tmp_path))

    assert in_two_processes(body) == [1, 1]
    assert_failed_well(tmp_path, capfd.readouterr().err)


@pytest.mark.slow
def test_a_process_that_we_started_ends_with_the_one_that_started_it(data, tmp_path, capfd):
    """Rank 0 is a fork of this process, rank 1 the command that Lightning starts for it."""
    argv = [*arguments(data, tmp_path / "run"), "--devices", "2"]

    def body():
        ruin_losses(0)
        # what Lightning starts anew is the script of this process
        sys.modules["__main__"].__spec__ = None
        sys.argv = [str(REPOSITORY / "train" / "fit.py"), *argv]
        os.environ |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return main(argv)

    assert in_a_child(body) == 1
    err = capfd.readouterr().err
    assert_failed_well(tmp_path / "run", err)
    assert sum(line.startswith("error: the loss is nan") for line in err.splitlines()) == 1
