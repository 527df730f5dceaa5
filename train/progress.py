"""What a run shows while it runs: a bar on a terminal, a line an epoch elsewhere.

Both say how many images a second are trained on and when the run will be through.
"""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from tqdm import tqdm

from runtime.command import say

BAR_BATCHES = 5  # a bar is drawn anew after so many batches


class Pace:
    """Images a second and the time that is left, over the time that a run has trained.

    Args:
        num_images: Images of a batch, all processes together.
    """

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._started = time.monotonic()
        self._batches = 0

    def start(self) -> None:
        """The run begins, or goes on."""
        self._started, self._batches = time.monotonic(), 0

    def count(self) -> None:
        """One more batch is done."""
        self._batches += 1

    def text(self, batches_left: float) -> dict[str, str]:
        """Images a second, and the time that so many batches will take, validation included."""
        if not self._batches:
            return {}
        passed_s = time.monotonic() - self._started
        rate = self._batches / passed_s
        left = tqdm.format_interval(int(batches_left / rate))
        return {"img/s": f"{rate * self._num_images:.0f}", "left": left}


class Bar(TQDMProgressBar):
    """Lightning's bar with images a second and the time left of the whole run.

    Args:
        pace: Counts what `EpochLines` would count.
    """

    def __init__(self, pace: Pace) -> None:
        super().__init__(refresh_rate=BAR_BATCHES)
        self._pace = pace

    def on_train_start(self, *args: Any) -> None:
        """The clock starts."""
        super().on_train_start(*args)
        self._pace.start()

    def on_train_batch_end(self, *args: Any) -> None:
        """One more batch."""
        self._pace.count()
        super().on_train_batch_end(*args)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The bar's numbers."""
        found = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return {**found, **self._pace.text(batches_left(trainer))}


class EpochLines(pl.Callback):
    """One line an epoch, where no terminal shows a bar.

    Args:
        pace: Counts the batches.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts."""
        self._pace.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """One more batch."""
        self._pace.count()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's metrics."""
        if not trainer.is_global_zero:
            return
        done = trainer.current_epoch + 1
        is_validated = done % (trainer.check_val_every_n_epoch or 1) == 0
        found = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            # Lightning keeps those of an earlier epoch
            if is_validated or not name.startswith("val/")
        }
        numbers = [f"{name} {value:.3f}" for name, value in sorted(found.items())]
        pace = self._pace.text(batches_left(trainer))
        numbers += [f"{name} {text}" for name, text in pace.items()]
        say(f"epoch {done} of {trainer.max_epochs}: {', '.join(numbers)}")


def batches_left(trainer: pl.Trainer) -> float:
    """Training batches of a process until the run is through."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    epochs = (trainer.max_epochs or 0) - trainer.current_epoch
    return max(0.0, epochs * float(trainer.num_training_batches) - done)
