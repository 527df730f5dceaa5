"""Lightning's trainer as this project uses it: hardware, precision, logs and callbacks."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from runtime.errors import TdrlError
from train.progress import Bar, EpochLines, Pace
from train.recipe import Recipe
from train.run_checkpoints import KeepGoing, WholeCheckpoints, keep_best, keep_last

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
CHILD_GRACE_S = 5.0  # for the message of a process that ends


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where a run computes and what it writes on the way; not a part of the recipe.

    Attributes:
        devices: Processes on this machine, a GPU each; `auto` is what torchrun or SLURM started,
            else one.
        nodes: Machines.
        accelerator: `auto`, `cpu` or `gpu`.
        tensorboard: Write a TensorBoard log beside the CSV file.
        save_every_s: Seconds between two checkpoints within an epoch.
    """

    devices: int | Literal["auto"] = "auto"
    nodes: int = 1
    accelerator: str = "auto"
    tensorboard: bool = False
    save_every_s: float = 600.0

    def __post_init__(self) -> None:
        if self.devices != "auto" and self.devices < 1:
            raise ValueError(f"devices must be auto or >= 1, got {self.devices}")
        if self.nodes < 1:
            raise ValueError(f"nodes must be >= 1, got {self.nodes}")
        if not self.save_every_s >= 0:
            raise ValueError(f"save_every_s must be >= 0, got {self.save_every_s}")

    @property
    def num_devices(self) -> int:
        """Processes on this machine."""
        if self.devices != "auto":
            return self.devices
        started = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
        return int(started) if started and started.isdecimal() else 1


THIS_MACHINE = Hardware()


def trainer_of(
    recipe: Recipe, run: Path, keeper: KeepGoing, hardware: Hardware = THIS_MACHINE
) -> pl.Trainer:
    """A trainer for one run.

    Args:
        recipe: The run's recipe.
        run: Folder of the run: checkpoints and logs go below it.
        keeper: Saves within an epoch and stops on signals.
        hardware: Where it computes.

    Raises:
        ValueError: The hardware cannot do what the recipe asks for.
        ImportError: TensorBoard is asked for and not installed.
    """
    _quiet_lightning()
    if recipe.compile:
        _require_compiler(hardware)
    folder = run / "checkpoint"
    processes = hardware.num_devices * hardware.nodes
    pace = Pace(recipe.batch_size * recipe.num_segments * processes)
    has_terminal = sys.stderr.isatty()
    callbacks: list[pl.Callback] = [
        keep_best(folder),
        keep_last(folder),
        keeper,
        Bar(pace) if has_terminal else EpochLines(pace),
    ]
    if recipe.ema > 0:
        # first: checkpoints and validation shall see the mean
        callbacks.insert(0, EMAWeightAveraging(decay=recipe.ema))
    try:
        return pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=hardware.accelerator,
            devices=hardware.num_devices,
            num_nodes=hardware.nodes,
            strategy="ddp" if processes > 1 else "auto",
            precision=PRECISIONS[precision_of(recipe, hardware)],
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_norm or None,
            check_val_every_n_epoch=recipe.validate_every,
            logger=_loggers(run, hardware),
            callbacks=callbacks,
            plugins=_plugins(),
            enable_progress_bar=has_terminal,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as err:
        raise ValueError(f"this machine cannot run it so: {err}") from err


def precision_of(recipe: Recipe, hardware: Hardware = THIS_MACHINE) -> str:
    """`fp32`, `bf16` or `fp16`: what `auto` means on this machine.

    Raises:
        ValueError: fp16 without a GPU.
    """
    has_gpu = _has_gpu(hardware)
    if recipe.precision == "auto":
        # older GPUs emulate bf16, slower than fp32
        is_fast = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if is_fast else "fp32"
    if recipe.precision == "fp16" and not has_gpu:
        raise ValueError("precision fp16 needs a GPU; set precision: bf16 or fp32")
    return recipe.precision


@contextmanager
def together(trainer: pl.Trainer) -> Iterator[None]:
    """Processes of one run end together, and the one with the reason says it.

    Raises:
        TdrlError: Another process ended first.
    """
    try:
        yield
    except RuntimeError as err:
        _end_children(trainer)
        is_lost = isinstance(err, torch.distributed.DistError) or "gloo" in str(err)
        if trainer.world_size > 1 and is_lost:
            raise TdrlError("another process of this run ended; its message says why") from err
        raise
    except TdrlError:
        _end_children(trainer)
        raise


def _end_children(trainer: pl.Trainer) -> None:
    """End the processes that Lightning started here; they wait for this one for ever."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    for process in launcher.procs:
        try:
            process.wait(CHILD_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _require_compiler(hardware: Hardware) -> None:
    """Refuse before the start what torch.compile would refuse after it, in a traceback.

    Raises:
        ValueError: What it calls is not installed.
    """
    # Triton, on a GPU, builds its launchers in C; the CPU's kernels are C++
    on_gpu = _has_gpu(hardware)
    name, usual = ("CC", ("gcc", "clang")) if on_gpu else ("CXX", ("g++",))
    wanted = (os.environ[name],) if os.environ.get(name) else usual
    if not any(shutil.which(compiler) for compiler in wanted):
        raise ValueError(
            f"compile needs a {'C' if on_gpu else 'C++'} compiler, {' or '.join(wanted)} is not "
            f"here; install it (Debian: apt install g++), set {name}, or set compile: false"
        )


def _has_gpu(hardware: Hardware) -> bool:
    return hardware.accelerator != "cpu" and torch.cuda.is_available()


def _loggers(run: Path, hardware: Hardware) -> list[Logger]:
    found: list[Logger] = [CSVLogger(run, name="logs", flush_logs_every_n_steps=1)]
    if hardware.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("TensorBoard is not installed; run: pip install 'tensorboard<3'")
        found.append(TensorBoardLogger(run, name="tensorboard"))
    return found


def _plugins() -> list[Any]:
    found: list[Any] = [WholeCheckpoints()]
    if SLURMEnvironment.detect():
        # a requeued job goes on by --auto-resume, from `last.ckpt`, and nowhere else
        found.append(SLURMEnvironment(auto_requeue=False))
    return found


def _quiet_lightning() -> None:
    """Leave out Lightning's tips: about its cloud, and about loaders that are as we want them."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
