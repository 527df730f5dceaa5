import pytest
import torch

from train.model.backbones.resnet import SIZES, ResNet
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import Pass, UnitConfig

PLAIN = UnitConfig(temporal="none", pem=False)

# read off torchvision's state dicts
NAMES = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.1.bn2.bias": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_var": (128,),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.2.conv3.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.running_var": (1024,),
        "layer4.0.downsample.1.weight": (2048,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
    },
}
# of torchvision's files, less the two of the classifier
NUM_TENSORS = {"resnet18": 122 - 2, "resnet50": 320 - 2}


def unfilled(backbone, num_classes=1000, unit=PLAIN):
    """Shapes only: no memory, no random numbers."""
    with torch.device("meta"):
        return Tdrl(ModelConfig(backbone=backbone, num_classes=num_classes, unit=unit))


@pytest.mark.parametrize("backbone", NAMES)
def test_names_and_shapes_are_torchvisions(backbone):
    state = unfilled(backbone).backbone.state_dict()
    assert len(state) == NUM_TENSORS[backbone]
    assert {name: tuple(state[name].shape) for name in NAMES[backbone]} == NAMES[backbone]


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
    ],
)
def test_plain_nets_have_torchvisions_number_of_parameters(backbone, count):
    assert sum(p.numel() for p in unfilled(backbone).parameters()) == count


@pytest.mark.parametrize("backbone", SIZES)
def test_temporal_parts_add_names_and_change_none(backbone):
    plain = unfilled(backbone).state_dict()
    full = unfilled(backbone, unit=UnitConfig()).state_dict()
    added = {name for name in full if name not in plain}
    assert set(plain) <= set(full)
    assert all(".unit.pem." in name for name in added)
    assert len(added) == 6 * sum(SIZES[backbone].layers), "a PEM in every residual block"


@pytest.mark.parametrize("backbone", SIZES)
def test_taps_are_the_last_blocks_of_res3_to_res5(backbone):
    net = unfilled(backbone).backbone
    tapped = [name for name, module in net.named_modules() if getattr(module, "tap", False)]
    last = [layers - 1 for layers in SIZES[backbone].layers]
    assert tapped == [f"layer{stage}.{last[stage - 1]}.unit" for stage in (2, 3, 4)]


@pytest.mark.parametrize(
    ("backbone", "height_px", "width_px", "sides"),
    [
        ("tiny", 48, 48, [(24, 24), (12, 12), (6, 6), (3, 3)]),
        ("resnet18", 64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ("resnet50", 64, 64, [(16, 16), (8, 8), (4, 4), (2, 2)]),
    ],
)
@torch.no_grad()
def test_strides(backbone, height_px, width_px, sides):
    torch.manual_seed(0)
    net = ResNet(SIZES[backbone], PLAIN).eval()
    found = []
    for stage in (1, 2, 3, 4):
        last = getattr(net, f"layer{stage}")[-1]
        last.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[2:])))
    features = net(torch.randn(2, 3, height_px, width_px), Pass(1))
    assert found == sides
    assert features.shape == (2, net.num_features)


def test_a_bottlenecks_stride_is_in_its_3x3_convolution():
    block = unfilled("resnet50").backbone.layer3[0]
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
