"""Train a model and leave the best checkpoint.

    python -m train.fit --recipe demo --data artifacts/data/arrow_of_time
    python -m train.fit --recipe own --data my_data --name kitchen --set epochs=40
    python -m train.fit --recipe own --data my_data --name kitchen --set epochs=40 --resume
    torchrun --nproc-per-node 4 -m train.fit --recipe ssv1_r50_8f --data ssv1
    python -m train.fit --recipe own --help            what the recipe says, field by field

Ctrl-C and SIGTERM stop after the update that runs, with everything saved; a validation is broken
off and repeated. Whatever ends a run, --resume goes on from its last checkpoint to the result it
would have had.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only

from runtime.artifacts import ARTIFACTS, point_latest
from runtime.command import run_command, say
from runtime.errors import CheckpointError
from train.checkpoint import (
    ENTRY,
    Facts,
    load_weights,
    read_checkpoint,
    update_facts,
)
from train.data.catalog import Split, load_split, read_labels
from train.data.loader import ClipLoader
from train.live_fit import fit_live
from train.model.tdrl import Tdrl
from train.model.weights import load_backbone_weights, pretrained_path
from train.module import TdrlModule
from train.recipe import Recipe
from train.recipe_file import describe, load_recipe, shipped_recipes
from train.run_checkpoints import (
    BEST,
    LAST,
    KeepGoing,
    StopRequestedError,
    batches_done,
    remove_parts,
    require_same_order,
)
from train.trainer import THIS_MACHINE, Hardware, together, trainer_of
from train.training_data import (
    Rank,
    class_weights,
    clips_of_batch,
    facts_of,
    training_loader,
    validation_loader,
)

BROKEN = "broken.txt"
# Fields that do not change what a run computes: a resumed run may have others.
FREE_FIELDS = ("workers", "init", "cache", "compile")
STATUS_OF_A_SIGNAL = 128


def fit(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    name: str,
    resume: bool = False,
    overwrite: bool = False,
    hardware: Hardware = THIS_MACHINE,
) -> Path:
    """Train by a recipe.

    Args:
        recipe: What to do.
        data: Data folder or data.yaml, see `train.data.catalog`; its validation tapes, or
            else its validation clips, fit consensus length, temperature and event policy.
        run: Folder of the run; checkpoints go to its `checkpoint/`, unreadable clips are listed
            in its `broken.txt`.
        name: Name of the run.
        resume: Go on from the run's last checkpoint; the recipe must be the same.
        overwrite: Replace the run's checkpoints.
        hardware: Where to compute.

    Returns:
        The best checkpoint by validation accuracy.

    Raises:
        DataError: The data cannot be used, or the loss is not a number.
        CheckpointError: `recipe.init` or the last checkpoint cannot be used, checkpoints are
            there and neither to be resumed nor to be overwritten, or none can be written.
        StopRequestedError: SIGTERM; the last checkpoint is there.
        KeyboardInterrupt: Ctrl-C, likewise.
    """
    labels = read_labels(data, recipe.exclude)
    train = load_split(data, "train", labels)
    validation = load_split(data, "validation", labels)
    facts = facts_of(recipe, train, name)
    folder = run / "checkpoint"
    init = None if recipe.init is None or resume else pretrained_path(recipe.backbone, recipe.init)
    if resume:
        last = _check_resume(folder / LAST, facts)
    elif not overwrite:
        _check_empty(folder)
    keeper = KeepGoing(folder, every_s=hardware.save_every_s)
    trainer = trainer_of(recipe, run, keeper, hardware)
    rank = Rank(trainer.global_rank, trainer.world_size)
    broken = run / BROKEN
    train_loader = training_loader(recipe, facts, train, rank=rank, broken_list=broken)
    validation_loader_ = validation_loader(recipe, facts, validation, rank=rank, broken_list=broken)
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    module = TdrlModule(
        recipe,
        facts,
        class_weights=class_weights(train, recipe.reverse) if recipe.class_weights else None,
        name_batch=lambda epoch, batch: clips_of_batch(train_loader, epoch, batch, train),
    )
    if init is not None:
        initialise(module.model, init)
    if resume:
        require_same_order(train_loader, last, folder / LAST)
        _go_on(train_loader, last, recipe)
    elif rank.number == 0:
        # only now that nothing is left to refuse: a failed start shall not cost an older run
        for file in (folder / BEST, folder / LAST, broken):
            file.unlink(missing_ok=True)
        _note_missing({"training": train, "validation": validation}, broken)
    if rank.number == 0:
        remove_parts(folder)
    with keeper.listening(), _ctrl_c_as_usual(), together(trainer):
        trainer.fit(
            module,
            train_loader,
            validation_loader_,
            ckpt_path=str(folder / LAST) if resume else None,
            weights_only=True,
        )
    best = folder / BEST
    if rank.number == 0:
        _finish(best, facts, recipe, data, _best_top1(trainer))
        point_latest(run)
    return best


def initialise(model: Tdrl, path: Path) -> None:
    """Start from a TDRL checkpoint (its classifier only if it fits) or from ImageNet weights.

    Raises:
        CheckpointError: The file is neither, or of another architecture.
    """
    if path.suffix != ".ckpt":
        load_backbone_weights(model, path)
        return
    data = read_checkpoint(path)
    own = model.state_dict()
    for name in ("fc.weight", "fc.bias"):
        given = data["state_dict"].get(f"model.{name}")
        if given is not None and given.shape != own[name].shape:
            data["state_dict"][f"model.{name}"] = own[name]
    load_weights(model, data, path)


def _go_on(loader: ClipLoader, last: dict[str, Any], recipe: Recipe) -> None:
    """Begin in the middle of the epoch that was not finished."""
    epoch, batches = batches_done(last)
    if batches < len(loader):
        loader.clip_sampler.start_at(epoch, batches * recipe.batch_size)


def _note_missing(splits: dict[str, Split], broken: Path) -> None:
    """List the recordings that are not there; what cannot be read is added as it is met."""
    missing = [path for split in splits.values() for path in split.skipped]
    if missing:
        broken.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{path} is not there; its clips are left out\n" for path in missing]
        broken.write_text("".join(lines), encoding="utf-8")


def _finish(best: Path, facts: Facts, recipe: Recipe, data: Path, top1: float) -> None:
    """Put into the best checkpoint what is known only now: its accuracy, how it decides live."""
    facts = update_facts(best, metrics={"val_top1": top1})
    if facts.model.offline_reason is None:
        live = fit_live(best, data, recipe.consensus_len)
        update_facts(best, sampling=live.sampling, operating=live.operating)


@contextmanager
def _ctrl_c_as_usual() -> Iterator[None]:
    """A stop by Ctrl-C looks the same as everywhere."""
    try:
        yield
    except StopRequestedError as err:
        if err.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(err)) from err
        raise


def _check_empty(folder: Path) -> None:
    if any((folder / name).is_file() for name in (BEST, LAST)):
        raise CheckpointError(
            f"{folder} already holds checkpoints; pass --resume, --overwrite or another --name"
        )


def _check_resume(last: Path, facts: Facts) -> dict[str, Any]:
    """The last checkpoint. A run goes on only as it began: its schedule is of that recipe."""
    if not last.is_file():
        raise CheckpointError(f"nothing to resume: no checkpoint at {last}")
    data = read_checkpoint(last)
    given = data[ENTRY]
    was = {**given.get("recipe", {}), "labels": given.get("labels")}
    now = {**facts.recipe, "labels": list(facts.labels)}
    # an older run's recipe does not know fields of today: it ran with what they are by default
    before = {field.name: field.default for field in fields(Recipe)} | was
    changed = sorted(name for name in now if before.get(name) != now[name])
    changed = [name for name in changed if name not in FREE_FIELDS]
    if changed:
        name = changed[0]
        raise CheckpointError(
            f"{last} was trained with {name} {before[name]!r}, now it is {now[name]!r}; "
            "resume as it began, or start anew under another --name"
        )
    return data


def _best_top1(trainer: pl.Trainer) -> float:
    keeper: Any = trainer.checkpoint_callback
    score = float(keeper.best_model_score)
    return score if math.isfinite(score) else 0.0


def _parser() -> argparse.ArgumentParser:
    shipped = "".join(f"\n  {name:<16}{what}" for name, what in shipped_recipes().items())
    parser = argparse.ArgumentParser(
        prog="python -m train.fit",
        description=f"{__doc__}\nshipped recipes:{shipped}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="with --recipe: its fields")
    parser.add_argument("--recipe", help="shipped recipe or YAML file (default: demo)")
    parser.add_argument("--data", type=Path, help="data folder or data.yaml (needed)")
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="folder of the run (default artifacts/NAME)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    going_on = parser.add_mutually_exclusive_group()
    going_on.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    going_on.add_argument(
        "--auto-resume", action="store_true", help="resume if there is a checkpoint (cluster jobs)"
    )
    going_on.add_argument("--overwrite", action="store_true", help="replace the run's checkpoints")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--devices", default="auto", help="GPUs or processes (default: what torchrun started, or 1)"
    )
    machine.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    machine.add_argument(
        "--accelerator",
        default="auto",
        choices=("auto", "cpu", "gpu"),
        help="default: a GPU if any",
    )
    machine.add_argument("--tensorboard", action="store_true", help="write a TensorBoard log too")
    machine.add_argument(
        "--save-every-s",
        type=float,
        default=THIS_MACHINE.save_every_s,
        metavar="S",
        help="seconds between checkpoints within an epoch (default: %(default)g)",
    )
    return parser


def _overrides(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set wants FIELD=VALUE, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def _hardware(options: argparse.Namespace) -> Hardware:
    devices = options.devices
    if devices != "auto":
        if not devices.isdecimal():
            raise ValueError(f"--devices must be auto or a number, got {devices!r}")
        devices = int(devices)
    return Hardware(
        devices=devices,
        nodes=options.nodes,
        accelerator=options.accelerator,
        tensorboard=options.tensorboard,
        save_every_s=options.save_every_s,
    )


def main(argv: list[str] | None = None) -> int | None:
    """Entry point of `python -m train.fit`."""
    parser = _parser()
    options = parser.parse_args(argv)
    overrides = _overrides(options.set)
    if options.help:
        described = options.recipe is not None
        say(describe(options.recipe, overrides) if described else parser.format_help())
        return None
    if options.data is None:
        parser.error("the following arguments are required: --data")
    recipe_name = options.recipe or "demo"
    recipe = load_recipe(recipe_name, overrides)
    name = options.name or Path(recipe_name).stem
    run = options.out or ARTIFACTS / name
    try:
        best = fit(
            recipe,
            options.data,
            run,
            name=name,
            resume=options.resume
            or (options.auto_resume and (run / "checkpoint" / LAST).is_file()),
            overwrite=options.overwrite,
            hardware=_hardware(options),
        )
    except StopRequestedError as err:
        _print_stop(err)
        return STATUS_OF_A_SIGNAL + err.signum
    _print_end(best, run / BROKEN)
    return None


@rank_zero_only
def _print_stop(err: StopRequestedError) -> None:
    print(err, file=sys.stderr)  # noqa: T201


@rank_zero_only
def _print_end(best: Path, broken: Path) -> None:
    if broken.is_file():
        lines = len(broken.read_text(encoding="utf-8").splitlines())
        say(f"{lines} recordings or clips were left out, see {broken}")
    top1 = read_checkpoint(best)[ENTRY]["metrics"]["val_top1"]
    say(f"best checkpoint {best}: clip top-1 {top1:.1%}; next: make engine")


if __name__ == "__main__":
    sys.exit(run_command(main))
