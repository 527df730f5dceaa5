"""What a training step spends its time on: the loader, the passes, the update, Lightning's loop."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.profilers import Profiler
from torch import Tensor

from export.bench.effort import Effort
from export.bench.training import RECIPE, made_data
from export.bench.values import Table
from runtime.errors import ExportError
from train.checkpoint import Facts
from train.data.catalog import load_split, read_labels
from train.model.unit import Pass
from train.module import TdrlModule
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.training_data import facts_of, training_loader

LOADER, DEVICE, PRE_ROLL, FORWARD = "loader", "to the device", "pre-roll", "forward"
LOSS, BACKWARD, OPTIMISER, REST = "loss", "backward", "optimiser", "everything else"
PARTS = (LOADER, DEVICE, PRE_ROLL, FORWARD, LOSS, BACKWARD, OPTIMISER, REST)
# how the names of what Lightning times end
ENDINGS = {
    ".train_dataloader_next": LOADER,
    "Strategy.batch_to_device": DEVICE,
    "Strategy.training_step": LOSS,
    "Strategy.backward": BACKWARD,
    ".optimizer_step": OPTIMISER,
}
EPOCH = "run_training_epoch"
WARM_UP = 3
TEXT = (
    f"One training step of recipe `{RECIPE}` on its own data in Lightning's loop, wall clock, as "
    "many threads as PyTorch takes. *Loader*: until the batch is there. *Pre-roll*: frames of "
    "other clips before a share of the batches, without gradients; of the steps that have it. "
    "*Forward*: the clip through the model. *Loss*: cross-entropy, TD loss, accuracy. *Optimiser*: "
    "the update, gradients set to zero and clipped. *Everything else*: Lightning's loop and hooks; "
    "no checkpoint, log or validation is in it."
)


def measure(effort: Effort, folder: Path) -> Table:
    """The table `training_loop`.

    Raises:
        ExportError: Lightning or the module names a part of the step otherwise.
    """
    header = ("recipe", *PARTS, "step")
    table = Table("training_loop", "The training loop, step by step, ms", TEXT, header)
    steps = step_times(2 * effort.few_rounds, made_data(effort, folder), folder)
    whole = np.array([sum(step.values()) for step in steps])
    cells, shares = [], []
    for part in PARTS:
        ms = np.array([step[part] for step in steps])
        shown = ms[ms > 0] if part == PRE_ROLL else ms
        cells.append(str(table.add(part, shown, "ms")) if len(shown) else "none")
        shares.append(f"{ms.sum() / whole.sum():.1%}")
    table.rows.append((RECIPE, *cells, str(table.add("step", whole, "ms"))))
    table.rows.append(("share of all steps", *shares, "100%"))
    return table


def step_times(count: int, data: Path, folder: Path) -> Sequence[dict[str, float]]:
    """Milliseconds of each part in each step, after a warm-up.

    Args:
        count: Steps, >= 1.
        data: The recipe's data.
        folder: Where Lightning may write.

    Raises:
        ExportError: Lightning or the module names a part of the step otherwise.
    """
    recipe = load_recipe(RECIPE, {})
    split = load_split(data, "train", read_labels(data, recipe.exclude))
    facts = facts_of(recipe, split, "bench")
    clock = StepClock()
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=WARM_UP + count,
            gradient_clip_val=recipe.clip_norm or None,
            profiler=clock,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(_Timed(recipe, facts, clock), training_loader(recipe, facts, split))
    missing = [part for part in PARTS if part != REST and part not in clock.seen]
    if missing:
        raise ExportError(
            f"a training step ran, and nothing named {', '.join(missing)} was seen: "
            f"pytorch-lightning {version('pytorch-lightning')} or train/module.py calls it "
            f"otherwise; change {Path(__file__).name}"
        )
    return clock.steps[WARM_UP:]


class StepClock(Profiler):
    """Splits time between the parts of a step, as Lightning says what begins and ends.

    Time belongs to the innermost part that runs: the optimiser's call encloses both passes.

    Attributes:
        steps: Milliseconds by part, a step each.
        seen: Parts that ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []
        self.seen: set[str] = set()
        self._running = [REST]
        self._since_ns = 0
        self._in_epoch = False

    def start(self, action_name: str) -> None:
        """Something begins."""
        self._charge()
        part = _part_of(action_name)
        if part == LOADER:
            self.steps.append(dict.fromkeys(PARTS, 0.0))
            self._in_epoch = True
        if part is not None:
            self.seen.add(part)
        self._running.append(part or self._running[-1])

    def stop(self, action_name: str) -> None:
        """It ends; what comes between two epochs belongs to no step."""
        self._charge()
        self._running.pop()
        if action_name == EPOCH:
            self._in_epoch = False

    def move(self, part: str, to: str) -> None:
        """What ran in this step as one part was another."""
        step = self.steps[-1]
        step[to] += step[part]
        step[part] = 0.0

    def _charge(self) -> None:
        now_ns = time.perf_counter_ns()
        if self._in_epoch:
            self.steps[-1][self._running[-1]] += (now_ns - self._since_ns) / 1e6
        self._since_ns = now_ns


def _part_of(action_name: str) -> str | None:
    if action_name in (PRE_ROLL, FORWARD):
        return action_name
    return next((part for end, part in ENDINGS.items() if action_name.endswith(end)), None)


class _Timed(TdrlModule):
    """The recipe's module, which tells the clock of its passes too."""

    def __init__(self, recipe: Recipe, facts: Facts, clock: StepClock) -> None:
        super().__init__(recipe, facts)
        self._clock = clock

    def _run_clip(self, clip: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, Pass]:
        with self._clock.profile(FORWARD):
            return super()._run_clip(clip, state)

    def _pre_roll_state(self, clip: Tensor, batch_idx: int) -> list[Tensor] | None:
        with self._clock.profile(PRE_ROLL):
            state = super()._pre_roll_state(clip, batch_idx)
        if state is None:
            self._clock.move(PRE_ROLL, REST)
        return state


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without its tips; it is loud again afterwards."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        log.setLevel(level)
