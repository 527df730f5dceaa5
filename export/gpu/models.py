"""Models with random weights, and pictures of noise; torch is all that is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.gpu.effort import Effort
from train.model.pem import Pem
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

NUM_CLASSES = 13
PLAIN = UnitConfig(temporal="none", pem=False)
TDRL = UnitConfig()
LIVELINESS = 2.0  # wilder gates in a row make a chaotic net, in which rounding grows


def fresh_model(backbone: str, unit: UnitConfig = TDRL, *, dropout: float = 0.0) -> Tdrl:
    """A model as training starts it, the same every time, on the CPU."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, num_classes=NUM_CLASSES, unit=unit, dropout=dropout)
    return Tdrl(config)


def channels_last(model: Tdrl) -> Tdrl:
    """The same model with its weights in that memory format."""
    changed: Tdrl = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return changed


def live_model(backbone: str, effort: Effort) -> Tdrl:
    """What live steps are measured with: as trained, on the device, channels last."""
    return channels_last(trained_like(fresh_model(backbone).to(effort.device), effort))


def trained_like(model: Tdrl, effort: Effort) -> Tdrl:
    """Gates that move and batch norms that know their inputs, in evaluation mode, where it is.

    Fresh gates are constant, and would hide a state that is wrong.
    """
    gates = [module for module in model.modules() if isinstance(module, Pem)]
    for gate in gates:
        nn.init.normal_(gate.attend.weight, std=min(1.0, LIVELINESS / len(gates)))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.3, 0.7)  # deep nets stay well-conditioned
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None  # the mean of what was seen
    with torch.no_grad():
        model.train()(noise_clips(2, effort).to(model.mean.device))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def noise_clips(rows: int, effort: Effort, *, seed: int = 0) -> Tensor:
    """Clips (N, T, 3, H, W) of noise over slowly changing colours, uint8, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, effort.num_segments, 3)
    colours = torch.randint(0, 200, (*shape, 1, 1), generator=generator)
    size = (*shape, effort.size_px, effort.size_px)
    return (colours + torch.randint(0, 56, size, generator=generator)).to(torch.uint8)


def classes(rows: int, *, seed: int = 0) -> Tensor:
    """Classes (N,), int64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, NUM_CLASSES, (rows,), generator=generator)
