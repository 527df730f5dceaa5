"""The training step: classification loss plus TD loss, pre-roll, optimiser and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from train.checkpoint import ENTRY, Facts
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import Tdrl
from train.recipe import Recipe

GRADIENT_CLIP_NORM = 20.0  # TSM's value
WARM_UP_SHARE = 0.15


class TdrlModule(pl.LightningModule):
    """TDRL in training.

    Args:
        recipe: The run's recipe.
        facts: What checkpoints shall say about the weights.
    """

    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        super().__init__()
        self.recipe = recipe
        self.facts = facts
        # the layout the CPU's and the GPU's convolutions are fastest in
        self.model = Tdrl(facts.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.train_top1 = MulticlassAccuracy(facts.model.num_classes, average="micro")
        self.val_top1 = MulticlassAccuracy(facts.model.num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch of clips (N, T, 3, H, W) and classes (N,)."""
        clip, label = batch
        logits, run = self.model.run_clip(clip, self._pre_roll_state(clip, batch_idx))
        mean_logits = logits.float().mean(1)
        loss: Tensor = self.loss(mean_logits, label)
        if self.recipe.td_loss > 0:
            taps = [tap.unflatten(0, clip.shape[:2]) for tap in run.taps]
            ratio = self.recipe.td_ratio
            diversity = [temporal_diversity_loss(tap, ratio=ratio) for tap in taps]
            loss = loss + self.recipe.td_loss * torch.stack(diversity).sum()
        self.train_top1(mean_logits, label)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Clip accuracy: zero state, mean over T."""
        clip, label = batch
        mean_logits = self.model(clip).float().mean(1)
        self.val_top1(mean_logits, label)
        self.log("val/loss", self.loss(mean_logits, label))
        self.log("val/top1", self.val_top1, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with one cycle; biases, batch norms and gates' vectors are not decayed."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.recipe.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=WARM_UP_SHARE,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the facts beside the weights."""
        checkpoint[ENTRY] = self.facts.to_json()

    def _pre_roll_state(self, clip: Tensor, batch_idx: int) -> list[Tensor] | None:
        """State that 1..2T frames of other clips leave, for a share of the batches."""
        rng = np.random.default_rng((self.recipe.seed, self.current_epoch, batch_idx))
        if clip.shape[0] < 3 or rng.random() >= self.recipe.pre_roll:
            return None
        earlier = torch.cat((clip.roll(2, 0), clip.roll(1, 0)), dim=1)
        count = int(rng.integers(1, earlier.shape[1] + 1))
        with torch.no_grad(), frozen_statistics(self.model):
            _, run = self.model.run_clip(earlier[:, -count:])
        return self.model.pack_state(run.states_out)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and do not remember them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
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
