"""Clips a second of the loader, of the training step, and of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.bench.effort import Effort
from export.bench.values import Table
from train.data.arrow_of_time import Sizes, build
from train.loader_speed import ROUNDS, loader_speed
from train.recipe_file import load_recipe

RECIPE = "demo"
TEXT = (
    f"Recipe `{RECIPE}` on its own data, rounds of some batches, wall clock: what else runs on the "
    "machine slows it. The loader has to be as fast as the step."
)


def measure(effort: Effort, folder: Path) -> Table:
    """The table `training`."""
    header = (
        "recipe",
        "loader, clips/s",
        "training step, clips/s",
        "both, clips/s",
        "loader ÷ step",
    )
    table = Table("training", "Loader and training", TEXT, header)
    data = made_data(effort, folder)
    found = loader_speed(load_recipe(RECIPE, {}), data, num_batches=effort.batches, rounds=ROUNDS)
    speeds = (found.loader, found.step, found.both)
    cells = [
        str(table.add(name, speed.rounds, "clips/s"))
        for name, speed in zip(("loader", "step", "both"), speeds, strict=True)
    ]
    ratio = np.array(found.loader.rounds) / np.array(found.step.rounds)
    table.rows.append((RECIPE, *cells, str(table.add("loader/step", ratio, "x"))))
    return table


def made_data(effort: Effort, folder: Path) -> Path:
    """The recipe's data, few of them; what is in the folder already is kept."""
    few = Sizes(
        train_scenes=effort.clips,
        validation_clips=1,
        calibration_clips=1,
        tape_actions=1,
        tape_validation_actions=1,
    )
    data = folder / "arrow_of_time"
    build(data, 0, few)
    return data
