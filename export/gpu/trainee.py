"""The training step with torch alone: what `train.module` computes, without Lightning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.gpu.effort import Effort
from train.model.td_loss import temporal_diversity_loss
from train.model.tdrl import Tdrl

TD_LOSS = 2e-4  # λ of the published recipes
LEARNING_RATE = 2e-3  # at 1e-2 a fresh ResNet-50 does not learn in so few updates
MOMENTUM = 0.9


class Trainee:
    """A model on the device with its optimiser.

    Args:
        model: The model.
        effort: Says the device and the compiler.
        bfloat16: Compute in bfloat16 where autocast does.
        td_loss: Weight of the temporal diversity loss; 0 for a plain backbone.
        compiled: Compile the forward pass.
    """

    def __init__(
        self,
        model: Tdrl,
        effort: Effort,
        *,
        bfloat16: bool = False,
        td_loss: float = TD_LOSS,
        compiled: bool = False,
    ) -> None:
        self.model = model.to(effort.device).train()
        self.optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)
        self._device = effort.device
        self._bfloat16 = bfloat16
        self._td_loss = td_loss
        self._run = model.run_clip
        if compiled:
            self._run = torch.compile(model.run_clip, backend=effort.compiler)

    def step(self, clip: Tensor, label: Tensor) -> Tensor:
        """One update.

        Args:
            clip: Pictures (N, T, 3, H, W), uint8, on the device.
            label: Classes (N,), int64, on the device.

        Returns:
            The loss before the update, a scalar on the device.
        """
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16):
            logits, run = self._run(clip, None)
            loss = nn.functional.cross_entropy(logits.float().mean(1), label)
            if self._td_loss > 0:
                taps = [tap.unflatten(0, clip.shape[:2]) for tap in run.taps]
                diversity = torch.stack([temporal_diversity_loss(tap) for tap in taps])
                loss = loss + self._td_loss * diversity.sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
