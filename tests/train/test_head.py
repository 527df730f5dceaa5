"""The baselines' heads: shapes, causality, order, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from tests.train.models import UNITS, facts_of_model, lively_model, pictures, write_checkpoint
from train.checkpoint import load_checkpoint
from train.evaluate import evaluate
from train.fit import fit
from train.model.cost import cost_of
from train.model.head import GruHead, Head, TemporalConvHead, TemporalHead, build_head
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.optimizer import factors_of
from train.recipe import Recipe
from train.recipe_file import load_recipe

HEADS: tuple[Head, ...] = ("gru", "tconv")
PLAIN = UNITS["plain"]
REFUSAL = "is a baseline of the ablation and does not stream; train with head none to stream"


def config(head, backbone="tiny", unit=PLAIN):
    return ModelConfig(backbone=backbone, num_classes=4, unit=unit, head=head)


def built(head, unit=PLAIN):
    """A model with the backbone of `lively_model` and a head of its own."""
    torch.manual_seed(2)
    model = Tdrl(config(head, unit=unit)).eval()
    model.backbone.load_state_dict(lively_model("tiny", unit).backbone.state_dict())
    return model


def head_of(head: Head, num_features: int) -> TemporalHead:
    module = build_head(head, num_features)
    assert module is not None
    return module


# ---- heads alone


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("num_features", "expected"), [(128, 128), (2048, 256)])
def test_as_many_channels_as_features_and_256_at_most(head, num_features, expected):
    module = head_of(head, num_features)
    assert module.num_features == expected
    assert module(torch.rand(2, 5, num_features)).shape == (2, 5, expected)


def test_the_convolution_is_the_one_written_by_hand():
    module = TemporalConvHead(6)
    x = torch.rand(1, 4, 6)
    before = torch.cat((torch.zeros(1, 2, 6), x), 1)
    weight, bias = module.state_dict()["conv.weight"], module.state_dict()["conv.bias"]
    by_hand = [
        bias + torch.stack([weight[:, :, k] @ before[0, t + k] for k in range(3)]).sum(0)
        for t in range(4)
    ]
    torch.testing.assert_close(module(x)[0], torch.stack(by_hand).relu())


@pytest.mark.parametrize("head", HEADS)
def test_autocast_leaves_the_head_in_float32(head):
    module = head_of(head, 16)
    x = torch.rand(2, 3, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).dtype == torch.float32


# ---- in the model


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_frame_changes_nothing_before_it(head):
    model = built(head)
    clip = pictures(2, 6)
    other = clip.clone()
    other[:, 3] = 255 - other[:, 3]
    logits, changed = model(clip), model(other)
    assert logits.shape == (2, 6, 4)
    torch.testing.assert_close(changed[:, :3], logits[:, :3])
    # what comes after sees it: all frames of a GRU, two more of the convolution
    assert ((changed - logits).abs().amax((0, 2))[3:6] > 1e-5).all()


@pytest.mark.parametrize("head", ["none", *HEADS])
@torch.no_grad()
def test_order_matters_with_a_head_only(head):
    model, clip = built(head), pictures(2, 6)
    distance = (model(clip).mean(1) - model(clip.flip(1)).mean(1)).abs().max()
    assert distance < 1e-5 if head == "none" else distance > 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_learns(head):
    model = built(head).train()
    assert model.head is not None
    model(pictures(3, 4)).mean(1).logsumexp(1).sum().backward()
    named = [*model.head.named_parameters(), ("conv1", model.backbone.conv1.weight)]
    assert [name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_no_head_changes_no_model():
    model = Tdrl(config("none", unit=UNITS["pem-tsm"]))
    assert model.head is None
    assert [name for name in model.state_dict() if "head" in name] == []
    torch.manual_seed(1)
    fresh = Tdrl(config("none"))
    torch.manual_seed(1)
    headed = Tdrl(config("gru"))
    own = {name: t for name, t in headed.state_dict().items() if name.startswith("backbone.")}
    for name, tensor in own.items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_it_trains_and_is_measured_on_clips_without_a_word_about_tapes(recipe, tiny_data, tmp_path):
    plain = replace(recipe, temporal="none", pem=False, td_loss=0.0, pre_roll=0.0, epochs=1)
    best = fit(replace(plain, head="gru"), tiny_data, tmp_path, name="gru")
    _, facts = load_checkpoint(best)
    assert facts.model.head == facts.recipe["head"] == "gru"
    result = evaluate(best, tiny_data, tmp_path / "evaluation")
    assert result["clip_top1"] == pytest.approx(facts.metrics["val_top1"])
    assert "live" not in result


# ---- what it refuses


@pytest.mark.parametrize("head", HEADS)
def test_a_head_does_not_stream(head):
    model = built(head).train()
    assert f"head {head} {REFUSAL}" == model.config.offline_reason
    with pytest.raises(ValueError, match=REFUSAL):
        model.step(pictures(1, 1)[:, 0])
    with pytest.raises(ValueError, match=REFUSAL):
        model.zero_state(1, 32, 32)
    assert model.training, "a refusal leaves the mode alone"


def test_a_head_takes_no_state():
    state = lively_model("tiny", UNITS["tsm"]).zero_state(1, 32, 32)
    with pytest.raises(ValueError, match="head gru takes no state"):
        built("gru", UNITS["tsm"]).run_clip(pictures(1, 2), state)


def test_offline_reason_is_the_heads_or_the_units():
    lookahead = UnitConfig(temporal="tsm", pem=False, form="lookahead")
    assert config("none").offline_reason is None
    assert config("none", unit=lookahead).offline_reason == lookahead.offline_reason
    assert "head tconv" in str(config("tconv", unit=lookahead).offline_reason)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head must be one of none, gru, tconv, got 'lstm'"):
        config("lstm")
    with pytest.raises(ValueError, match="head must be one of none, gru, tconv, got 'lstm'"):
        Recipe(backbone="tiny", head="lstm")  # type: ignore[arg-type]


def test_pre_roll_has_no_place_for_a_head():
    with pytest.raises(ValueError, match="head gru begins with its clip; set pre_roll: 0"):
        Recipe(backbone="tiny", head="gru")
    changes = {"preset": "tsn", "head": "tconv", "pre_roll": "0"}
    assert load_recipe("demo", changes).head == "tconv"


# ---- around it


def test_configurations_without_the_field_are_read():
    old = config("none").to_json()
    del old["head"]
    assert ModelConfig.from_json(old) == config("none")


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_checkpoint_brings_its_head_back(head, tmp_path):
    model, clip = built(head), pictures(1, 3)
    path = write_checkpoint(tmp_path / "a.ckpt", model, facts_of_model(model.config))
    loaded, facts = load_checkpoint(path)
    assert facts.model.head == head
    assert torch.equal(loaded(clip), model(clip))


@pytest.mark.parametrize(
    ("head", "parameters", "macs"),
    [
        # of a GRU 3 gates with two matrices of 128x128 and two biases, once a frame
        ("gru", 3 * (2 * 128 * 128 + 2 * 128), 4 * 3 * 2 * 128 * 128),
        ("tconv", 128 * 128 * 3 + 128, 4 * 3 * 128 * 128),
    ],
)
def test_the_cost_is_that_of_a_clip_only(head, parameters, macs):
    sizes = {"num_segments": 4, "height_px": 32, "width_px": 32}
    plain, cost = (cost_of(config(name), **sizes) for name in ("none", head))
    assert cost.parameters - plain.parameters == parameters
    assert cost.clip_macs - plain.clip_macs == macs
    assert (cost.step_macs, cost.state_size) == (None, None)


def test_the_groups_of_tsm_know_a_heads_biases():
    recipe = Recipe(backbone="tiny", fc_lr5=True, backbone_lr=0.1)
    for module, weight, bias in [
        (GruHead(8), "gru.weight_hh_l0", "gru.bias_hh_l0"),
        (TemporalConvHead(8), "conv.weight", "conv.bias"),
    ]:
        named = dict(module.named_parameters())
        assert factors_of(f"head.{weight}", named[weight], recipe) == (1.0, 1.0)
        assert factors_of(f"head.{bias}", named[bias], recipe) == (2.0, 0.0)
