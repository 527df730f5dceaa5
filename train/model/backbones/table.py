"""The backbones by name."""

from __future__ import annotations

from train.model.backbones.base import Backbone, Block
from train.model.backbones.efficientnet_lite import NAME as LITE0
from train.model.backbones.efficientnet_lite import EfficientNetLite0
from train.model.backbones.resnet import SIZES, ResNet
from train.model.unit import UnitConfig

__all__ = ["BACKBONES", "Backbone", "Block", "build_backbone"]

BACKBONES: tuple[str, ...] = (*SIZES, LITE0)


def build_backbone(name: str, unit: UnitConfig) -> Backbone:
    """A backbone with fresh weights.

    Args:
        name: One of `BACKBONES`.
        unit: What stands at the entry of every residual branch.

    Raises:
        ValueError: No backbone of that name.
    """
    if name == LITE0:
        return EfficientNetLite0(unit)
    if name not in SIZES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    return ResNet(SIZES[name], unit)
