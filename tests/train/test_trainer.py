"""Hardware, precision, logs, frozen norms and the weights' mean, in whole runs."""

import csv
import shutil
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import nn

from runtime.command import run_command
from tests.train.test_resume import argv_of
from train.checkpoint import load_checkpoint, read_checkpoint
from train.evaluate import clip_logits, load_clips, top1_of
from train.fit import fit, main
from train.module import TdrlModule
from train.recipe import Recipe
from train.run_checkpoints import BEST, LAST, KeepGoing, WholeCheckpoints
from train.trainer import Hardware, precision_of, trainer_of

CPU = Hardware(accelerator="cpu")


def small(recipe, **changes):
    return replace(recipe, epochs=1, **changes)


def first_losses(recipe, data, run, monkeypatch, count=3):
    """Losses of a run's first steps."""
    found = []
    usual = TdrlModule.training_step

    def training_step(module, batch, batch_idx):
        loss = usual(module, batch, batch_idx)
        found.append(float(loss.detach()))
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(TdrlModule, "training_step", training_step)
        fit(recipe, data, run, name="x", hardware=CPU)
    return found[:count]


# ---- precision


def test_bf16_trains_on_a_cpu(recipe, tiny_data, tmp_path, monkeypatch):
    exact, rounded = (
        first_losses(small(recipe, precision=p), tiny_data, tmp_path / p, monkeypatch)
        for p in ("fp32", "bf16")
    )
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact
    weights = read_checkpoint(tmp_path / "bf16" / "checkpoint" / LAST)["state_dict"]
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}


def test_fp16_without_a_gpu_is_one_line(recipe, tiny_data, tmp_path, capsys):
    argv = [*argv_of(recipe, tiny_data, tmp_path / "run"), "--set=precision=fp16"]
    assert run_command(lambda: main(argv)) == 1
    wanted = "error: precision fp16 needs a GPU; set precision: bf16 or fp32\n"
    assert capsys.readouterr().err == wanted
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("accelerator", "is_fast", "expected"),
    [("auto", True, "bf16"), ("auto", False, "fp32"), ("cpu", True, "fp32")],
)
def test_auto_is_what_is_fast_here(monkeypatch, accelerator, is_fast, expected):
    """A T4 can bf16 by emulation only; --accelerator cpu computes on the CPU, GPU or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or is_fast,
    )
    recipe = Recipe(backbone="tiny")
    assert precision_of(recipe, Hardware(accelerator=accelerator)) == expected


def test_a_gpu_that_is_not_there_is_one_line(recipe, tiny_data, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    argv = [*argv_of(recipe, tiny_data, tmp_path / "run"), "--accelerator=gpu"]
    assert run_command(lambda: main(argv)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this machine cannot run it so: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_model_learns_as_the_eager_one(recipe, tiny_data, tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    plain = small(recipe, dropout=0.0, pre_roll=0.5, batch_norm="partial", ema=0.9)
    eager = first_losses(plain, tiny_data, tmp_path / "eager", monkeypatch, count=10)
    compiled = replace(plain, compile=True)
    torch._dynamo.reset()
    found = first_losses(compiled, tiny_data, tmp_path / "compiled", monkeypatch, count=10)
    assert found[0] == pytest.approx(eager[0], abs=1e-4)
    assert found == pytest.approx(eager, abs=1e-2), "rounding grows with the updates"
    load_checkpoint(tmp_path / "compiled" / "checkpoint" / BEST)


def test_compiling_without_a_compiler_is_one_line(recipe, tiny_data, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    argv = [*argv_of(recipe, tiny_data, tmp_path / "run"), "--set=compile=true"]
    assert run_command(lambda: main(argv)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: compile needs a C++ compiler")
    assert not (tmp_path / "run").exists()


# ---- logs


def test_tensorboard_writes_beside_the_csv_file(recipe, tiny_data, tmp_path):
    both = replace(CPU, tensorboard=True)
    fit(recipe, tiny_data, tmp_path, name="x", hardware=both)
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    (log,) = (tmp_path / "logs").rglob("metrics.csv")
    rows = list(csv.DictReader(log.read_text().splitlines()))
    for name in ("train/top1", "val/top1", "val/loss"):
        assert {row["epoch"] for row in rows if row[name]} == {"0", "1"}, name


def test_a_missing_tensorboard_is_one_line(recipe, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.trainer.importlib.util.find_spec", lambda name: None)
    argv = [*argv_of(recipe, tiny_data, tmp_path / "run"), "--tensorboard"]
    assert run_command(lambda: main(argv)) == 1
    assert "TensorBoard is not installed; run: pip install 'tensorboard" in capsys.readouterr().err


def test_the_log_is_on_the_disk_while_the_run_goes_on(recipe, tiny_data, tmp_path, monkeypatch):
    """A killed run keeps the metrics of its epochs."""
    seen: list[str] = []

    def on_train_epoch_start(module):
        seen.extend(path.read_text() for path in (tmp_path / "logs").rglob("metrics.csv"))

    monkeypatch.setattr(TdrlModule, "on_train_epoch_start", on_train_epoch_start)
    fit(recipe, tiny_data, tmp_path, name="x", hardware=CPU)
    header, *rows = csv.reader(seen[-1].splitlines())
    assert any(row[header.index("val/top1")] for row in rows)


# ---- clusters


def test_slurm_does_not_requeue_by_itself(recipe, tmp_path, monkeypatch):
    given = {
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "fit",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "node1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    trainer = trainer_of(recipe, tmp_path, KeepGoing(tmp_path, every_s=600), CPU)
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert environment.auto_requeue is False
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)


@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ({}, "auto", 1),
        ({"LOCAL_WORLD_SIZE": "4"}, "auto", 4),
        ({"LOCAL_WORLD_SIZE": "4"}, 2, 2),
        ({"SLURM_NTASKS_PER_NODE": "3"}, "auto", 3),
        ({"SLURM_NTASKS_PER_NODE": "4(x2)"}, "auto", 1),
    ],
)
def test_processes_are_as_they_were_started(monkeypatch, given, devices, expected):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Hardware(devices=devices).num_devices == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices=0"], "devices must be auto or >= 1, got 0"),
        (["--devices=two"], "--devices must be auto or a number, got 'two'"),
        (["--devices=-1"], "--devices must be auto or a number, got '-1'"),
        (["--nodes=0"], "nodes must be >= 1, got 0"),
        (["--save-every-s=-1"], "save_every_s must be >= 0, got -1.0"),
        (["--save-every-s=nan"], "save_every_s must be >= 0, got nan"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_hardware_is_one_line(recipe, tiny_data, tmp_path, capsys, options, message):
    argv = [*argv_of(recipe, tiny_data, tmp_path / "run"), *options]
    assert run_command(lambda: main(argv)) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "run").exists()


# ---- frozen norms


def norms_of(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(("mode", "learning"), [("train", None), ("partial", 1), ("frozen", 0)])
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_frozen_norms_stay_as_they_were(
    recipe, tiny_data, tmp_path, monkeypatch, mode, learning, ema
):
    before = {}
    modes = []

    def on_fit_start(module):
        for name, norm in norms_of(module.model):
            before[name] = {key: value.clone() for key, value in norm.state_dict().items()}

    def on_train_batch_start(module, batch, batch_idx):
        modes.append([norm.training for _, norm in norms_of(module.model)])

    monkeypatch.setattr(TdrlModule, "on_fit_start", on_fit_start)
    monkeypatch.setattr(TdrlModule, "on_train_batch_start", on_train_batch_start)
    fit(replace(recipe, batch_norm=mode, ema=ema), tiny_data, tmp_path, name="x", hardware=CPU)
    learning = len(before) if learning is None else learning
    expected = [True] * learning + [False] * (len(before) - learning)
    assert modes == [expected] * 20, "after the validation between the epochs too"
    data = read_checkpoint(tmp_path / "checkpoint" / LAST)
    for key in ("state_dict", *(["current_model_state"] if ema else [])):
        same = [
            all(torch.equal(data[key][f"model.{name}.{k}"], v) for k, v in values.items())
            for name, values in before.items()
        ]
        assert same == [not trains for trains in expected], key


# ---- the weights' mean


def test_the_best_checkpoint_is_the_mean_that_was_validated(recipe, tiny_data, tmp_path):
    best = fit(replace(recipe, ema=0.8), tiny_data, tmp_path, name="x", hardware=CPU)
    model, facts = load_checkpoint(best)
    clips = load_clips(tiny_data, "validation", facts)
    measured = top1_of(clip_logits(model, clips.pictures), clips.label)
    assert facts.metrics == {"val_top1": pytest.approx(measured)}
    data = read_checkpoint(tmp_path / "checkpoint" / LAST)
    mean, current = data["state_dict"], data["current_model_state"]
    assert not torch.equal(mean["model.fc.weight"], current["model.fc.weight"])


def test_the_validation_sees_the_mean(recipe, tiny_data, tmp_path, monkeypatch):
    seen = []
    usual = TdrlModule.validation_step

    def validation_step(module, batch, batch_idx):
        seen.append(module.model.fc.weight.detach().clone())
        usual(module, batch, batch_idx)

    monkeypatch.setattr(TdrlModule, "validation_step", validation_step)
    fit(small(recipe, ema=0.8), tiny_data, tmp_path, name="x", hardware=CPU)
    best = read_checkpoint(tmp_path / "checkpoint" / BEST)
    assert torch.equal(seen[0], best["state_dict"]["model.fc.weight"])


def test_every_weight_gets_a_gradient(recipe):
    """Processes that average gradients wait for all of them."""
    for temporal in ("none", "tsm", "tim", "mem", "tei"):
        for pem in (False, True):
            for first in (False, True):
                chosen = replace(recipe, temporal=temporal, pem=pem, pem_first=first)
                module = module_of(chosen)
                clip = torch.randint(0, 255, (2, 4, 3, 32, 32), dtype=torch.uint8)
                logits, run = module.model.run_clip(clip)
                (logits.sum() + sum(tap.sum() for tap in run.taps)).backward()
                without = [n for n, p in module.named_parameters() if p.grad is None]
                assert without == [], chosen


def module_of(recipe):
    from tests.train.models import facts_of_model
    from train.model.tdrl import ModelConfig

    config = ModelConfig(backbone="tiny", num_classes=3, unit=recipe.unit())
    module = TdrlModule(recipe, facts_of_model(config))
    assert isinstance(module, pl.LightningModule)
    return module
