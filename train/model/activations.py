"""What happens inside a temporal unit, read by forward hooks: the model's code stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.model.tdrl import Tdrl
from train.model.unit import TemporalUnit


@dataclass(frozen=True, eq=False)
class UnitActivations:
    """One clip in one temporal unit; T frames, all float32 on the CPU.

    Attributes:
        block: Name of the block in the backbone.
        entry: The block's input X_t, shape (T, C, H, W).
        attention: PEM's a_t, shape (T, C), 0..1; None without PEM.
        before: What enters the temporal module, shape (T, C, H, W).
        after: What leaves it, same shape.
        logits: The clip's consensus logits, shape (K,).
    """

    block: str
    entry: Tensor
    attention: Tensor | None
    before: Tensor
    after: Tensor
    logits: Tensor


def unit_names(model: Tdrl) -> dict[str, TemporalUnit]:
    """The temporal units by the name of their block, in the order of the data."""
    names = {id(module): name for name, module in model.backbone.named_modules()}
    return {names[id(block)]: block.unit for block in model.backbone.blocks()}


def first_tapped(model: Tdrl) -> str:
    """The first block the TD loss reads (the last of res3), or the first block without taps."""
    names = unit_names(model)
    return next((name for name, unit in names.items() if unit.tap), next(iter(names)))


@torch.no_grad()
def unit_activations(model: Tdrl, clip: Tensor, block: str) -> UnitActivations:
    """Run a clip and keep what one block's temporal unit saw and did.

    Args:
        model: In evaluation mode.
        clip: Pictures (T, 3, h, w), 0..255 RGB.
        block: A name of `unit_names`.

    Raises:
        ValueError: No such block.
    """
    names = unit_names(model)
    if block not in names:
        raise ValueError(f"block must be one of {', '.join(names)}, got {block!r}")
    unit = names[block]
    seen: dict[str, Any] = {}
    hooks = [unit.register_forward_hook(_keep(seen, "unit"))]
    if unit.pem is not None:
        hooks.append(unit.pem.register_forward_hook(_keep(seen, "pem")))
        hooks.append(unit.pem.attend.register_forward_hook(_keep(seen, "attend")))
    try:
        logits = model(clip[None].to(model.fc.weight.device))[0].mean(0)
    finally:
        for hook in hooks:
            hook.remove()
    entry, after = seen["unit"]
    before, attention = entry, None
    if unit.pem is not None:
        pem_in, (pem_out, _) = seen["pem"]
        if unit.pem_first:
            before = pem_out
        else:
            after = pem_in
        attention = seen["attend"][1].sigmoid().flatten(0, -2).float().cpu()
    maps = [tensor.float().cpu() for tensor in (entry, before, after)]
    return UnitActivations(block, maps[0], attention, maps[1], maps[2], logits.float().cpu())


def _keep(seen: dict[str, Any], name: str) -> Any:
    """A hook that keeps a module's first input and its output."""

    def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
        seen[name] = (inputs[0], output)

    return hook


def enhanced_channels(attention: Tensor, count: int = 10) -> tuple[list[int], list[int]]:
    """The channels PEM enhances most and least, by the mean of a_t over the frames.

    Args:
        attention: a_t, shape (T, C).
        count: How many of each; half of the channels at most.

    Returns:
        Channels with the largest mean, largest first; and with the smallest, smallest first.
    """
    mean = attention.mean(0)
    count = min(count, mean.shape[0] // 2)
    order = mean.argsort(descending=True, stable=True).tolist()
    return order[:count], order[::-1][:count]


def frame_similarity(maps: Tensor) -> float:
    """Mean cosine between all pairs of different frames of one channel: what the TD loss lowers.

    Args:
        maps: Shape (T, H, W), T >= 2; a frame of zeros has cosine 0 with every other.
    """
    flat = maps.flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)
    cosines = unit @ unit.T
    T = len(maps)
    return float((cosines.sum() - cosines.diagonal().sum()) / (T * (T - 1)))


def most_changed_channel(activations: UnitActivations) -> int:
    """The channel the temporal module changes most, by its mean absolute difference."""
    change = (activations.after - activations.before).abs().mean((0, 2, 3))
    return int(change.argmax())
