"""Who waits for whom: clips a second of the loader, of the training step, and of both together.

python -m train.loader_speed --recipe demo --data artifacts/data/arrow_of_time
python -m train.loader_speed --recipe my.yaml --data my_data --workers 8 --batches 40
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from runtime.command import run_command, say
from train.data.catalog import load_split, read_labels
from train.data.loader import ClipLoader
from train.module import TdrlModule
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.training_data import facts_of, training_loader

ROUNDS = 5
READY_BATCHES = 4
CLOSE = 0.95  # a loader this close to the step's speed is not called slower

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Speed:
    """Clips a second over some rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round."""
        return median(self.rounds)


@dataclass(frozen=True)
class LoaderSpeed:
    """What was measured.

    Attributes:
        loader: The loader alone.
        step: The training step alone, on batches that are ready.
        both: Loading and training, as in a run.
        num_batches: Batches of a round.
        num_workers: Loader processes.
    """

    loader: Speed
    step: Speed
    both: Speed
    num_batches: int
    num_workers: int

    def table(self) -> str:
        """One line a measurement, and which of the two is the limit."""
        rows = [("loader alone", self.loader), ("step alone", self.step), ("both", self.both)]
        lines = [f"{'clips/s':>26}{'slowest':>10}{'fastest':>10}"]
        for name, speed in rows:
            slowest, fastest = min(speed.rounds), max(speed.rounds)
            lines.append(f"{name:<16}{speed.median:>10.1f}{slowest:>10.1f}{fastest:>10.1f}")
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """Which one starves, and what to do."""
        share = self.loader.median / self.step.median
        if share >= CLOSE:
            return f"the training step is the limit: the loader could feed {share:.1f} of them"
        return (
            f"the loader starves the training step: it gives {share:.0%} of what the step takes; "
            "raise workers, or decode once (python -m train.prepare --cache)"
        )


def measure(
    loader: ClipLoader, step: Callable[[Batch], None], *, num_batches: int, rounds: int = ROUNDS
) -> LoaderSpeed:
    """Measure a loader and a training step, alone and together.

    Args:
        loader: Gives the batches; begins anew at its end.
        step: One training step; returns when the device has finished it.
        num_batches: Batches a round, >= 1; workers finish together, so it is rounded up to whole
            turns of theirs.
        rounds: Rounds of each measurement, >= 1.

    Raises:
        ValueError: A number below 1.
        DataError: The loader stopped.
    """
    if num_batches < 1 or rounds < 1:
        raise ValueError(f"batches and rounds must be >= 1, got {num_batches} and {rounds}")
    workers = max(1, loader.num_workers)
    num_batches = -(-num_batches // workers) * workers
    batches = _endless(loader)
    # workers have started and their first batches, loaded while nobody took any, are gone
    warm_up = workers * (loader.prefetch_factor or 1)
    ready = list(islice(batches, warm_up))[-READY_BATCHES:]
    alone = _timed(batches, None, num_batches, rounds)
    for batch in ready[:2]:
        step(batch)
    turns = (ready[number % len(ready)] for number in count())
    stepping = _timed(turns, step, num_batches, rounds)
    list(islice(batches, warm_up))
    together = _timed(batches, step, num_batches, rounds)
    return LoaderSpeed(alone, stepping, together, num_batches, loader.num_workers)


def training_step(
    recipe: Recipe, module: TdrlModule, device: torch.device
) -> Callable[[Batch], None]:
    """Forward, loss, backward and update of a recipe's model, in the run's precision."""
    module.to(device).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    turn = count()

    def step(batch: Batch) -> None:
        clip, label = (part.to(device, non_blocking=True) for part in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            loss = module.training_step((clip, label), next(turn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def loader_speed(
    recipe: Recipe, data: Path, *, num_batches: int, rounds: int = ROUNDS
) -> LoaderSpeed:
    """Measure a recipe's training on a data folder; nothing is kept.

    Raises:
        DataError: The data cannot be used.
    """
    split = load_split(data, "train", read_labels(data, recipe.exclude))
    facts = facts_of(recipe, split, "loader_speed")
    loader = training_loader(recipe, facts, split)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = training_step(recipe, TdrlModule(recipe, facts), device)
    with warnings.catch_warnings():
        # the module logs to a trainer that is not there
        warnings.filterwarnings("ignore", message=".*self.trainer.*")
        return measure(loader, step, num_batches=num_batches, rounds=rounds)


def _endless(loader: ClipLoader) -> Iterator[Batch]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def _timed(
    batches: Iterator[Batch], step: Callable[[Batch], None] | None, num_batches: int, rounds: int
) -> Speed:
    speeds = []
    for _ in range(rounds):
        start, clips = time.perf_counter(), 0
        for batch in islice(batches, num_batches):
            clips += len(batch[1])
            if step is not None:
                step(batch)
        speeds.append(clips / (time.perf_counter() - start))
    return Speed(tuple(speeds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.loader_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="demo", help="shipped recipe or YAML file")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--workers", help="loader processes or auto (default: the recipe's)")
    parser.add_argument("--batches", type=int, default=20, help="batches a round (default 20)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.loader_speed`."""
    options = _parser().parse_args(argv)
    overrides = {} if options.workers is None else {"workers": options.workers}
    recipe = load_recipe(options.recipe, overrides)
    speed = loader_speed(recipe, options.data, num_batches=options.batches)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    say(
        f"{options.recipe} on {device}: batches of {recipe.batch_size} × {recipe.num_segments} "
        f"frames {recipe.height_px}×{recipe.width_px}, {speed.num_workers} workers, "
        f"{ROUNDS} rounds of {speed.num_batches} batches"
    )
    say(speed.table())


if __name__ == "__main__":
    sys.exit(run_command(main))
