"""What a model costs: parameters, multiplications, numbers of state.

Counted on the meta device, where tensors have shapes and no content: a ResNet-101 takes no longer
than its layers are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from train.model.tdrl import ModelConfig, Tdrl


@dataclass(frozen=True)
class Cost:
    """The cost of one model for one stream.

    Attributes:
        parameters: Numbers that training learns, the classifier's included.
        clip_macs: Multiplications with addition of a clip of T frames. Convolutions and matrix
            products alone: what goes element by element is not in (gates, shifts and TIM's taps,
            the last 0.4 % of a ResNet-50).
        step_macs: Those of one frame; None for a model that cannot stream.
        state_size: Numbers that a stream keeps between frames; None likewise.
    """

    parameters: int
    clip_macs: int
    step_macs: int | None
    state_size: int | None


def cost_of(config: ModelConfig, *, num_segments: int, height_px: int, width_px: int) -> Cost:
    """Count a model's cost.

    Args:
        config: The model.
        num_segments: Frames T of a clip.
        height_px: Height of its input.
        width_px: Width of its input.

    Raises:
        ValueError: The model cannot be built, or takes no clips of that many frames.
    """
    with torch.device("meta"), torch.no_grad():
        model = Tdrl(config).eval()
        clip = torch.empty(1, num_segments, 3, height_px, width_px)
        clip_macs = _macs(model, clip)
        step_macs, state_size = None, None
        if config.offline_reason is None:
            state = model.zero_state(1, height_px, width_px)
            step_macs = _macs(model.step, clip[:, 0], state)
            state_size = sum(tensor.numel() for tensor in state)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, clip_macs, step_macs, state_size)


def _macs(run: Callable[..., object], *inputs: Tensor | Sequence[Tensor]) -> int:
    """PyTorch's own count, which calls a multiplication with addition two operations."""
    with FlopCounterMode(display=False) as counter:
        run(*inputs)
    return int(counter.get_total_flops()) // 2
