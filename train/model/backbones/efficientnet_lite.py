"""EfficientNet-Lite0 with a temporal unit at the entry of every residual branch.

EfficientNet-B0 (arXiv:1905.11946, table 1) as its Lite edition has it: ReLU6 for swish, no
squeeze-and-excitation, TensorFlow's padding and batch-norm epsilon. 9 of its 16 inverted
bottlenecks have a shortcut; PEM and the temporal module stand there, before the expansion.

Parameter names are the published PyTorch weights' without their leading underscores
(`own_name`). Not kept: drop-connect, and TensorFlow's momentum of 0.01 for the running
statistics, which a short fine-tuning would not move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from train.model.backbones.base import Backbone, Block
from train.model.precision import pooled
from train.model.unit import Pass, TemporalUnit, UnitConfig

NAME = "efficientnet_lite0"
STEM_CHANNELS, NUM_FEATURES = 32, 1280
EPSILON = 1e-3


class Row(NamedTuple):
    """One row of the paper's table 1: equal layers, the first one with the stride."""

    layers: int
    kernel: int
    stride: int
    expansion: int
    channels: int


ROWS = (
    Row(1, 3, 1, 1, 16),
    Row(2, 3, 2, 6, 24),
    Row(2, 5, 2, 6, 40),
    Row(3, 3, 2, 6, 80),
    Row(3, 5, 1, 6, 112),
    Row(4, 5, 2, 6, 192),
    Row(1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output is ⌈size / stride⌉.

    With stride 2 an even side gets one row less in front than behind; only the parity of the
    side matters. An odd kernel with stride 1 needs the usual padding on both sides.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Side of the kernel, odd.
        stride: 1 or 2.
        groups: Groups of channels.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ⌈H/stride⌉, ⌈W/stride⌉)."""
        if self.stride[0] == 1:
            return super().forward(x)
        behind = self.kernel_size[0] // 2
        # int(): constants in a traced graph
        above, left = (behind - 1 + int(x.shape[axis]) % 2 for axis in (2, 3))
        if above == left == behind:
            return F.conv2d(x, self.weight, self.bias, self.stride, behind, groups=self.groups)
        return super().forward(F.pad(x, (left, behind, above, behind)))


class InvertedBottleneck(nn.Module):
    """1×1 expansion, depthwise convolution, linear 1×1 projection (MobileNetV2's block).

    Args:
        channels: Channels of the input.
        row: Kernel, expansion and channels of the output.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, channels: int, row: Row, stride: int) -> None:
        super().__init__()
        width = channels * row.expansion
        if row.expansion > 1:
            self.expand_conv = SameConv2d(channels, width, 1)
            self.bn0 = nn.BatchNorm2d(width, eps=EPSILON)
        self.depthwise_conv = SameConv2d(width, width, row.kernel, stride, groups=width)
        self.bn1 = nn.BatchNorm2d(width, eps=EPSILON)
        self.project_conv = SameConv2d(width, row.channels, 1)
        self.bn2 = nn.BatchNorm2d(row.channels, eps=EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.expands = row.expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        """(N·T, C, H, W) to (N·T, C', H/stride, W/stride)."""
        return self.project(self.relu(self.bn0(self.expand_conv(x))) if self.expands else x)

    def project(self, expanded: Tensor) -> Tensor:
        """What follows the expansion."""
        return self.bn2(self.project_conv(self.relu(self.bn1(self.depthwise_conv(expanded)))))


class SkipBlock(InvertedBottleneck, Block):
    """An inverted bottleneck with a shortcut and a temporal unit at its branch's entry."""

    def __init__(self, channels: int, row: Row, unit: TemporalUnit) -> None:
        super().__init__(channels, row, stride=1)
        self.unit = unit

    @property
    def gated_convolution(self) -> nn.Conv2d:
        """The expansion."""
        return self.expand_conv

    def forward(self, x: Tensor, run: Pass) -> Tensor:  # type: ignore[override]
        """(N·T, C, H, W) to the same shape."""
        y = self.unit.restore(self.expand_conv(self.unit(x, run)), run)
        return x + self.project(self.relu(self.bn0(y)))


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 from pictures to pooled features.

    Args:
        unit: What stands at the entry of every residual branch.
    """

    num_features = NUM_FEATURES
    # (x - 127) / 128, as the published weights were trained
    mean_rgb = (127.0, 127.0, 127.0)
    std_rgb = (128.0, 128.0, 128.0)

    def __init__(self, unit: UnitConfig) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=EPSILON)
        self.layers = nn.ModuleList(_layers(unit))
        self.conv_head = SameConv2d(ROWS[-1].channels, NUM_FEATURES, 1)
        self.bn1 = nn.BatchNorm2d(NUM_FEATURES, eps=EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        for module in self.modules():
            if isinstance(module, SameConv2d):
                # as the reference; PyTorch's own fan-out forgets the groups
                fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """Normalised pictures (N·T, 3, H, W) to features (N·T, 1280), float32 at least."""
        x = self.relu(self.bn0(self.conv_stem(x)))
        for layer in self.layers:
            x = layer(x, run) if isinstance(layer, SkipBlock) else layer(x)
        return pooled(self.relu(self.bn1(self.conv_head(x))))

    def blocks(self) -> list[Block]:
        """The 9 blocks with a shortcut, in the order of the data."""
        return [layer for layer in self.layers if isinstance(layer, SkipBlock)]

    def stem(self) -> list[nn.Module]:
        """The first convolution and the layers up to the first with a shortcut."""
        before = [isinstance(layer, SkipBlock) for layer in self.layers].index(True)
        return [self.conv_stem, self.bn0, *self.layers[:before]]

    @staticmethod
    def own_name(published: str) -> str:
        """The name here of a published tensor.

        >>> EfficientNetLite0.own_name("_blocks.11._project_conv.weight")
        'layers.11.project_conv.weight'
        """
        plain = [part.removeprefix("_") for part in published.split(".")]
        return ".".join(["layers", *plain[1:]] if plain[0] == "blocks" else plain)


class Place(NamedTuple):
    """One of the 16 layers: its input's channels, its row, its stride, the stride behind it."""

    channels: int
    row: Row
    stride: int
    total_stride: int

    @property
    def skips(self) -> bool:
        """Whether it has a shortcut."""
        return self.stride == 1 and self.channels == self.row.channels


def _places() -> list[Place]:
    places = []
    channels, total_stride = STEM_CHANNELS, 2
    for row in ROWS:
        for stride in (row.stride, *[1] * (row.layers - 1)):
            total_stride *= stride
            places.append(Place(channels, row, stride, total_stride))
            channels = row.channels
    return places


def _layers(unit: UnitConfig) -> Iterator[InvertedBottleneck]:
    places = _places()
    # res2..res5 of a ResNet have strides 4, 8, 16, 32
    tapped_strides = {2 ** (stage + 1) for stage in unit.tap_stages}
    last_skip = {place.total_stride: i for i, place in enumerate(places) if place.skips}
    for i, (channels, row, stride, total_stride) in enumerate(places):
        if places[i].skips:
            tap = total_stride in tapped_strides and last_skip[total_stride] == i
            yield SkipBlock(channels, row, TemporalUnit(channels, unit, tap=tap))
        else:
            yield InvertedBottleneck(channels, row, stride)
