"""Draw what TDRL does inside, for any clip: the two pictures of the paper.

    python -m train.visualize clip.mp4
    python -m train.visualize clip.mp4 --checkpoint td.ckpt --compare no_td.ckpt --out pictures

`enhancement.png`: the channels PEM enhances most and least, in the first block with a temporal
unit (a ResNet's res2), over the frames. `temporal_module.png`: a feature map before and after the
temporal module, of one model or of two side by side, as with and without TD loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.artifacts import ARTIFACTS, default_checkpoint
from runtime.command import run_command, say
from runtime.errors import CheckpointError, DataError
from runtime.files import whole_file, write_json
from runtime.preprocess import fit_picture
from train.checkpoint import Facts, load_checkpoint
from train.data.clips import clip_tensor
from train.data.decode import DEFAULT_FPS, open_frames
from train.data.sampling import indices_nearest, segment_times
from train.model.activations import (
    UnitActivations,
    enhanced_channels,
    first_tapped,
    frame_similarity,
    most_changed_channel,
    unit_activations,
    unit_names,
)
from train.model.tdrl import Tdrl

PICTURES = ARTIFACTS / "visualize"
NUM_CHANNELS = 10
CELL = 0.96  # of a map's place in its strip; the rest is the gap
MOST_ACROSS = 8  # frames of a clip whose two halves stand side by side
INK = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 0.6}
DPI = 130


@dataclass(frozen=True)
class Stretch:
    """The part of a recording that is drawn; None takes its start or end, seconds."""

    path: Path
    start_s: float | None = None
    end_s: float | None = None
    fps: float = DEFAULT_FPS


@dataclass(frozen=True, eq=False)
class Seen:
    """A model and the clip it saw: pictures (T, h, w, 3) uint8 at times (T,) seconds."""

    model: Tdrl
    facts: Facts
    pictures: NDArray[np.uint8]
    times_s: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Strip:
    """One row of a figure: maps (T, H, W) of one channel and what stands beside them.

    Attributes:
        maps: The maps.
        name: At its left.
        notes: One short text a map, or none.
        limits: Values of the colour scale's two ends.
    """

    maps: NDArray[np.float32]
    name: str
    notes: Sequence[str]
    limits: tuple[float, float]


def visualize(
    stretch: Stretch,
    checkpoint: Path,
    out: Path,
    *,
    compare: Path | None = None,
    block: str | None = None,
    channel: int | None = None,
) -> dict[str, Any]:
    """Draw both figures and write `visualize.json` with the channels and numbers in them.

    Args:
        stretch: The clip.
        checkpoint: A model with PEM.
        out: Folder for the pictures.
        compare: A second model for `temporal_module.png`, as one trained without TD loss.
        block: Block of `temporal_module.png`; None takes the first the TD loss reads.
        channel: Its channel; None takes the one each temporal module changes most.

    Returns:
        What `visualize.json` holds.

    Raises:
        CheckpointError: A checkpoint cannot be used, or has no PEM or no temporal module.
        DataError: The clip cannot be read.
        ValueError: No such block or channel.
    """
    models = [load_checkpoint(path) for path in (checkpoint, compare) if path is not None]
    _require_parts(models, checkpoint)
    seen = [_see(model, facts, stretch) for model, facts in models]
    found: dict[str, Any] = {"clip": stretch.path.name}
    found["enhancement"] = draw_enhancement(seen[0], out / "enhancement.png")
    found["temporal_module"] = draw_temporal_module(
        seen, out / "temporal_module.png", block=block, channel=channel
    )
    write_json(out / "visualize.json", found)
    return found


def draw_enhancement(seen: Seen, path: Path) -> dict[str, Any]:
    """The channels with the largest and the smallest enhancement, in the first unit's block.

    Args:
        seen: A model with PEM and its clip.
        path: The PNG.

    Returns:
        The block, and the channels with their mean a_t.
    """
    block = next(iter(unit_names(seen.model)))
    unit = unit_activations(seen.model, clip_tensor(seen.pictures), block)
    gates = unit.attention
    if gates is None:
        raise CheckpointError(f"{seen.facts.name} has no PEM: nothing is enhanced")
    most, least = enhanced_channels(gates, NUM_CHANNELS)
    columns = {
        f"the {len(most)} channels with the largest mean $a_t$": _channel_strips(unit, gates, most),
        f"the {len(least)} channels with the smallest mean $a_t$": _channel_strips(
            unit, gates, least
        ),
    }
    title = (
        f"PEM's enhancement in {_place(block)}, the first with a temporal unit: "
        "feature maps $X_t$, their gate $a_t$ in white\n"
        f"{seen.facts.name}: {_answer(seen.facts, unit)}"
    )
    bar = "response, on each channel's own scale"
    _draw(columns, seen, title, bar, path)
    mean = gates.mean(0)
    return {
        "block": block,
        "largest": [{"channel": c, "mean_attention": float(mean[c])} for c in most],
        "smallest": [{"channel": c, "mean_attention": float(mean[c])} for c in least],
    }


def draw_temporal_module(
    seen: Sequence[Seen], path: Path, *, block: str | None = None, channel: int | None = None
) -> list[dict[str, Any]]:
    """A feature map before and after the temporal module, of each model.

    Channels of two models have nothing to do with each other, so each shows its own.

    Args:
        seen: One model or two, and their clips.
        path: The PNG.
        block: Block to show; None takes the first the TD loss reads.
        channel: Channel to show; None takes the one the temporal module changes most.

    Returns:
        For each model the block, the channel and the mean cosine between frames.

    Raises:
        ValueError: No such block or channel.
    """
    strips: list[Strip] = []
    found: list[dict[str, Any]] = []
    for one in seen:
        name = block or first_tapped(one.model)
        unit = unit_activations(one.model, clip_tensor(one.pictures), name)
        number = most_changed_channel(unit) if channel is None else channel
        if not 0 <= number < unit.entry.shape[1]:
            raise ValueError(
                f"channel must be in 0..{unit.entry.shape[1] - 1} in {name}, got {number}"
            )
        before, after = unit.before[:, number], unit.after[:, number]
        limits = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
        cosines = [frame_similarity(maps) for maps in (before, after)]
        for when, maps, cosine in zip(("before", "after"), (before, after), cosines, strict=True):
            label = f"{one.facts.name}\n{when} TM\nch {number}\ncosine {cosine:.2f}"
            strips.append(Strip(maps.numpy(), label, (), limits))
        found.append(
            {
                "model": one.facts.name,
                "td_loss": one.facts.recipe.get("td_loss"),
                "block": name,
                "channel": number,
                "cosine_before": cosines[0],
                "cosine_after": cosines[1],
            }
        )
    names = " and ".join(_with_loss(entry) for entry in found)
    title = (
        f"Feature map before and after the temporal module, {_place(found[0]['block'])}\n"
        f"{names}; cosine: mean between different frames"
    )
    bar = "response, one scale for a model's two rows"
    _draw({"": strips}, seen[0], title, bar, path)
    return found


def _require_parts(models: Sequence[tuple[Tdrl, Facts]], checkpoint: Path) -> None:
    if not models[0][1].model.unit.pem:
        raise CheckpointError(
            f"{checkpoint} has no PEM, so there is no enhancement to draw; give a checkpoint of a "
            "recipe with `pem: true`, the other one as --compare"
        )
    for _, facts in models:
        if facts.model.unit.temporal == "none":
            raise CheckpointError(
                f"{facts.name} has no temporal module (`temporal: none`): before and after it are "
                "the same; give a checkpoint of a recipe with one"
            )


def _see(model: Tdrl, facts: Facts, stretch: Stretch) -> Seen:
    """The clip at segment centres, as the model's test protocol takes it."""
    with open_frames(stretch.path, fps=stretch.fps) as reader:
        times_s = reader.times_s
        start_s = float(times_s[0]) if stretch.start_s is None else stretch.start_s
        file_end_s = float(times_s[-1]) + reader.frame_s
        end_s = file_end_s if stretch.end_s is None else min(stretch.end_s, file_end_s)
        if not end_s > start_s:
            raise DataError(
                f"nothing of {stretch.path} ({times_s[0]:.2f}..{file_end_s:.2f} s) lies between "
                f"{start_s:g} and {stretch.end_s} s; correct --start-s and --end-s"
            )
        wanted_s = segment_times(start_s, end_s, facts.sampling.num_segments)
        chosen = indices_nearest(wanted_s, times_s + reader.frame_s / 2)
        pictures = [fit_picture(frame, facts.picture) for frame in reader.frames(chosen)]
    return Seen(model, facts, np.stack(pictures), times_s[chosen])


def _channel_strips(
    unit: UnitActivations, attention: Tensor, channels: Sequence[int]
) -> list[Strip]:
    strips = []
    for channel in channels:
        maps, gates = unit.entry[:, channel].numpy(), attention[:, channel]
        notes = [f"{float(gate):.3f}" for gate in gates]
        name = f"ch {channel}\nmean {float(gates.mean()):.3f}"
        strips.append(Strip(maps, name, notes, (float(maps.min()), float(maps.max()))))
    return strips


def _draw(
    columns: Mapping[str, Sequence[Strip]], seen: Seen, title: str, bar: str, path: Path
) -> None:
    """The strips of each entry under the input frames; side by side where the clip is short."""
    from matplotlib.figure import Figure

    T, rows = len(seen.pictures), 1 + max(len(strips) for strips in columns.values())
    across = len(columns) if T <= MOST_ACROSS else 1
    down = rows * len(columns) // across
    cell = 0.85 if len(columns) > 1 else 1.25
    height = cell * max(0.5, seen.pictures.shape[1] / seen.pictures.shape[2])
    size = (across * (T * cell + 1.0) + 0.3, down * (height + 0.1) + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    places = axes.T.reshape(len(columns), rows)
    for (name, strips), (top, *below) in zip(columns.items(), places, strict=True):
        _draw_strip(top, seen.pictures, "input", (0.0, 255.0))
        top.set_title(name, fontsize=10)
        top.set_xticks(
            np.arange(T) + CELL / 2, [f"{t:.2f} s" for t in seen.times_s], fontsize=7
        )  # fmt: skip
        top.tick_params(length=0)
        for axis, strip in zip(below, strips, strict=False):
            image = _draw_strip(axis, strip.maps, strip.name, strip.limits)
            for t, note in enumerate(strip.notes):
                axis.text(t + 0.02, 0.02, note, color="white", fontsize=6, va="top", bbox=INK)
    figure.suptitle(title, fontsize=11)
    scale = figure.colorbar(
        image, ax=axes[:, :], orientation="horizontal", fraction=0.02, aspect=60, label=bar
    )
    scale.set_ticks(image.get_clim(), labels=["smallest", "largest"])
    with whole_file(path) as part:
        figure.savefig(part, dpi=DPI)


def _draw_strip(axis: Any, maps: NDArray[Any], name: str, limits: tuple[float, float]) -> Any:
    """Maps (T, H, W) or pictures (T, H, W, 3) side by side; the last one's image."""
    height = CELL * maps.shape[1] / maps.shape[2]
    low, high = limits
    for t, one in enumerate(maps):
        image = axis.imshow(
            one,
            cmap="viridis",
            vmin=low,
            vmax=max(high, low + 1e-12),
            extent=(t, t + CELL, height, 0),
            interpolation="nearest",
        )
    axis.set(xlim=(0, len(maps) - 1 + CELL), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def _place(block: str) -> str:
    stages = {f"layer{stage}": f"res{stage + 1}" for stage in (1, 2, 3, 4)}
    stage = stages.get(block.split(".")[0])
    return f"block {block} of {stage}" if stage else f"block {block}"


def _with_loss(entry: dict[str, Any]) -> str:
    weight = entry["td_loss"]
    return entry["model"] if weight is None else f"{entry['model']} (TD loss λ = {weight:g})"


def _answer(facts: Facts, unit: UnitActivations) -> str:
    probs = unit.logits.softmax(0)
    best = int(probs.argmax())
    return f"answers “{facts.labels[best]}” with {float(probs[best]):.0%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video", type=Path, help="video file, or a folder of numbered pictures")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=default_checkpoint(),
        help="a model with PEM (default: the newest run's best)",
    )
    parser.add_argument("--compare", type=Path, help="a second model, as without TD loss")
    parser.add_argument("--start-s", type=float, metavar="S", help="default: the clip's start")
    parser.add_argument("--end-s", type=float, metavar="S", help="default: the clip's end")
    parser.add_argument(
        "--fps", type=float, default=DEFAULT_FPS, help="of a folder of pictures (default: 25)"
    )
    parser.add_argument(
        "--block", help="block of temporal_module.png, as layer2.0 (default: the first tapped)"
    )
    parser.add_argument(
        "--channel", type=int, help="its channel (default: the one that changes most)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for the pictures (default: artifacts/visualize/ and the clip's name)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.visualize`."""
    given = _parser().parse_args(argv)
    stretch = Stretch(given.video, given.start_s, given.end_s, given.fps)
    out = given.out or PICTURES / given.video.absolute().stem
    visualize(
        stretch,
        given.checkpoint,
        out,
        compare=given.compare,
        block=given.block,
        channel=given.channel,
    )
    say(f"pictures: {out / 'enhancement.png'} and {out / 'temporal_module.png'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
