"""Does the recipe `own` do what it promises? Five classes, twenty clips each, other clips to judge.

    python -m train.own_data_check
    python -m train.own_data_check --clips 10 --set epochs=15 --out /tmp/own

It makes clips as `train.collect` leaves them (a folder a class), trains by the recipe and measures
the last epoch on clips with other objects and other backgrounds. Two pairs of the classes hold the
same frames in reverse order, so pictures alone cannot reach more than 60 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.files import whole_file, write_json
from runtime.machine import measured_on
from train.data.arrow_scene import make_scene
from train.data.arrow_tape import write_clip
from train.experiment import ROOT, command

CLASSES = ("slide_left", "slide_right", "rise", "fall", "turn_clockwise")
RECIPE = "own"
HELD_OUT_PER_CLASS = 20
PAGE = ROOT / "docs" / "measurements" / "own-data.md"
RUN = ARTIFACTS / "own_data_check"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was measured.

    Attributes:
        clips_per_class: Training clips of each class.
        held_out: Clips that were judged.
        top1: Share of them that was right, 0..1.
        interval: Its 95 % bootstrap interval.
        train_s: Seconds from the start of the training command to its end.
    """

    clips_per_class: int
    held_out: int
    top1: float
    interval: tuple[float, float]
    train_s: float


def make_clips(data: Path, clips_per_class: int, seed: int = 0) -> None:
    """Write `train/CLASS/*.mp4` and `validation/CLASS/*.mp4`; the splits share no pixel.

    Args:
        data: The folder to make; what is there is replaced.
        clips_per_class: Training clips of each class, >= 1.
        seed: Seed of the scenes.

    Raises:
        ValueError: No clips.
        DataError: The pixels are not installed, or encoding failed.
    """
    if clips_per_class < 1:
        raise ValueError(f"clips must be >= 1, got {clips_per_class}")
    shutil.rmtree(data, ignore_errors=True)
    counts = {"train": clips_per_class, "validation": HELD_OUT_PER_CLASS}
    tasks = [
        (split, label, number)
        for split, count in counts.items()
        for label in CLASSES
        for number in range(count)
    ]
    for split, label, number in tqdm(tasks, desc="clips", disable=None):
        index = number * len(CLASSES) + CLASSES.index(label)
        folder = data / split / label
        folder.mkdir(parents=True, exist_ok=True)
        scene = make_scene(label, seed, split, index)
        # a session of its own: no two clips share an object or a background
        write_clip(folder / f"{label}-{number:04d}_0001.mp4", scene)
    with whole_file(data / "labels.txt") as part:
        part.write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def check(run: Path, clips_per_class: int, sets: list[str]) -> Outcome:
    """Make the clips, train by the recipe, measure the last epoch.

    Raises:
        DataError: A command failed; its last line says why.
    """
    data = run / "data"
    make_clips(data, clips_per_class)
    arguments = ["--recipe", RECIPE, "--data", str(data), "--out", str(run), "--overwrite"]
    for change in sets:
        arguments += ["--set", change]
    started = time.monotonic()
    command("train.fit", arguments)
    train_s = time.monotonic() - started
    last = str(run / "checkpoint" / "last.ckpt")
    out = run / "evaluation"
    command("train.evaluate", ["--checkpoint", last, "--data", str(data), "--out", str(out)])
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return Outcome(
        clips_per_class=clips_per_class,
        held_out=found["clips"],
        top1=found["clip_top1"],
        interval=tuple(found["clip_top1_interval"]),
        train_s=train_s,
    )


def page_of(outcome: Outcome, sets: list[str]) -> str:
    """The result as Markdown."""
    lower, upper = outcome.interval
    changes = f", changed: {', '.join(sets)}" if sets else ""
    return f"""# Own data: what a few clips are enough for

Written by `python -m train.own_data_check`. Recipe `{RECIPE}`{changes}: EfficientNet-Lite0 with the
ImageNet weights of its package. Data: {len(CLASSES)} classes ({", ".join(CLASSES)}),
made as H.264 files; held-out clips have other objects and other backgrounds. Two pairs of classes
hold the same frames in reverse order.

| training clips a class | held-out clips | clip top-1, last epoch | training |
|---|---|---|---|
| {outcome.clips_per_class} | {outcome.held_out} | {outcome.top1:.1%} ({lower:.1%} to {upper:.1%}) \
| {outcome.train_s / 60:.1f} min |

{measured_on(("torch", "pytorch-lightning", "numpy", "opencv-python", "av"))}
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.own_data_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=20, help="training clips a class (default 20)")
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the run")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.own_data_check`."""
    options = _parser().parse_args(argv)
    outcome = check(options.run, options.clips, options.set)
    write_json(options.run / "own_data.json", asdict(outcome))
    with whole_file(options.out) as part:
        part.write_text(page_of(outcome, options.set), encoding="utf-8")
    say(
        f"{outcome.top1:.1%} of {outcome.held_out} held-out clips right after "
        f"{outcome.train_s / 60:.1f} min of training; results: {options.out}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
