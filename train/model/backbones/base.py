"""What every backbone and every block with a temporal unit offers to the rest."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from train.model.unit import Pass, TemporalUnit

RGB = tuple[float, float, float]


class Block(nn.Module):
    """A residual block with a temporal unit at the entry of its branch.

    Attributes:
        unit: PEM and the temporal module.
    """

    unit: TemporalUnit

    @property
    def gated_convolution(self) -> nn.Conv2d:
        """The convolution that reads the unit's output; PEM's gate of 0.5 doubles its weight."""
        raise NotImplementedError


class Backbone(nn.Module):
    """A network from normalised pictures to pooled features.

    Attributes:
        num_features: Channels F of the features.
        mean_rgb: Mean of the pictures its weights were trained on, 0..255.
        std_rgb: Their standard deviation, 0..255.
    """

    num_features: int
    mean_rgb: RGB
    std_rgb: RGB

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """Normalised pictures (N·T, 3, H, W) to features (N·T, F)."""
        raise NotImplementedError

    def blocks(self) -> Sequence[Block]:
        """All blocks with a temporal unit, in the order of the data."""
        raise NotImplementedError

    def stem(self) -> Sequence[nn.Module]:
        """What comes before the first temporal unit, batch norms included."""
        raise NotImplementedError

    @staticmethod
    def own_name(published: str) -> str:
        """The name here of a tensor in the published ImageNet weights."""
        return published
