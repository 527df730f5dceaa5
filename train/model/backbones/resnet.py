"""ResNets (arXiv:1512.03385) with a temporal unit at the entry of every residual branch.

Parameter names are torchvision's, so its ImageNet state dicts load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from train.model.backbones.base import Backbone, Block
from train.model.precision import pooled
from train.model.unit import Pass, TemporalUnit, UnitConfig

BlockKind: TypeAlias = Literal["basic", "bottleneck"]


@dataclass(frozen=True)
class ResNetSize:
    """Sizes of one ResNet: blocks a stage, the first stage's width, the kind of block and stem."""

    layers: tuple[int, int, int, int]
    block: BlockKind
    width: int = 64
    small_stem: bool = False


SIZES: dict[str, ResNetSize] = {
    "tiny": ResNetSize((1, 1, 1, 1), "basic", width=16, small_stem=True),
    "resnet18": ResNetSize((2, 2, 2, 2), "basic"),
    "resnet34": ResNetSize((3, 4, 6, 3), "basic"),
    "resnet50": ResNetSize((3, 4, 6, 3), "bottleneck"),
    "resnet101": ResNetSize((3, 4, 23, 3), "bottleneck"),
}


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False
    )


class BasicBlock(Block):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, unit: TemporalUnit) -> None:
        super().__init__()
        self.unit = unit
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, width, stride)

    @property
    def gated_convolution(self) -> nn.Conv2d:
        """The first convolution."""
        return self.conv1

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """(N·T, C, H, W) to (N·T, width, H/stride, W/stride)."""
        y = self.unit.restore(self.conv1(self.unit(x, run)), run)
        y = self.relu(self.bn1(y))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


class Bottleneck(Block):
    """1×1, 3×3 (with the stride, as torchvision has it), 1×1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, unit: TemporalUnit) -> None:
        super().__init__()
        self.unit = unit
        self.conv1 = _conv(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, width * self.expansion, stride)

    @property
    def gated_convolution(self) -> nn.Conv2d:
        """The first convolution."""
        return self.conv1

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """(N·T, C, H, W) to (N·T, 4·width, H/stride, W/stride)."""
        y = self.unit.restore(self.conv1(self.unit(x, run)), run)
        y = self.relu(self.bn1(y))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


def _projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(_conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


class ResNet(Backbone):
    """A ResNet from pictures to pooled features.

    Args:
        size: Its sizes.
        unit: What stands at the entry of every residual branch.
    """

    # ImageNet's statistics, as torchvision's weights want them
    mean_rgb = (123.675, 116.28, 103.53)
    std_rgb = (58.395, 57.12, 57.375)

    def __init__(self, size: ResNetSize, unit: UnitConfig) -> None:
        super().__init__()
        stem_kernel = 3 if size.small_stem else 7
        self.conv1 = nn.Conv2d(
            3, size.width, stem_kernel, stride=2, padding=stem_kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(size.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if size.small_stem else nn.MaxPool2d(3, 2, padding=1)
        channels = size.width
        for stage, blocks in enumerate(size.layers, start=1):
            layer, channels = _stage(channels, stage, blocks, size, unit)
            setattr(self, f"layer{stage}", layer)
        self.num_features = channels
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and ".unit." not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """Normalised pictures (N·T, 3, H, W) to features (N·T, F), float32 at least."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in self.blocks():
            x = block(x, run)
        return pooled(x)

    def stem(self) -> list[nn.Module]:
        """The first convolution."""
        return [self.conv1, self.bn1]

    def blocks(self) -> list[BasicBlock | Bottleneck]:
        """All residual blocks in the order of the data."""
        return [block for stage in (1, 2, 3, 4) for block in getattr(self, f"layer{stage}")]


def _stage(
    channels: int, stage: int, blocks: int, size: ResNetSize, unit: UnitConfig
) -> tuple[nn.ModuleList, int]:
    kind = BasicBlock if size.block == "basic" else Bottleneck
    width = size.width * 2 ** (stage - 1)
    layer = nn.ModuleList()
    for index in range(blocks):
        stride = 2 if index == 0 and stage > 1 else 1
        tap = stage in unit.tap_stages and index == blocks - 1
        layer.append(kind(channels, width, stride, TemporalUnit(channels, unit, tap=tap)))
        channels = width * kind.expansion
    return layer, channels
