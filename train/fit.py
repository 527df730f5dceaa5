"""Train a model and leave the best checkpoint.

python -m train.fit --recipe demo --data artifacts/data/arrow_of_time
python -m train.fit --recipe my.yaml --data my_data --name kitchen --set epochs=40
python -m train.fit --recipe my.yaml --data my_data --name kitchen --resume
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from runtime.artifacts import ARTIFACTS, point_latest
from runtime.command import run_command
from runtime.errors import CheckpointError, DataError
from runtime.preprocess import PictureRule
from runtime.sampling import ClipLengths, SamplingContract, window_from_lengths
from train.checkpoint import ENTRY, Facts, load_weights, read_checkpoint, update_facts
from train.data.catalog import Split, has_tape, load_split, read_labels
from train.data.clips import ClipRule, EpochSampler, Item, KeptClips
from train.live_evaluation import fit_consensus
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.model.weights import load_backbone_weights
from train.module import GRADIENT_CLIP_NORM, TdrlModule
from train.recipe import Recipe, load_recipe

BEST = "best.ckpt"
LAST = "last.ckpt"
EVALUATION_BATCH = 64
KEPT_BYTES = 512 << 20  # validation clips up to this size are decoded once


def fit(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    name: str,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train by a recipe.

    Args:
        recipe: What to do.
        data: Data folder with `labels.txt`, `train/` and `validation/`; a `tape_validation/`
            fits the consensus length.
        run: Folder of the run; checkpoints go to its `checkpoint/`.
        name: Name of the run.
        resume: Go on from the run's last checkpoint; the recipe must be the same.
        overwrite: Replace the run's checkpoints.

    Returns:
        The best checkpoint by validation accuracy.

    Raises:
        DataError: The data cannot be used.
        CheckpointError: `recipe.init` or the last checkpoint cannot be used, or checkpoints are
            there and neither `resume` nor `overwrite` was asked for.
        KeyboardInterrupt: Ctrl-C; the last whole epoch's checkpoint is there.
    """
    labels = read_labels(data, recipe.exclude)
    train = load_split(data, "train", labels)
    validation = load_split(data, "validation", labels)
    facts = facts_of(recipe, train, name)
    folder = run / "checkpoint"
    if resume:
        _check_resume(folder / LAST, facts)
    elif not overwrite:
        _check_empty(folder)
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    module = TdrlModule(recipe, facts)
    if recipe.init is not None and not resume:
        initialise(module.model, Path(recipe.init))
    train_loader = _loader(train, facts, recipe, shuffle=True)
    validation_loader = _loader(validation, facts, recipe, shuffle=False)
    trainer = _trainer(recipe, folder)
    if not resume:
        # only now that nothing is left to refuse: a failed start shall not cost an older run
        _remove_checkpoints(folder)
    with _usual_interrupt(trainer):
        trainer.fit(
            module,
            train_loader,
            validation_loader,
            ckpt_path=str(folder / LAST) if resume else None,
            weights_only=True,
        )
    best = folder / BEST
    facts = update_facts(best, metrics={"val_top1": _best_top1(trainer)})
    if recipe.form == "causal" and has_tape(data, "tape_validation", facts.labels):
        consensus_len = fit_consensus(best, data)
        update_facts(best, sampling=replace(facts.sampling, consensus_len=consensus_len))
    point_latest(run)
    return best


def facts_of(recipe: Recipe, train: Split, name: str) -> Facts:
    """What the checkpoint will say: architecture, labels, picture rule, sampling contract."""
    lengths_s = train.lengths_s
    window_s = recipe.window_s or window_from_lengths(lengths_s)
    return Facts(
        name=name,
        model=ModelConfig(
            backbone=recipe.backbone,
            num_classes=len(train.labels),
            unit=UnitConfig(
                temporal=recipe.temporal,
                pem=recipe.pem,
                pem_first=recipe.pem_first,
                form=recipe.form,
                shift_div=recipe.shift_div,
            ),
            dropout=recipe.dropout,
        ),
        labels=train.labels,
        picture=PictureRule(height_px=recipe.height_px, width_px=recipe.width_px, crop=recipe.crop),
        sampling=SamplingContract(
            num_segments=recipe.num_segments,
            window_s=window_s,
            consensus_len=recipe.num_segments,
            clip_lengths=ClipLengths.of(lengths_s),
        ),
        recipe=recipe.to_json(),
    )


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


def _loader(split: Split, facts: Facts, recipe: Recipe, *, shuffle: bool) -> DataLoader[Item]:
    rule = ClipRule(
        num_segments=recipe.num_segments,
        spacing_s=facts.sampling.spacing_s,
        sampling=recipe.sampling if shuffle else "segments",
        seed=recipe.seed,
        random=shuffle,
    )
    clips = split.clips(facts.picture, rule)
    if shuffle and len(clips) < recipe.batch_size:
        raise DataError(
            f"{len(clips)} training clips are fewer than one batch of {recipe.batch_size}; "
            "add clips or set batch_size lower"
        )
    kept_bytes = len(clips) * recipe.num_segments * 3 * recipe.height_px * recipe.width_px
    return DataLoader(
        KeptClips(clips) if not shuffle and kept_bytes <= KEPT_BYTES else clips,
        batch_size=recipe.batch_size if shuffle else EVALUATION_BATCH,
        sampler=EpochSampler(len(clips), seed=recipe.seed, shuffle=shuffle),
        drop_last=shuffle,
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _trainer(recipe: Recipe, folder: Path) -> pl.Trainer:
    _quiet_lightning()
    keep_best = RunCheckpoint(
        folder,
        filename=Path(BEST).stem,
        monitor="val/top1",
        mode="max",
        enable_version_counter=False,
    )
    # not `save_last`: that writes the last checkpoint only when it is the best
    keep_last = RunCheckpoint(folder, filename=Path(LAST).stem, enable_version_counter=False)
    has_terminal = sys.stderr.isatty()
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if bfloat16 else "32-true",
        gradient_clip_val=GRADIENT_CLIP_NORM,
        logger=CSVLogger(folder.parent, name="logs"),
        callbacks=[
            keep_best,
            keep_last,
            TQDMProgressBar(refresh_rate=5) if has_terminal else EpochLines(),
        ],
        enable_progress_bar=has_terminal,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )


class RunCheckpoint(ModelCheckpoint):
    """Knows its checkpoints again where the run's folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state that a resumed run left, with its paths as they are now."""
        then, now = state_dict["dirpath"], str(self.dirpath)
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: state_dict[name].replace(then, now) for name in paths}
        best = {path.replace(then, now): s for path, s in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": now})


class EpochLines(pl.Callback):
    """One line an epoch, where no terminal shows a bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's metrics."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in sorted(found.items()))
        print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {numbers}", flush=True)  # noqa: T201


def _quiet_lightning() -> None:
    """Leave out Lightning's tips: about its cloud, and about loaders that are as we want them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


@contextmanager
def _usual_interrupt(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C as everywhere: Lightning would exit without a word and leave signals ignored."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as err:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, usual)
        raise KeyboardInterrupt from err


def _check_empty(folder: Path) -> None:
    if any((folder / name).is_file() for name in (BEST, LAST)):
        raise CheckpointError(
            f"{folder} already holds checkpoints; pass --resume, --overwrite or another --name"
        )


def _check_resume(last: Path, facts: Facts) -> None:
    """A run goes on only as it began: the schedule and the weights are of that recipe."""
    if not last.is_file():
        raise CheckpointError(f"nothing to resume: no checkpoint at {last}")
    given = read_checkpoint(last)[ENTRY]
    was = {**given.get("recipe", {}), "labels": given.get("labels")}
    now = {**facts.recipe, "labels": list(facts.labels)}
    changed = sorted(name for name in was if was[name] != now.get(name))
    changed = [name for name in changed if name not in ("workers", "init")]
    if changed:
        raise CheckpointError(
            f"{last} was trained with {changed[0]} {was[changed[0]]!r}, now it is "
            f"{now.get(changed[0])!r}; resume as it began, or start anew under another --name"
        )


def _remove_checkpoints(folder: Path) -> None:
    for name in (BEST, LAST):
        (folder / name).unlink(missing_ok=True)


def _best_top1(trainer: pl.Trainer) -> float:
    keeper: Any = trainer.checkpoint_callback
    score = float(keeper.best_model_score)
    return score if math.isfinite(score) else 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.fit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="demo", help="shipped recipe or YAML file")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="folder of the run (default artifacts/NAME)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace the run's checkpoints")
    return parser


def _overrides(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set wants FIELD=VALUE, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.fit`."""
    options = _parser().parse_args(argv)
    recipe = load_recipe(options.recipe, _overrides(options.set))
    name = options.name or Path(options.recipe).stem
    run = options.out or ARTIFACTS / name
    best = fit(
        recipe,
        options.data,
        run,
        name=name,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    top1 = read_checkpoint(best)["tdrl"]["metrics"]["val_top1"]
    print(f"best checkpoint {best}: clip top-1 {top1:.1%}; next: make engine")  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_command(main))
