import pytest
import torch

from train.model.backbones.resnet import SIZES, ResNet
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import Pass, UnitConfig

PLAIN = UnitConfig(temporal="none", pem=False)

# the paper's table 1: blocks a stage; a bottleneck's third convolution has 4 times the width
PUBLISHED = {
    "resnet18": ((2, 2, 2, 2), (3, 3)),
    "resnet34": ((3, 4, 6, 3), (3, 3)),
    "resnet50": ((3, 4, 6, 3), (1, 3, 1)),
    "resnet101": ((3, 4, 23, 3), (1, 3, 1)),
}
# of torchvision's files, less the two of the classifier
NUM_TENSORS = {"resnet18": 120, "resnet34": 216, "resnet50": 318, "resnet101": 624}


def published_shapes(backbone):
    """Names and shapes of torchvision's state dict, without its classifier."""
    layers, kernels = PUBLISHED[backbone]
    shapes: dict[str, tuple[int, ...]] = {}

    def convolve(conv, norm, channels_in, channels_out, kernel):
        shapes[f"{conv}.weight"] = (channels_out, channels_in, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (channels_out,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    convolve("conv1", "bn1", 3, 64, 7)
    channels = 64
    for stage, (blocks, width) in enumerate(zip(layers, (64, 128, 256, 512), strict=True), start=1):
        out = 4 * width if len(kernels) == 3 else width
        for number in range(blocks):
            block = f"layer{stage}.{number}."
            widths = [channels, *[width] * (len(kernels) - 1), out]
            for i, kernel in enumerate(kernels):
                names = f"{block}conv{i + 1}", f"{block}bn{i + 1}"
                convolve(*names, widths[i], widths[i + 1], kernel)
            if number == 0 and (stage > 1 or channels != out):
                convolve(f"{block}downsample.0", f"{block}downsample.1", channels, out, 1)
            channels = out
    return shapes


def unfilled(backbone, num_classes=1000, unit=PLAIN):
    """Shapes only: no memory, no random numbers."""
    with torch.device("meta"):
        return Tdrl(ModelConfig(backbone=backbone, num_classes=num_classes, unit=unit))


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_names_and_shapes_are_torchvisions(backbone):
    state = unfilled(backbone).backbone.state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == published_shapes(backbone)
    assert len(state) == NUM_TENSORS[backbone]


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


@pytest.mark.parametrize("backbone", ["tiny", "resnet50"])
@pytest.mark.parametrize("stages", [(1,), (2, 4), ()])
def test_taps_are_where_they_are_asked_for(backbone, stages):
    net = unfilled(backbone, unit=UnitConfig(tap_stages=stages)).backbone
    tapped = [name for name, module in net.named_modules() if getattr(module, "tap", False)]
    assert [int(name[len("layer")]) for name in tapped] == [*stages]


def test_a_bottlenecks_stride_is_in_its_3x3_convolution():
    block = unfilled("resnet50").backbone.layer3[0]
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
