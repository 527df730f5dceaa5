"""Train a model and leave the best checkpoint.

python -m train.fit --recipe demo --data artifacts/data/arrow_of_time
python -m train.fit --recipe my.yaml --data my_data --name kitchen --set epochs=40
python -m train.fit --recipe my.yaml --data my_data --name kitchen --resume
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
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
from train.checkpoint import Facts, load_weights, read_checkpoint, update_facts
from train.data.catalog import Split, load_split, read_labels
from train.data.clips import ClipRule, EpochSampler, Item
from train.live_evaluation import fit_consensus
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig
from train.model.weights import load_backbone_weights
from train.module import GRADIENT_CLIP_NORM, TdrlModule
from train.recipe import Recipe, load_recipe

BEST = "best.ckpt"
LAST = "last.ckpt"
EVALUATION_BATCH = 64


def fit(recipe: Recipe, data: Path, run: Path, *, name: str, resume: bool = False) -> Path:
    """Train by a recipe.

    Args:
        recipe: What to do.
        data: Data folder with `labels.txt`, `train/` and `validation/`; a `tape_validation/`
            fits the consensus length.
        run: Folder of the run; checkpoints go to its `checkpoint/`.
        name: Name of the run.
        resume: Go on from the run's last checkpoint.

    Returns:
        The best checkpoint by validation accuracy.

    Raises:
        DataError: The data cannot be used.
        CheckpointError: `recipe.init` or the last checkpoint cannot be used.
    """
    labels = read_labels(data, recipe.exclude)
    train = load_split(data, "train", labels)
    validation = load_split(data, "validation", labels)
    facts = facts_of(recipe, train, name)
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    module = TdrlModule(recipe, facts)
    if recipe.init is not None and not resume:
        initialise(module.model, Path(recipe.init))
    folder = run / "checkpoint"
    trainer = _trainer(recipe, folder)
    _check_folder(folder, resume)
    trainer.fit(
        module,
        _loader(train, facts, recipe, shuffle=True),
        _loader(validation, facts, recipe, shuffle=False),
        ckpt_path=str(folder / LAST) if resume else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    best = folder / BEST
    facts = update_facts(best, metrics={"val_top1": _best_top1(trainer)})
    if (data / "tape_validation").is_dir() and recipe.form == "causal":
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
    )
    clips = split.clips(facts.picture, rule)
    if shuffle and len(clips) < recipe.batch_size:
        raise DataError(
            f"{len(clips)} training clips are fewer than one batch of {recipe.batch_size}; "
            "add clips or set batch_size lower"
        )
    return DataLoader(
        clips,
        batch_size=recipe.batch_size if shuffle else EVALUATION_BATCH,
        sampler=EpochSampler(len(clips), seed=recipe.seed, shuffle=shuffle),
        drop_last=shuffle,
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _trainer(recipe: Recipe, folder: Path) -> pl.Trainer:
    _quiet_lightning()
    keep_best = ModelCheckpoint(
        folder,
        filename=Path(BEST).stem,
        monitor="val/top1",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if bfloat16 else "32-true",
        gradient_clip_val=GRADIENT_CLIP_NORM,
        logger=CSVLogger(folder.parent, name="logs", version=""),
        callbacks=[keep_best, TQDMProgressBar(refresh_rate=5)],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )


def _quiet_lightning() -> None:
    """Leave out Lightning's tips: about its cloud, and about loaders that are as we want them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


def _check_folder(folder: Path, resume: bool) -> None:
    last = folder / LAST
    if resume and not last.is_file():
        raise CheckpointError(f"nothing to resume: no checkpoint at {last}")
    if not resume and last.is_file():
        raise CheckpointError(
            f"{folder} already holds checkpoints; pass --resume, --overwrite or another --name"
        )


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
    if options.overwrite and not options.resume:
        for old in (BEST, LAST):
            (run / "checkpoint" / old).unlink(missing_ok=True)
    best = fit(recipe, options.data, run, name=name, resume=options.resume)
    top1 = read_checkpoint(best)["tdrl"]["metrics"]["val_top1"]
    print(f"best checkpoint {best}: clip top-1 {top1:.1%}; next: make engine")  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_command(main))
