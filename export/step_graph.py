"""The graphs as PyTorch modules with trace-friendly inputs: the training model stays clean.

step    frame (N, H, W, 3) uint8, reset (N, 1), states  →  logits (N, K), next states
clip    clip (N, T, H, W, 3) uint8                      →  logits (N, T, K)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runtime.errors import ExportError
from train.model.tdrl import Tdrl


class StepGraph(nn.Module):
    """One frame and the states in, logits and the next states out.

    Where a row of `reset` is 1 its states count as zero: start, reconnect, gap and Triton's START
    all use it.

    Args:
        model: A causal model in evaluation mode.

    Raises:
        ExportError: The model cannot stream.
    """

    def __init__(self, model: Tdrl) -> None:
        super().__init__()
        reason = model.config.offline_reason
        if reason is not None:
            raise ExportError(reason)
        self.model = model

    def forward(self, frame: Tensor, reset: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        starts = reset > 0.5
        # cast before transposing: NVIDIA's parser refuses Transpose on uint8
        picture = frame.float().permute(0, 3, 1, 2)
        logits, after = self.model.step(picture, [_restart(state, starts) for state in states])
        return (logits, *after)


class ClipGraph(nn.Module):
    """T frames at once from the zero state; the yardstick of what streaming saves.

    Args:
        model: A model in evaluation mode.
    """

    def __init__(self, model: Tdrl) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.model(clip.float().permute(0, 1, 4, 2, 3))
        return logits


def _restart(state: Tensor, starts: Tensor) -> Tensor:
    rows = starts if state.dim() == 2 else starts[:, :, None, None]
    return torch.where(rows, torch.zeros((), dtype=state.dtype), state)
