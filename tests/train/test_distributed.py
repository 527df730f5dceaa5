"""Two processes train as one: started by torchrun, or by ourselves."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.train.test_resume import ALL_ON, REPOSITORY, assert_same_run
from train.checkpoint import read_checkpoint
from train.fit import BEST, LAST
from train.training_data import Rank

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
FIELDS = {
    "height_px": 32,
    "width_px": 32,
    "num_segments": 4,
    "epochs": 3,
    "batch_size": 8,
    **ALL_ON,
    "batch_norm": "partial",
}


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "validation", "labels.txt"):
        (folder / part).symlink_to(tiny_data / part)
    return folder


def command_of(data, run, *more, torchrun):
    launcher, devices = (TORCHRUN, []) if torchrun else ((), ["--devices", "2"])
    fields = [f"--set={name}={value}" for name, value in FIELDS.items()]
    rest = ["--data", str(data), "--out", str(run), "--name", "x", "--accelerator", "cpu"]
    return [sys.executable, *launcher, "-m", "train.fit", *rest, *devices, *fields, *more]


def started(command):
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finished(command):
    with started(command) as process:
        out, err = process.communicate(timeout=180)
    return process.returncode, out.splitlines(), err


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run of two processes by torchrun."""
    run = tmp_path_factory.mktemp("whole")
    status, out, err = finished(command_of(data, run, torchrun=True))
    assert status == 0, err
    assert [line.split(":")[0] for line in out[:-1]] == [f"epoch {n} of 3" for n in (1, 2, 3)]
    assert out[-1].startswith(f"best checkpoint {run / 'checkpoint' / BEST}: clip top-1 ")
    return run


def test_processes_of_our_own_do_what_torchruns_do(whole, data, tmp_path):
    status, out, err = finished(command_of(data, tmp_path, torchrun=False))
    assert (status, err) == (0, "")
    assert sum(line.startswith("best checkpoint ") for line in out) == 1
    assert len(out) == 4
    assert_same_run(tmp_path, whole)
    # 80 clips, 2 processes, batches of 8, two of them an update
    assert read_checkpoint(whole / "checkpoint" / LAST)["global_step"] == 3 * 3


@pytest.mark.parametrize("torchrun", [True, False], ids=["torchrun", "devices"])
def test_a_stop_of_one_process_stops_all_and_the_run_goes_on(whole, data, tmp_path, torchrun):
    command = command_of(data, tmp_path, torchrun=torchrun)
    with started(command) as process:
        assert process.stdout.readline().startswith("epoch 1 of 3: ")
        process.send_signal(signal.SIGTERM)  # to one process: the others hear of it
        _, err = process.communicate(timeout=180)
    assert process.returncode != 0
    stops = [line for line in err.splitlines() if line.startswith("stopped by SIGTERM")]
    assert len(stops) == 1, err
    if not torchrun:
        assert process.returncode == 143
        assert len(err.splitlines()) == 1, err
    status, out, err = finished([*command, "--resume"])
    assert status == 0, err
    assert out[-1].startswith("best checkpoint ")
    assert_same_run(tmp_path, whole)


def test_a_loss_that_is_no_number_on_one_process_ends_all(data, tmp_path):
    """Nobody waits for a process that is gone."""
    script = tmp_path / "fit.py"
    script.write_text(
        "import os, sys\n"
        "from runtime.command import run_command\n"
        "from train.fit import main\n"
        "from train.module import TdrlModule\n"
        "usual = TdrlModule._classification_loss\n"
        "def loss(module, mean_logits, label):\n"
        "    bad = module.global_rank == RANK and module.trainer.global_step == 4\n"
        "    return usual(module, mean_logits, label) * (float('nan') if bad else 1.0)\n"
        "TdrlModule._classification_loss = loss\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_command(main))\n"
    )
    text = script.read_text()
    for rank in (0, 1):
        script.write_text(text.replace("RANK", str(rank)))
        command = command_of(data, tmp_path / str(rank), torchrun=False)
        command[1:3] = [str(script)]
        os.environ["PYTHONPATH"] = str(REPOSITORY)
        status, out, err = finished(command)
        assert status == 1
        lines = sorted(line for line in err.splitlines() if line.startswith("error: "))
        assert lines[-1].startswith("error: the loss is nan at epoch ")
        assert set(lines[:-1]) <= {
            "error: another process of this run ended; its message says why"
        }
        assert "Traceback" not in err
        saved = read_checkpoint(tmp_path / str(rank) / "checkpoint" / LAST)
        assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())


def test_a_rank_is_one_of_several():
    assert Rank() == Rank(0, 1)
