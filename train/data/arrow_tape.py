"""The arrow of time as videos: single clips, and long tapes with actions back to back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.preprocess import Picture
from train.data import arrow_pixels
from train.data.arrow_render import Scene, render
from train.data.arrow_scene import LABELS, make_scene
from train.data.truth import Segment, write_truth
from train.data.video_file import write_h264

FPS = 20
CLIPS_CSV = "segments.csv"
TAPE_CSV = "tape.csv"
TAPE_VIDEO = "tape.mp4"
PAUSE_SHARE = 0.5
MAX_PAUSE_S = 1.0

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Turn:
    """One action of a tape, in frames: a rest before it, the action, a rest after it."""

    scene: Scene
    num_before: int
    num_action: int
    num_after: int

    @property
    def num_frames(self) -> int:
        """Frames of the action and its two rests."""
        return self.num_before + self.num_action + self.num_after


def no_news(_: int) -> None:
    """An `advance` for callers that show no progress."""


def write_clips(
    folder: Path, seed: int, split: str, clips_per_class: int, advance: Advance = no_news
) -> list[Segment]:
    """Write one H.264 file a clip, every class equally often, and their `segments.csv`.

    Args:
        folder: Where to write; made if it is not there.
        seed: Seed of the data set, >= 0.
        split: Which pixels may be used.
        clips_per_class: Clips of each class, >= 1.
        advance: Called with 1 after every clip.

    Returns:
        The clips; each lasts as long as its file.

    Raises:
        ValueError: A number is out of range, or `split` is unknown.
        DataError: The pixels are not installed, or encoding failed.
    """
    _at_least_one("clips_per_class", clips_per_class)
    segments = []
    for index in range(clips_per_class * len(LABELS)):
        scene = make_scene(LABELS[index % len(LABELS)], seed, split, index)
        name = f"{index:05d}_{scene.label}.mp4"
        segments.append(Segment(name, 0.0, write_clip(folder / name, scene), scene.label))
        advance(1)
    write_truth(folder / CLIPS_CSV, segments)
    return segments


def write_clip(path: Path, scene: Scene) -> float:
    """Write one action as an H.264 file, and nothing before or after it.

    Args:
        path: The file to make.
        scene: The action.

    Returns:
        How long the file is, seconds.

    Raises:
        DataError: Encoding failed.
    """
    turn = Turn(scene, 0, _in_frames(scene.duration_s), 0)
    write_h264(path, turn_frames(turn), FPS)
    return turn.num_action / FPS


def write_tape(
    folder: Path, seed: int, split: str, num_actions: int, advance: Advance = no_news
) -> list[Segment]:
    """Write one long video of actions back to back, `tape.mp4`, and its truth, `tape.csv`.

    Speeds vary; about half of the actions have a rest of up to a second before or after them.
    Frames go straight to the encoder, so memory does not grow with the tape.

    Args:
        folder: Where to write; made if it is not there.
        seed: Seed of the data set, >= 0.
        split: Which pixels may be used.
        num_actions: Actions on the tape, >= 1; classes are balanced and shuffled.
        advance: Called with 1 after every action.

    Returns:
        The actions in order of time, not overlapping.

    Raises:
        ValueError: A number is out of range, or `split` is unknown.
        DataError: The pixels are not installed, or encoding failed.
    """
    _at_least_one("num_actions", num_actions)
    segments: list[Segment] = []
    write_h264(folder / TAPE_VIDEO, _tape_frames(seed, split, num_actions, segments, advance), FPS)
    write_truth(folder / TAPE_CSV, segments)
    return segments


def turn_frames(turn: Turn) -> Iterator[Picture]:
    """The frames of a turn, each (96, 96, 3) uint8 RGB.

    Action frame k shows progress (k + 0.5) / n: reversed, the action is its partner exactly.
    """
    for k in range(-turn.num_before, turn.num_action + turn.num_after):
        progress = (k + 0.5) / turn.num_action
        yield render(turn.scene, progress, (k + 0.5 - turn.num_action / 2) / FPS)


def tape_order(seed: int, split: str, num_actions: int) -> list[str]:
    """The classes of a tape in order: as balanced as the number allows, shuffled.

    Raises:
        ValueError: `seed` is negative or `split` unknown.
    """
    rng = _tape_rng(seed, split, "order")
    rounds = -(-num_actions // len(LABELS))
    # whole rounds of all classes, the last one a random part; then all are shuffled together
    picks = np.concatenate([rng.permutation(len(LABELS)) for _ in range(rounds)])[:num_actions]
    return [LABELS[i] for i in rng.permutation(picks)]


def _tape_frames(
    seed: int, split: str, num_actions: int, segments: list[Segment], advance: Advance
) -> Iterator[Picture]:
    """Frames of the whole tape; appends each action to `segments` as it is drawn."""
    pauses = _tape_rng(seed, split, "pauses")
    now = 0
    for index, label in enumerate(tape_order(seed, split, num_actions)):
        scene = make_scene(label, seed, split, index)
        action = _in_frames(scene.duration_s)
        turn = Turn(scene, _pause_frames(pauses), action, _pause_frames(pauses))
        yield from turn_frames(turn)
        start = now + turn.num_before
        segments.append(Segment(TAPE_VIDEO, start / FPS, (start + action) / FPS, label))
        now += turn.num_frames
        advance(1)


def _tape_rng(seed: int, split: str, purpose: str) -> np.random.Generator:
    # scenes have keys of two numbers, so a key of three is no scene's
    key = (arrow_pixels.split_index(split), 0, ("order", "pauses").index(purpose))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _pause_frames(rng: np.random.Generator) -> int:
    pause_s = rng.uniform(0, MAX_PAUSE_S)
    return _in_frames(pause_s) if rng.uniform() < PAUSE_SHARE else 0


def _in_frames(seconds: float) -> int:
    return round(seconds * FPS)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
