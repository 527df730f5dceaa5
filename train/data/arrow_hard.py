"""A hard arrow of time: few clips, distractors, camera shake and noise; no model is perfect on it.

The classes and pairs are those of train/data/arrow_of_time.py. Objects that sway but go nowhere
stand beside the acting one, the camera trembles and its sensor is noisy. All of that has the same
statistics forwards and backwards: only the action's direction tells a class from its partner.

    python -m train.data.arrow_hard --out artifacts/data/arrow_hard
    python -m train.data.arrow_hard --sheet sheet.png
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.command import run_command, say
from runtime.files import whole_file
from runtime.preprocess import Picture, PictureRule, fit_picture
from train.data.arrow_of_time import ARRAYS, ArrayClips, Part, build_part, forward_label
from train.data.arrow_render import FRAME_PX, Pose, Scene, draw_actor, render
from train.data.arrow_scene import LABELS, Rng, make_scene, make_sprite, scene_rng
from train.data.arrow_tape import Advance

# Changes with every change of the pixels, so that older data are made anew.
FORMAT = 1
SPLITS = ("train", "validation")
SWAYS_PER_ACTION = (0.5, 1.5)
SHEET_SCENES = 7


@dataclass(frozen=True, kw_only=True)
class Hardness:
    """What makes the clips hard.

    Attributes:
        distractors: Objects that sway beside the acting one.
        sway_px: How far a distractor goes from its place, pixels of 96.
        shake_px: Standard deviation of the camera's position from frame to frame, pixels of 96.
        noise: Standard deviation of the sensor's noise, of 255.
    """

    distractors: int = 2
    sway_px: float = 14.0
    shake_px: float = 1.5
    noise: float = 12.0

    def __post_init__(self) -> None:
        for name in ("distractors", "sway_px", "shake_px", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much to make; every scene is two clips, forward and reversed.

    Attributes:
        train_scenes: Scenes of the training split.
        validation_scenes: Scenes of the validation split.
        frames_per_clip: Frames of a clip.
        picture_px: Side of the pictures.
    """

    train_scenes: int = 520
    validation_scenes: int = 650
    frames_per_clip: int = 16
    picture_px: int = 48


@dataclass(frozen=True, eq=False)
class Distractor:
    """An object that sways around one place.

    Attributes:
        sprite: RGBA, see `train.data.arrow_render.draw_sprite`.
        pose: The middle of its way.
        direction: Unit vector of the way, x and y.
        sways: How often it goes there and back during the action.
        start: Where on its way it is at the action's middle, radians.
    """

    sprite: Picture
    pose: Pose
    direction: tuple[float, float]
    sways: float
    start: float

    def at(self, progress: float, sway_px: float) -> Pose:
        """Where it is when the action has come this far, 0..1."""
        offset = sway_px * math.sin(2 * math.pi * self.sways * (progress - 0.5) + self.start)
        x, y = self.direction
        return replace(
            self.pose, x_px=self.pose.x_px + offset * x, y_px=self.pose.y_px + offset * y
        )


def hard_frames(
    scene: Scene, rng: Rng, split: str, num_frames: int, picture: PictureRule, hardness: Hardness
) -> list[Picture]:
    """Frames at the segment centres of an action, made hard, as the model sees them.

    Args:
        scene: The action.
        rng: Source of everything that is added.
        split: Which digits the distractors may show.
        num_frames: Frames of the clip, >= 1.
        picture: How a frame becomes the model's input.
        hardness: What is added.
    """
    others = [_distractor(rng, split) for _ in range(hardness.distractors)]
    frames = []
    for i in range(num_frames):
        progress = (i + 0.5) / num_frames
        frame = render(scene, progress, (progress - 0.5) * scene.duration_s)
        for other in others:
            draw_actor(frame, other.sprite, other.at(progress, hardness.sway_px))
        shaken = _shaken(frame, rng.normal(0, hardness.shake_px, 2))
        noisy = shaken + rng.normal(0, 1, shaken.shape) * hardness.noise
        clean = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        frames.append(fit_picture(clean, picture))
    return frames


def hard_arrays(
    seed: int, split: str, num_scenes: int, sizes: Sizes, hardness: Hardness, advance: Advance
) -> ArrayClips:
    """Clips of a split: one a scene, in the forward direction of its pair, or `still`.

    Args:
        seed: Seed of the data set, >= 0.
        split: `train` or `validation`; they share no pixel.
        num_scenes: Clips to make, >= 1.
        sizes: Length and size of a clip.
        hardness: What makes them hard.
        advance: Called with 1 after every clip.

    Raises:
        ValueError: A number is out of range.
        DataError: The pixels are not installed.
    """
    if num_scenes < 1:
        raise ValueError(f"scenes must be >= 1, got {num_scenes}")
    picture = PictureRule(height_px=sizes.picture_px, width_px=sizes.picture_px)
    shape = (num_scenes, sizes.frames_per_clip, sizes.picture_px, sizes.picture_px, 3)
    frames = np.empty(shape, np.uint8)
    label = np.empty(num_scenes, np.int64)
    duration_s = np.empty(num_scenes, np.float64)
    for index in range(num_scenes):
        scene = make_scene(forward_label(index), seed, split, index)
        # a stream of its own: the scene is the demo's, what is added is not
        rng = np.random.default_rng((seed, LABELS.index(scene.label), index, SPLITS.index(split)))
        frames[index] = hard_frames(scene, rng, split, sizes.frames_per_clip, picture, hardness)
        label[index], duration_s[index] = LABELS.index(scene.label), scene.duration_s
        advance(1)
    return ArrayClips(frames, label, duration_s)


def build(out: Path, seed: int, sizes: Sizes, hardness: Hardness) -> None:
    """Make the data set: train, validation, labels.txt; parts that are there are kept.

    Raises:
        ValueError: A number is out of range.
        DataError: A folder in the way was not made by this command, or the pixels are missing.
    """
    for split in SPLITS:
        build_part(out, _part(seed, split, sizes, hardness))
    with whole_file(out / "labels.txt") as file:
        file.write_text("\n".join(LABELS) + "\n", encoding="utf-8")


def draw_sheet(path: Path, seed: int, hardness: Hardness) -> None:
    """One row a class of what the model sees, at twice the size, as PNG."""
    picture = PictureRule(height_px=FRAME_PX, width_px=FRAME_PX)
    rows = []
    for index in range(SHEET_SCENES):
        scene = make_scene(forward_label(2 * index), seed, "train", index)
        rng = scene_rng(seed, "train", 10_000 + index)
        rows.append(np.hstack(hard_frames(scene, rng, "train", 8, picture, hardness)))
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", sheet)
    if not done:
        raise ValueError(f"cannot encode {path}")
    with whole_file(path) as part:
        part.write_bytes(data.tobytes())


def _part(seed: int, split: str, sizes: Sizes, hardness: Hardness) -> Part:
    count = sizes.train_scenes if split == "train" else sizes.validation_scenes

    def make(folder: Path, step: Advance) -> None:
        clips = hard_arrays(seed, split, count, sizes, hardness, step)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(clips, name), allow_pickle=False)

    settings = {
        "data": "arrow_hard",
        "format": FORMAT,
        "split": split,
        "seed": seed,
        "scenes": count,
        "frames_per_clip": sizes.frames_per_clip,
        "picture_px": sizes.picture_px,
        "labels": list(LABELS),
        "hardness": vars(hardness),
    }
    return Part(split, settings, count, make)


def _distractor(rng: Rng, split: str) -> Distractor:
    x, y = rng.uniform(12, FRAME_PX - 12, 2)
    angle = rng.uniform(0, 2 * math.pi)
    return Distractor(
        sprite=make_sprite(rng, split),
        pose=Pose(
            x_px=x, y_px=y, size_px=rng.uniform(16, 30), angle_deg=rng.uniform(0, 360), opacity=1.0
        ),
        direction=(math.cos(angle), math.sin(angle)),
        sways=rng.uniform(*SWAYS_PER_ACTION),
        start=rng.uniform(0, 2 * math.pi),
    )


def _shaken(frame: Picture, offset_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """The frame from a camera that has moved; its edge is continued."""
    matrix = np.array([[1, 0, offset_px[0]], [0, 1, offset_px[1]]], np.float64)
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(
        frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.astype(np.float64)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.data.arrow_hard",
        description="Make the hard data of the ablation from pixels that packages ship.",
        epilog="examples:\n"
        "  python -m train.data.arrow_hard --out artifacts/data/arrow_hard\n"
        "  python -m train.data.arrow_hard --sheet sheet.png --noise 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the data set")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw a contact sheet")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    for group in (Sizes(), Hardness()):
        for name, value in vars(group).items():
            option = "--" + name.replace("_", "-")
            parser.add_argument(option, type=type(value), default=value, help=f"default: {value}")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m train.data.arrow_hard`."""
    options = _parser().parse_args(arguments)
    if options.out is None and options.sheet is None:
        raise ValueError("nothing to do: give --out DIR, --sheet PNG or both")
    hardness = Hardness(**{name: getattr(options, name) for name in vars(Hardness())})
    if options.sheet is not None:
        draw_sheet(options.sheet, options.seed, hardness)
        say(f"{options.sheet}: one row a class")
    if options.out is not None:
        sizes = Sizes(**{name: getattr(options, name) for name in vars(Sizes())})
        build(options.out, options.seed, sizes, hardness)
        say(f"{options.out}: {len(LABELS)} classes; next: make ablation")


if __name__ == "__main__":
    sys.exit(run_command(main))
