"""The demo's data set, made on this machine in a minute: which way does time run?

Six pairs of classes hold the same frames in reverse order, and `still`. The pixels are real and
come with scikit-learn and scikit-image; nothing is downloaded.

    python -m train.data.arrow_of_time --out artifacts/data/arrow_of_time
    python -m train.data.arrow_of_time --sheet sheet.png
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.command import run_command, say
from runtime.errors import DataError
from runtime.files import whole_file, write_json
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.arrow_render import Scene, render
from train.data.arrow_scene import LABELS, PAIRS, WINDOW_S, make_scene
from train.data.arrow_sheet import write_sheet
from train.data.arrow_tape import FPS, Advance, no_news, write_clips, write_tape

__all__ = ["LABELS", "PAIRS", "WINDOW_S", "ArrayClips", "build", "load_arrays", "train_arrays"]

# Changes with every change of the pixels, so that older data are made anew.
FORMAT = 3
ARRAYS = ("frames", "label", "duration_s")
SETTINGS_JSON = "data.json"


@dataclass(frozen=True, eq=False)
class ArrayClips:
    """Clips of equal size in memory, or mapped from files.

    Attributes:
        frames: Shape (B, R, h, w, 3), uint8, RGB; frame i of a clip is at (i + 0.5) / R of it.
        label: Shape (B,), int64, indices into LABELS.
        duration_s: Shape (B,), float64, seconds a clip lasts.
    """

    frames: NDArray[np.uint8]
    label: NDArray[np.int64]
    duration_s: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each part to make.

    Attributes:
        train_scenes: Clips in the training arrays; each is two classes, forward and reversed.
        frames_per_clip: Frames of a training clip.
        picture_px: Side of the training pictures.
        validation_clips: Validation clips of each class.
        calibration_clips: Calibration clips of each class.
        tape_actions: Actions on the tape.
        tape_validation_actions: Actions on the validation tape.
    """

    train_scenes: int = 2080
    frames_per_clip: int = 16
    picture_px: int = 48
    validation_clips: int = 70
    calibration_clips: int = 16
    tape_actions: int = 120
    tape_validation_actions: int = 80


@dataclass(frozen=True)
class Part:
    """One folder of the data set.

    Attributes:
        name: The folder's name, and the split.
        settings: Everything its content depends on.
        total: Steps of the progress bar.
        make: Fills an empty folder; calls its second argument after each step.
    """

    name: str
    settings: dict[str, Any]
    total: int
    make: Callable[[Path, Advance], object]


def clip_frames(scene: Scene, num_frames: int, picture: PictureRule) -> list[Picture]:
    """Frames at the segment centres of an action, as the model sees them.

    The centres are symmetric in time: the reversed list is a clip of the partner class.
    """
    centres = [(i + 0.5) / num_frames for i in range(num_frames)]
    return [fit_picture(render(scene, u, (u - 0.5) * scene.duration_s), picture) for u in centres]


def train_arrays(
    seed: int,
    num_scenes: int,
    picture: PictureRule,
    *,
    frames_per_clip: int = 16,
    advance: Advance = no_news,
) -> ArrayClips:
    """Training clips: one a scene, in the forward direction of its pair, or `still`.

    The partner class is the same clip with its frames reversed. Once every clip is used in both
    directions, all thirteen classes are equally frequent.

    Args:
        seed: Seed of the data set, >= 0.
        num_scenes: Clips to make, >= 1.
        picture: How a frame becomes the model's input.
        frames_per_clip: Frames R of a clip, >= 1.
        advance: Called with 1 after every clip.

    Raises:
        ValueError: A number is out of range.
        DataError: The pixels are not installed.
    """
    for name, value in (("num_scenes", num_scenes), ("frames_per_clip", frames_per_clip)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    frames = np.empty(
        (num_scenes, frames_per_clip, picture.height_px, picture.width_px, 3), np.uint8
    )
    label = np.empty(num_scenes, np.int64)
    duration_s = np.empty(num_scenes, np.float64)
    for index in range(num_scenes):
        scene = make_scene(forward_label(index), seed, "train", index)
        frames[index] = clip_frames(scene, frames_per_clip, picture)
        label[index] = LABELS.index(scene.label)
        duration_s[index] = scene.duration_s
        advance(1)
    return ArrayClips(frames, label, duration_s)


def load_arrays(folder: Path) -> ArrayClips:
    """Training clips from a data set's `train` folder; frames stay on the disk until used.

    Raises:
        DataError: The folder is missing, unfinished or not readable.
    """
    if not (folder / SETTINGS_JSON).is_file():
        raise DataError(f"{folder} holds no finished data; run python -m train.data.arrow_of_time")
    try:
        arrays = [
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        ]
    except (OSError, ValueError) as err:
        raise DataError(f"{folder} is damaged: {err}; delete it and make it again") from err
    return ArrayClips(*arrays)


def build(out: Path, seed: int, sizes: Sizes) -> dict[str, float]:
    """Make the data set: train, validation, calibration, tape, tape_validation, labels.txt.

    A part that is there with the same settings is kept. A part is made beside its place and
    renamed when it is complete, so an interrupted run leaves nothing that looks finished.

    Args:
        out: The data set's folder.
        seed: Seed of everything, >= 0.
        sizes: How much of each part to make.

    Returns:
        Seconds each part took; a part that was kept took 0.

    Raises:
        ValueError: A size or the seed is out of range.
        DataError: A folder in the way was not made by this command, or the pixels are missing.
    """
    seconds = {part.name: build_part(out, part) for part in _parts(seed, sizes)}
    with whole_file(out / "labels.txt") as file:
        file.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its status."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def forward_label(index: int) -> str:
    """The class of a forward scene: pairs are equally frequent, `still` comes half as often."""
    label = LABELS[index % len(LABELS)]
    return min(label, PAIRS[label], key=LABELS.index)


def _parts(seed: int, sizes: Sizes) -> list[Part]:
    def clips(split: str, count: int) -> Part:
        settings = _settings(seed, split, clips_per_class=count, fps=FPS)
        total = count * len(LABELS)
        return Part(
            split, settings, total, lambda to, step: write_clips(to, seed, split, count, step)
        )

    def tape(split: str, count: int) -> Part:
        settings = _settings(seed, split, num_actions=count, fps=FPS)
        return Part(
            split, settings, count, lambda to, step: write_tape(to, seed, split, count, step)
        )

    return [
        _train_part(seed, sizes),
        clips("validation", sizes.validation_clips),
        clips("calibration", sizes.calibration_clips),
        tape("tape", sizes.tape_actions),
        tape("tape_validation", sizes.tape_validation_actions),
    ]


def _train_part(seed: int, sizes: Sizes) -> Part:
    picture = PictureRule(height_px=sizes.picture_px, width_px=sizes.picture_px)
    count, length = sizes.train_scenes, sizes.frames_per_clip
    settings = _settings(
        seed, "train", num_scenes=count, frames_per_clip=length, picture=picture.to_json()
    )

    def make(folder: Path, step: Advance) -> None:
        clips = train_arrays(seed, count, picture, frames_per_clip=length, advance=step)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(clips, name), allow_pickle=False)

    return Part("train", settings, count, make)


def _settings(seed: int, split: str, **more: Any) -> dict[str, Any]:
    return {
        "data": "arrow_of_time",
        "format": FORMAT,
        "split": split,
        "seed": seed,
        "window_s": WINDOW_S,
        "labels": list(LABELS),
        **more,
    }


def build_part(out: Path, part: Part) -> float:
    """Make one folder of a data set unless it is there with the same settings.

    Returns:
        Seconds it took; 0 if it was kept.

    Raises:
        DataError: A folder in the way was not made by this command.
    """
    folder, unfinished = out / part.name, out / f".{part.name}.part"
    if folder.exists() and _settings_of(folder) == part.settings:
        return 0.0
    started = time.perf_counter()
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with tqdm(total=part.total, desc=part.name, leave=False, disable=None) as bar:
        part.make(unfinished, bar.update)
    write_json(unfinished / SETTINGS_JSON, part.settings)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.replace(folder)
    return time.perf_counter() - started


def _settings_of(folder: Path) -> Any:
    """What a part was made with; only a folder that says so may be replaced."""
    try:
        settings = json.loads((folder / SETTINGS_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DataError(
            f"{folder} is in the way and was not made by this command: move it or change --out"
        ) from err
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.data.arrow_of_time",
        description="Make the demo's data set from pixels that packages ship.",
        epilog="examples:\n"
        "  python -m train.data.arrow_of_time --out artifacts/data/arrow_of_time\n"
        "  python -m train.data.arrow_of_time --out /tmp/aot --train-scenes 130 --tape-actions 26\n"
        "  python -m train.data.arrow_of_time --sheet sheet.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the data set")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw a contact sheet")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    defaults = vars(Sizes())
    for name, text in _SIZE_HELP.items():
        option, default = "--" + name.replace("_", "-"), defaults[name]
        parser.add_argument(option, type=int, default=default, help=f"{text}; default: {default}")
    return parser


_SIZE_HELP = {
    "train_scenes": "training clips, each of them two classes",
    "frames_per_clip": "frames of a training clip",
    "picture_px": "side of the training pictures in pixels",
    "validation_clips": "validation clips of each class",
    "calibration_clips": "calibration clips of each class",
    "tape_actions": "actions on the tape",
    "tape_validation_actions": "actions on the validation tape",
}


def _run(options: argparse.Namespace) -> None:
    if options.out is None and options.sheet is None:
        raise ValueError("nothing to do: give --out DIR, --sheet PNG or both")
    sizes = Sizes(**{name: getattr(options, name) for name in _SIZE_HELP})
    if options.sheet is not None:
        picture = PictureRule(height_px=sizes.picture_px, width_px=sizes.picture_px)
        write_sheet(options.sheet, options.seed, picture)
        say(f"{options.sheet}: one row a class; right, what the model sees")
    if options.out is not None:
        seconds = build(options.out, options.seed, sizes)
        parts = ", ".join(f"{name} {_took(part_s)}" for name, part_s in seconds.items())
        say(f"{options.out}: {len(LABELS)} classes ({parts}); next: make train DATA={options.out}")


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds else "kept"


if __name__ == "__main__":
    sys.exit(main())
