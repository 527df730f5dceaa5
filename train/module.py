"""The training step: classification loss plus TD loss, pre-roll, optimiser and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from runtime.errors import DataError
from train.checkpoint import ENTRY, Facts
from train.data.loader import ClipLoader
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import Tdrl
from train.model.unit import Pass
from train.optimizer import optimizer_of, schedule_of
from train.recipe import NormMode, Recipe

# keep the draws of a step apart from those of pre-roll, which has the same seed, epoch and batch
NOISE_STREAM = 1
WHAT_TO_DO = (
    "the last good checkpoint is kept; set a lower learning_rate or precision: fp32 and start anew"
)


class TdrlModule(pl.LightningModule):
    """TDRL in training.

    Args:
        recipe: The run's recipe.
        facts: What checkpoints shall say about the weights.
        class_weights: Weights of the classes in the loss, shape (K,); None weighs all clips alike.
        name_batch: Says what a batch holds, by epoch and number, should its loss be no number.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        *,
        class_weights: Tensor | None = None,
        name_batch: Callable[[int, int], str] | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.facts = facts
        # the layout the CPU's and the GPU's convolutions are fastest in
        self.model = Tdrl(facts.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.train_top1 = MulticlassAccuracy(facts.model.num_classes, average="micro")
        self.val_top1 = MulticlassAccuracy(facts.model.num_classes, average="micro")
        self._name_batch = name_batch
        self._unchecked: tuple[Tensor, int, int] | None = None
        self._validation_loss: Tensor | None = None
        self._compiled = torch.compile(self.model.run_clip) if recipe.compile else None
        self._freeze()

    def train(self, mode: bool = True) -> TdrlModule:
        """Training or evaluation mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
        return self

    def _freeze(self) -> None:
        freeze_norms(self.model, self.recipe.batch_norm)
        if self.recipe.freeze_stem:
            for part in self.model.backbone.stem():
                part.eval().requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch of clips (N, T, 3, H, W) and classes (N,).

        Raises:
            DataError: The loss is not a number.
        """
        clip, label = batch
        self._seed_step(batch_idx)
        logits, run = self._run_clip(clip, self._pre_roll_state(clip, batch_idx))
        mean_logits = logits.float().mean(1)
        loss = self._classification_loss(mean_logits, label)
        if self.recipe.td_loss > 0:
            taps = [tap.unflatten(0, clip.shape[:2]) for tap in run.taps]
            ratio = self.recipe.td_ratio
            diversity = [temporal_diversity_loss(tap, ratio=ratio) for tap in taps]
            loss = loss + self.recipe.td_loss * torch.stack(diversity).sum()
        self._check_later(loss, batch_idx)
        self.train_top1(mean_logits, label)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Clip accuracy: zero state, mean over T."""
        clip, label = batch
        mean_logits = self.model(clip).float().mean(1)
        own = self._num_own(batch_idx, len(label))
        if own > 0:
            self.val_top1.update(mean_logits[:own], label[:own])
        loss = self.loss(mean_logits, label)
        before = self._validation_loss
        self._validation_loss = loss if before is None else before + loss
        self.log("val/loss", loss, sync_dist=True)
        self.log("val/top1", self.val_top1, prog_bar=True)

    def _num_own(self, batch_idx: int, size: int) -> int:
        """Clips of a batch that no other process validates too; the last of them come twice."""
        loader = self.trainer.val_dataloaders
        if not isinstance(loader, ClipLoader):
            return size
        return min(size, loader.clip_sampler.num_own - batch_idx * (loader.batch_size or 1))

    def on_validation_epoch_start(self) -> None:
        """A new sum, whatever broke the last validation off."""
        self._validation_loss = None

    def on_validation_epoch_end(self) -> None:
        """Weights whose validation loss is not a number are no checkpoint.

        Raises:
            DataError: It is not a number.
        """
        loss = self._validation_loss
        if loss is not None and not torch.isfinite(loss):
            raise DataError(
                f"the validation loss is {float(loss)} after epoch {self.current_epoch + 1}; "
                f"{WHAT_TO_DO}"
            )

    def on_train_epoch_end(self) -> None:
        """The epoch's last loss is checked before the epoch counts.

        Raises:
            DataError: It is not a number.
        """
        self.check_loss()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimiser and schedule, one step an update."""
        clips = self.recipe.batch_size * self.recipe.accumulate * self.trainer.world_size
        optimizer = optimizer_of(self.model, self.recipe, clips)
        num_updates = int(self.trainer.estimated_stepping_batches)
        schedule = schedule_of(optimizer, self.recipe, num_updates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def check_loss(self) -> None:
        """Look at the last step's loss, if nobody has.

        Raises:
            DataError: It is not a number; names the batch.
        """
        if self._unchecked is None:
            return
        loss, epoch, batch_idx = self._unchecked
        self._unchecked = None
        if not torch.isfinite(loss):
            held = "" if self._name_batch is None else f" ({self._name_batch(epoch, batch_idx)})"
            raise DataError(
                f"the loss is {float(loss)} at epoch {epoch + 1}, batch {batch_idx + 1}{held}; "
                f"look at these clips; {WHAT_TO_DO}"
            )

    def _run_clip(self, clip: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, Pass]:
        run = self.model.run_clip if self._compiled is None else self._compiled
        return run(clip, state)

    def _check_later(self, loss: Tensor, batch_idx: int) -> None:
        """On a GPU the step before is looked at, so that nothing waits for the device."""
        self.check_loss()
        self._unchecked = (loss.detach(), self.current_epoch, batch_idx)
        if loss.device.type == "cpu":
            self.check_loss()

    def _classification_loss(self, mean_logits: Tensor, label: Tensor) -> Tensor:
        if self.class_weights is None:
            loss: Tensor = self.loss(mean_logits, label)
            return loss
        each = nn.functional.cross_entropy(
            mean_logits, label, label_smoothing=self.recipe.label_smoothing, reduction="none"
        )
        # a plain mean: a batch of rare classes counts more than one of frequent ones
        return (each * self.class_weights[label]).mean()

    def _seed_step(self, batch_idx: int) -> None:
        """Dropout comes from (seed, epoch, batch, process): it is the same after a restart."""
        key = (self.recipe.seed, self.current_epoch, batch_idx, self.global_rank, NOISE_STREAM)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the facts beside the weights.

        Raises:
            DataError: The last loss or a weight is no number: such weights are not worth keeping.
        """
        self.check_loss()
        for name, tensor in self.model.state_dict().items():
            if not torch.isfinite(tensor).all():
                step = self.trainer.global_step
                raise DataError(f"{name} is not a number after update {step}; {WHAT_TO_DO}")
        checkpoint[ENTRY] = self.facts.to_json()

    def _pre_roll_state(self, clip: Tensor, batch_idx: int) -> list[Tensor] | None:
        """State that 1..2T frames of other clips leave, for a share of the batches."""
        rng = np.random.default_rng((self.recipe.seed, self.current_epoch, batch_idx))
        if clip.shape[0] < 3 or rng.random() >= self.recipe.pre_roll:
            return None
        earlier = torch.cat((clip.roll(2, 0), clip.roll(1, 0)), dim=1)
        count = int(rng.integers(1, earlier.shape[1] + 1))
        with torch.no_grad(), frozen_statistics(self.model):
            # never compiled: it is another program for every length
            _, run = self.model.run_clip(earlier[:, -count:])
        return self.model.pack_state(run.states_out)


def freeze_norms(model: Tdrl, mode: NormMode) -> None:
    """Put batch norms out of training: all but the first (TSN's partial BN), all, or none.

    A frozen one normalises by its running statistics and learns nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    frozen = {"train": [], "partial": norms[1:], "frozen": norms}[mode]
    for norm in frozen:
        norm.eval().requires_grad_(False)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and do not remember them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
