"""Two processes train as one: started by torchrun, by ourselves, or as torchrun starts them."""

import os
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import replace

import pytest
import torch

from runtime.command import run_command
from tests.train.test_resume import ALL_ON, REPOSITORY, assert_same_run
from train.checkpoint import read_checkpoint
from train.fit import BEST, LAST, fit, main
from train.module import TdrlModule
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
    sys.stdout.flush()
    sys.stderr.flush()
    pids = []
    for rank in ("0", "1"):
        pid = os.fork()
        if pid == 0:
            given = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "MASTER_PORT": port}
            sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {**given, **sizes, "TORCHELASTIC_RUN_ID": "x"}
            try:
                signal.alarm(120)  # a process that waits for ever is a failure
                status = run_command(lambda: body(int(rank)))
                sys.stdout.flush()
                os._exit(status)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(99)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_two_processes_share_the_clips_and_speak_with_one_voice(recipe, data, tmp_path, capfd):
    """Both end with the same weights; what is printed and written, one of them does."""
    seen = tmp_path / "seen"
    seen.mkdir()

    def body(rank):
        usual = TdrlModule.training_step
        clips = []

        def training_step(module, batch, batch_idx):
            clips.extend(batch[0].flatten(1).long().sum(1).tolist())
            return usual(module, batch, batch_idx)

        def on_train_end(module):
            torch.save((clips, module.model.state_dict()), seen / str(rank))

        TdrlModule.training_step, TdrlModule.on_train_end = training_step, on_train_end
        fit(replace(recipe, epochs=1), data, tmp_path / "run", name="x", hardware=CPU)

    assert in_two_processes(body) == [0, 0]
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert line.startswith("epoch 1 of 1: ")
    assert "Traceback" not in err
    (first, weights), (second, same) = (torch.load(seen / rank) for rank in "01")
    assert (len(first), len(second)) == (40, 40)
    assert len({*first, *second}) == 40, "a clip and its reversal have the same sum"
    norms = ("running_mean", "running_var", "num_batches_tracked")
    trained = [name for name in weights if not name.endswith(norms)]
    assert all(torch.equal(weights[name], same[name]) for name in trained)
    last = read_checkpoint(tmp_path / "run" / "checkpoint" / LAST)
    assert last["global_step"] == 5, "80 clips, 2 processes, batches of 8"
    assert last["tdrl_order"] == {"processes": 2, "training clips": 80}


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
def test_processes_of_our_own_stop_together_go_on_and_do_what_torchruns_do(whole, data, tmp_path):
    command = ["-m", "train.fit", *arguments(data, tmp_path), "--devices", "2"]
    with started(command) as process:
        assert process.stdout.readline().startswith("epoch 1 of 2: ")
        process.send_signal(signal.SIGTERM)  # to one process: the other hears of it
        _, err = process.communicate(timeout=180)
    assert process.returncode == 143
    (line,) = err.splitlines()
    assert line.startswith("stopped by SIGTERM after ")
    status, out, err = finished([*command, "--resume"])
    assert (status, err) == (0, "")
    assert sum(line.startswith("best checkpoint ") for line in out) == 1
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

        TdrlModule.on_train_batch_start = on_train_batch_start
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

    TdrlModule._classification_loss = loss


def assert_failed_well(run, err):
    lines = sorted(line for line in err.splitlines() if line.startswith("error: "))
    assert lines[-1].startswith("error: the loss is nan at epoch ")
    assert set(lines[:-1]) <= {ANOTHER_ENDED}
    assert "Traceback" not in err
    saved = read_checkpoint(run / "checkpoint" / LAST)
    assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_loss_that_is_no_number_on_one_process_ends_both(data, tmp_path, capfd, failing):
    """Nobody waits for a process that is gone."""

    def body(rank):
        ruin_losses(failing)
        return main(arguments(data, tmp_path))

    assert in_two_processes(body) == [1, 1]
    assert_failed_well(tmp_path, capfd.readouterr().err)


@pytest.mark.slow
def test_processes_of_our_own_end_with_the_one_that_started_them(data, tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(
        "import sys\n"
        "from runtime.command import run_command\n"
        "from tests.train.test_distributed import ruin_losses\n"
        "from train.fit import main\n"
        "if __name__ == '__main__':\n"
        "    ruin_losses(0)\n"
        "    sys.exit(run_command(main))\n"
    )
    run = tmp_path / "run"
    status, _, err = finished([str(script), *arguments(data, run), "--devices", "2"])
    assert status == 1
    assert_failed_well(run, err)
