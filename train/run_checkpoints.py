"""A run's checkpoints: the best, the last, and the way back from any interruption.

`best.ckpt` is the epoch with the highest validation accuracy. `last.ckpt` is written after every
epoch, every ten minutes within one, and when somebody asks the run to stop; a resumed run goes on
from there and ends where the uninterrupted one ends, bit for bit on a CPU.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from runtime.errors import CheckpointError
from train.checkpoint import write_checkpoint
from train.data.loader import ClipLoader

BEST = "best.ckpt"
LAST = "last.ckpt"
ORDER = "tdrl_order"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequestedError(Exception):
    """Somebody asked the run to stop (Ctrl-C, SIGTERM).

    Args:
        signum: The signal.
        where: How far the run has come, for people.
        has_last: Whether there is a `last.ckpt` to go on from.
    """

    def __init__(self, signum: int, where: str, *, has_last: bool) -> None:
        go_on = "go on with --resume" if has_last else "nothing is saved yet, start it again"
        super().__init__(f"stopped by {signal.Signals(signum).name} {where}; {go_on}")
        self.signum = signum


class WholeCheckpoints(TorchCheckpointIO):
    """Whole checkpoints or none: the older one survives a full disk and a power cut."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, then rename it into place.

        Raises:
            CheckpointError: The disk is full, or the folder cannot be written.
        """
        write_checkpoint(checkpoint, Path(path))


class RunCheckpoint(ModelCheckpoint):
    """Knows its checkpoints again where the run's folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state that a resumed run left, with its paths as they are now."""
        then, now = state_dict["dirpath"], str(self.dirpath)
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: state_dict[name].replace(then, now) for name in paths}
        best = {path.replace(then, now): s for path, s in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": now})


def keep_best(folder: Path) -> ModelCheckpoint:
    """Keeps the epoch with the highest validation accuracy."""
    return RunCheckpoint(
        folder,
        filename=Path(BEST).stem,
        monitor="val/top1",
        mode="max",
        save_top_k=1,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def keep_last(folder: Path) -> ModelCheckpoint:
    """Keeps every epoch's end; Lightning's `save_last` does so only where it is the best."""
    return RunCheckpoint(
        folder,
        filename=Path(LAST).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def remove_parts(folder: Path) -> None:
    """Remove what a run left that was killed while it wrote a checkpoint."""
    for part in folder.glob(".*.part.ckpt"):
        part.unlink(missing_ok=True)


class KeepGoing(pl.Callback):
    """Saves within an epoch, and stops between two updates when a signal asks for it.

    Args:
        folder: Where `last.ckpt` is.
        every_s: Seconds between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, *, every_s: float) -> None:
        self._path = folder / LAST
        self._every_s = every_s
        self._saved_at = time.monotonic()
        self._signum: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals ask for a stop; afterwards they mean again what they meant before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        usual = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self._listen()
        try:
            yield
        finally:
            for signum, handler in usual.items():
                signal.signal(signum, handler)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._note)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put a handler of its own before ours; take it out again."""
        self._saved_at = time.monotonic()
        self._listen()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is time, between two updates and before the epoch's end.

        Raises:
            StopRequestedError: A signal came.
        """
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        wants_stop = self._agreed(trainer, self._signum is not None)
        is_due = time.monotonic() - self._saved_at >= self._every_s
        if not wants_stop and not self._agreed(trainer, is_due):
            return
        trainer.save_checkpoint(self._path)
        self._saved_at = time.monotonic()
        if wants_stop:
            self._stop(f"after batch {done} of epoch {trainer.current_epoch + 1}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what the order of the clips depends on beside the recipe."""
        if isinstance(trainer.train_dataloader, ClipLoader):
            checkpoint[ORDER] = order_of(trainer.train_dataloader)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch's end is a checkpoint: a signal that came since stops here.

        Raises:
            StopRequestedError: A signal came.
        """
        if self._agreed(trainer, self._signum is not None):
            self._stop(f"after epoch {trainer.current_epoch}")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation is not waited for: a resumed run repeats it, from the last checkpoint on.

        Raises:
            StopRequestedError: A signal came.
        """
        if self._agreed(trainer, self._signum is not None):
            self._stop(f"in the validation after epoch {trainer.current_epoch + 1}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What comes after training is not waited for either.

        Raises:
            StopRequestedError: A signal came.
        """
        if self._agreed(trainer, self._signum is not None):
            self._stop("after the last epoch")

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            # asked twice: at once, wherever the run is
            self._stop("at once")
        self._signum = signum

    def _stop(self, where: str) -> None:
        has_last = self._path.is_file()
        raise StopRequestedError(self._signum or signal.SIGTERM, where, has_last=has_last)

    @staticmethod
    def _agreed(trainer: pl.Trainer, wish: bool) -> bool:
        """All processes do the same thing at the same batch."""
        if trainer.world_size == 1:
            return wish
        return bool(trainer.strategy.reduce_boolean_decision(wish, all=False))


def order_of(loader: ClipLoader) -> dict[str, int]:
    """What the order of the training clips depends on beside the recipe."""
    sampler = loader.clip_sampler
    return {"processes": sampler.num_ranks, "training clips": sampler.size}


def require_same_order(loader: ClipLoader, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse to go on where the clips would come in another order.

    Raises:
        CheckpointError: The run had other data, or another number of processes.
    """
    now = order_of(loader)
    for name, was in checkpoint.get(ORDER, {}).items():
        if now[name] != was:
            raise CheckpointError(
                f"{path} was trained with {was} {name}, now there are {now[name]}; resume as it "
                "began, or start anew under another --name"
            )


def batches_done(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """Epoch and finished batches of it, of a checkpoint that a run left."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return int(checkpoint["epoch"]), int(progress["current"]["processed"])
