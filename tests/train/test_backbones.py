from typing import Any

import pytest
import torch
from torch import nn

from train.model.backbones import efficientnet_lite, resnet
from train.model.backbones.table import BACKBONES, Backbone, Block, build_backbone
from train.model.unit import Pass, TemporalUnit, UnitConfig

PLAIN = UnitConfig(temporal="none", pem=False)
FULL = UnitConfig()


def built(backbone, unit=PLAIN):
    with torch.device("meta"):
        return build_backbone(backbone, unit)


def test_the_names_are_stable():
    """They stand in recipes, checkpoints and bundles."""
    assert BACKBONES == (
        "tiny",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "efficientnet_lite0",
    )


def test_an_unknown_name_is_refused_with_all_known_ones():
    with pytest.raises(ValueError, match=r"one of tiny, .*efficientnet_lite0, got 'vgg16'"):
        build_backbone("vgg16", PLAIN)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_the_features_it_promises(backbone):
    net = built(backbone)
    assert isinstance(net, Backbone)
    features = net(torch.empty(2, 3, 64, 96, device="meta"), Pass(1))
    assert features.shape == (2, net.num_features)
    # statistics of pictures in 0..255
    assert all(100 < mean < 130 for mean in net.mean_rgb)
    assert all(50 < std < 130 for std in net.std_rgb)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_blocks_pass_in_the_order_they_are_listed(backbone):
    """States are told apart by this order alone."""
    net = built(backbone, FULL)
    passed: list[nn.Module] = []
    for block in net.blocks():
        assert isinstance(block, Block)
        block.unit.register_forward_hook(lambda unit, *_: passed.append(unit))
    net(torch.empty(2, 3, 64, 64, device="meta"), Pass(2))
    assert len(passed) == len(net.blocks())
    assert all(unit is block.unit for unit, block in zip(passed, net.blocks(), strict=True))


def noted(steps):
    def restore(y, run):
        steps.append(("restore", y))
        return y

    return restore


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gated_convolution_reads_the_unit_and_restore_reads_it(backbone, monkeypatch):
    net = built(backbone, FULL)
    steps: list[tuple[Any, ...]] = []

    for block in net.blocks():
        unit, conv = block.unit, block.gated_convolution
        assert isinstance(conv, nn.Conv2d)
        unit.register_forward_hook(lambda _, __, out: steps.append(("unit", out)))
        conv.register_forward_hook(lambda _, inputs, out: steps.append(("conv", inputs[0], out)))
        monkeypatch.setattr(unit, "restore", noted(steps))
    net(torch.empty(2, 3, 64, 64, device="meta"), Pass(2))
    assert [step[0] for step in steps] == ["unit", "conv", "restore"] * len(net.blocks())
    for (_, out), (_, read, convolved), (_, restored) in zip(*[iter(steps)] * 3, strict=True):
        assert read is out
        assert restored is convolved


class UnitWithConvolution(TemporalUnit):
    def __init__(self, channels, config, **options):
        super().__init__(channels, config, **options)
        self.conv = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.conv.weight)


@pytest.mark.parametrize(
    ("backbone", "module"), [("tiny", resnet), ("efficientnet_lite0", efficientnet_lite)]
)
def test_building_leaves_the_units_initial_values(backbone, module, monkeypatch):
    """The backbone initialises its own convolutions, never those of a temporal module."""
    monkeypatch.setattr(module, "TemporalUnit", UnitWithConvolution)
    for block in build_backbone(backbone, PLAIN).blocks():
        assert isinstance(block.unit, UnitWithConvolution)
        assert not block.unit.conv.weight.any()
        assert block.gated_convolution.weight.any()
