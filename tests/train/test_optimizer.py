"""The published optimisers' groups and schedules, against numbers worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from train.checkpoint import read_checkpoint
from train.fit import fit
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import TEMPORALS
from train.optimizer import factors_of, optimizer_of, schedule_of
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.run_checkpoints import LAST

SGD: dict[str, Any] = {"backbone": "tiny", "optimizer": "sgd", "learning_rate": 0.01}


def model_of(recipe):
    return Tdrl(ModelConfig(backbone=recipe.backbone, num_classes=4, unit=recipe.unit()))


def by_name(model, optimizer):
    """Learning rate and weight decay of every parameter that learns."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def rates(recipe, num_updates, group=0):
    """The rate of every update, as training meets it."""
    optimizer = optimizer_of(model_of(recipe), recipe, 8)
    schedule = schedule_of(optimizer, recipe, num_updates)
    found = []
    for _ in range(num_updates):
        found.append(optimizer.param_groups[group]["lr"])
        optimizer.step()
        schedule.step()
    return found


# ---- groups


@pytest.mark.parametrize("temporal", TEMPORALS)
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_tsms_groups(backbone, temporal):
    """ops/utils and TSN.get_optim_policies of TSM's code, by the type of the module."""
    # video shuffling is for whole clips only
    form: dict[str, Any] = {"form": "lookahead", "pre_roll": 0.0} if temporal == "vsn" else {}
    chosen = {**SGD, **form, "backbone": backbone}
    recipe = Recipe(**chosen, temporal=temporal, fc_lr5=True, weight_decay=0.5)
    model = model_of(recipe)
    found = by_name(model, optimizer_of(model, recipe, 8))
    expected = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = isinstance(module, nn.BatchNorm2d)
            is_fc = isinstance(module, nn.Linear) and prefix == "fc"
            is_bias = name == "bias"
            rate = {(True, False): 5, (True, True): 10, (False, True): 2}.get((is_fc, is_bias), 1)
            if is_norm:
                rate = 1
            decay = 0.5 if parameter.ndim > 1 else 0.0
            expected[f"{prefix}.{name}"] = (pytest.approx(0.01 * rate), decay)
    assert found == expected


def test_only_the_backbones_own_weights_learn_more_slowly():
    recipe = Recipe(**SGD, backbone_lr=0.1)
    model = model_of(recipe)
    found = by_name(model, optimizer_of(model, recipe, 8))
    slow = {name for name, (rate, _) in found.items() if rate == pytest.approx(0.001)}
    fast = {name for name, (rate, _) in found.items() if rate == pytest.approx(0.01)}
    assert slow | fast == set(found)
    assert slow == {n for n in found if n.startswith("backbone.") and ".unit." not in n}
    assert {"fc.weight", "fc.bias"} <= fast
    assert any(".unit.pem." in name for name in fast)


def test_both_factors_multiply():
    recipe = Recipe(**SGD, backbone_lr=0.1, fc_lr5=True)
    bias = nn.Parameter(torch.zeros(3))
    assert factors_of("backbone.layer1.0.unit.pem.attend.bias", bias, recipe) == (2.0, 0.0)
    assert factors_of("backbone.bn1.bias", bias, recipe) == (0.1, 0.0)
    assert factors_of("fc.bias", bias, recipe) == (10.0, 0.0)
    assert factors_of("fc.weight", nn.Parameter(torch.zeros(3, 3)), recipe) == (5.0, 1.0)


def test_frozen_parameters_are_in_no_group():
    recipe = Recipe(**SGD)
    model = model_of(recipe)
    model.backbone.requires_grad_(False)
    assert set(by_name(model, optimizer_of(model, recipe, 8))) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(("clips", "rate"), [(64, 0.01), (32, 0.005), (512, 0.08)])
def test_the_rate_is_for_so_many_clips_an_update(clips, rate):
    recipe = load_recipe("ssv1_r50_8f", {"backbone": "tiny", "fc_lr5": "false"})
    assert recipe.lr_batch == 64
    optimizer = optimizer_of(model_of(recipe), recipe, clips)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate] * 2)
    fixed = optimizer_of(model_of(recipe), replace(recipe, lr_batch=None), clips)
    assert {group["lr"] for group in fixed.param_groups} == {0.01}


def test_accumulated_batches_count_for_the_rate(recipe, tiny_data, tmp_path):
    """16 clips an update, not the 8 of a batch; several processes: test_distributed.py."""
    small = replace(
        recipe,
        epochs=1,
        accumulate=2,
        optimizer="sgd",
        lr_batch=64,
        schedule="cosine",
        learning_rate=0.04,
    )
    fit(small, tiny_data, tmp_path, name="x")
    last = read_checkpoint(tmp_path / "checkpoint" / LAST)
    (optimizer,) = last["optimizer_states"]
    assert {group["initial_lr"] for group in optimizer["param_groups"]} == {0.04 * 16 / 64}
    assert last["global_step"] == 5
    assert last["lr_schedulers"][0]["last_epoch"] == 5, "a step of the schedule an update"


def test_the_optimisers_are_those_that_the_recipe_names():
    sgd = optimizer_of(model_of(Recipe(**SGD)), Recipe(**SGD, momentum=0.8), 8)
    assert isinstance(sgd, torch.optim.SGD)
    assert {group["momentum"] for group in sgd.param_groups} == {0.8}
    adamw = Recipe(backbone="tiny")
    assert isinstance(optimizer_of(model_of(adamw), adamw, 8), torch.optim.AdamW)


# ---- schedules


def test_steps_divide_by_ten_at_their_epochs():
    recipe = Recipe(**SGD, epochs=5, schedule="steps", lr_steps=(2, 4))
    assert rates(recipe, 15) == pytest.approx([0.01] * 6 + [0.001] * 6 + [0.0001] * 3)


def test_steps_fit_published_recipes():
    recipe = load_recipe("ssv1_r50_8f", {"backbone": "tiny", "lr_batch": "8"})
    found = rates(replace(recipe, fc_lr5=False), 100)
    assert found == pytest.approx([0.01] * 40 + [0.001] * 40 + [0.0001] * 20)


def test_the_warm_up_rises_from_a_tenth():
    recipe = Recipe(**SGD, epochs=5, schedule="steps", lr_steps=(4,), warmup_epochs=2)
    expected = [0.001, 0.00325, 0.0055, 0.00775, *[0.01] * 4, 0.001, 0.001]
    assert rates(recipe, 10) == pytest.approx(expected)


def test_the_cosine_falls_to_nothing_after_its_warm_up():
    recipe = Recipe(**SGD, epochs=5, schedule="cosine", warmup_epochs=1)
    found = rates(recipe, 10)
    assert found[:3] == pytest.approx([0.001, 0.0055, 0.01])
    assert found[6] == pytest.approx(0.01 * 0.5)
    assert found[9] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))
    plain = rates(replace(recipe, warmup_epochs=0), 4)
    assert plain == pytest.approx([0.01 * x for x in (1, 0.853553, 0.5, 0.146447)], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_cycle_peaks_in_every_group_and_leaves_sgds_momentum(optimizer):
    recipe = Recipe(**{**SGD, "optimizer": optimizer}, fc_lr5=True, epochs=2, momentum=0.7)
    model = model_of(recipe)
    built = optimizer_of(model, recipe, 8)
    tops = [group["lr"] for group in built.param_groups]
    assert {round(top / 0.01) for top in tops} == {1, 2, 5, 10}
    schedule = schedule_of(built, recipe, 40)
    seen: list[list[float]] = []
    momenta = set()
    for _ in range(40):
        seen.append([group["lr"] for group in built.param_groups])
        momenta |= {group.get("momentum") for group in built.param_groups}
        built.step()
        schedule.step()
    peaks = [max(column) for column in zip(*seen, strict=True)]
    assert peaks == pytest.approx(tops)
    assert seen[5] == pytest.approx(tops), "15 % of 40 updates, the sixth"
    assert seen[0] == pytest.approx([top / 25 for top in tops])
    assert momenta == ({0.7} if optimizer == "sgd" else {None})


@pytest.mark.parametrize("num_updates", [1, 2, 3, 6, 7, 8, 13, 14, 20])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "steps"])
def test_short_runs_have_a_schedule_too(schedule, num_updates):
    steps: dict[str, Any] = {"lr_steps": (1,)} if schedule == "steps" else {}
    recipe = Recipe(backbone="tiny", learning_rate=0.01, epochs=2, schedule=schedule, **steps)
    assert all(0 <= rate <= 0.0100001 for rate in rates(recipe, num_updates))
