"""Optimiser groups and learning-rate schedules of the published recipes.

TDRL's own rates and epochs are unpublished; the recipes take those of TSM (arXiv:1811.08383) and
TDN (arXiv:2012.10071), whose code says them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from train.recipe import Recipe

WARM_UP_SHARE = 0.15  # of one cycle
WARM_UP_FROM = 0.1
STEP_FACTOR = 0.1
FC_LR = 5.0
FC_BIAS_LR = 10.0
BIAS_LR = 2.0

Factors = tuple[float, float]  # of the learning rate, of the weight decay


def factors_of(name: str, parameter: nn.Parameter, recipe: Recipe) -> Factors:
    """What a parameter's learning rate and weight decay are multiplied with.

    Args:
        name: Its name in the model, `backbone.layer1.0.conv1.weight`.
        parameter: The parameter.
        recipe: Says which groups there are.

    Returns:
        Factor of the learning rate, and 0 or 1 for the weight decay.
    """
    decay = 1.0 if parameter.ndim > 1 else 0.0
    # a GRU's are called bias_ih_l0 and bias_hh_l0
    is_bias = name.rpartition(".")[2].startswith("bias")
    rate = 1.0
    if name.startswith("backbone.") and ".unit." not in name:
        rate = recipe.backbone_lr
    if not recipe.fc_lr5:
        return rate, decay
    if name.startswith("fc."):
        return (FC_BIAS_LR if is_bias else FC_LR), decay
    # the biases of batch norms learn as their weights do
    is_norm = parameter.ndim == 1 and _is_norm(name)
    return (rate * BIAS_LR if is_bias and not is_norm else rate), decay


def _is_norm(name: str) -> bool:
    return ".unit." not in name and not name.startswith(("fc.", "head."))


def parameter_groups(model: nn.Module, recipe: Recipe, rate: float) -> list[dict[str, object]]:
    """Parameters that learn, by their factors, as optimisers take them.

    Args:
        model: The network, without a prefix to its names.
        recipe: Says the factors.
        rate: The learning rate of factor 1.
    """
    members: defaultdict[Factors, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[factors_of(name, parameter, recipe)].append(parameter)
    return [
        {
            "params": members[factors],
            "lr": rate * factors[0],
            "weight_decay": recipe.weight_decay * factors[1],
        }
        for factors in sorted(members, reverse=True)
    ]


def optimizer_of(model: nn.Module, recipe: Recipe, clips_per_update: int) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Args:
        model: What learns.
        recipe: The recipe.
        clips_per_update: Clips of all processes and accumulated steps.
    """
    rate = recipe.learning_rate
    if recipe.lr_batch is not None:
        rate *= clips_per_update / recipe.lr_batch
    groups = parameter_groups(model, recipe, rate)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=rate)


def schedule_of(
    optimizer: torch.optim.Optimizer, recipe: Recipe, num_updates: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe, one step an update.

    Args:
        optimizer: Its groups' rates are the highest ones.
        recipe: The recipe.
        num_updates: Updates of the whole run, >= 1.
    """
    if recipe.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=num_updates,
            pct_start=WARM_UP_SHARE,
            # the momentum of SGD is the recipe's; AdamW's first beta goes against the rate
            cycle_momentum=recipe.optimizer == "adamw",
        )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor_at(recipe, num_updates))


def factor_at(recipe: Recipe, num_updates: int) -> Callable[[int], float]:
    """The factor of the learning rate at an update, for `cosine` and `steps`.

    >>> recipe = Recipe(backbone="tiny", epochs=4, schedule="steps", lr_steps=(2,))
    >>> [round(factor_at(recipe, 8)(update), 3) for update in (0, 3, 4, 7)]
    [1.0, 1.0, 0.1, 0.1]
    """
    per_epoch = num_updates / recipe.epochs
    warm_up = recipe.warmup_epochs * per_epoch

    def factor(update: int) -> float:
        if update < warm_up:
            return WARM_UP_FROM + (1 - WARM_UP_FROM) * update / warm_up
        if recipe.schedule == "steps":
            return float(
                STEP_FACTOR ** sum(update >= epoch * per_epoch for epoch in recipe.lr_steps)
            )
        share = (update - warm_up) / max(1.0, num_updates - warm_up)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return factor
