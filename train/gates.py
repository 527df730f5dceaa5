"""Does PEM matter in this model? Its gates over the validation clips, and top-1 without them.

    python -m train.gates --checkpoint artifacts/demo/checkpoint/best.ckpt \
        --data artifacts/data/arrow_of_time
    python -m train.gates --checkpoint best.ckpt --data ssv2 --out gates.json

For every block: mean and standard deviation of the gate a_t over clips, frames and channels, the
deviation from each channel's own mean, and how far the gate moves from a frame to the next. Then
clip top-1 with a_t as trained, with every channel's gate held at its mean (what is lost there is
what PEM says about the clip), and with all gates at 0.5 (PEM as it was before training).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.artifacts import default_checkpoint
from runtime.command import run_command, say
from runtime.errors import CheckpointError
from runtime.files import write_json
from train.checkpoint import load_checkpoint
from train.data.catalog import load_split
from train.data.views import view_set
from train.model.activations import unit_names
from train.model.pem import Pem
from train.model.tdrl import Tdrl
from train.models import as_table
from train.protocols import Answers, ViewSet, answer_views, parse_protocol

PROTOCOL = "1x1"
HEADER = ("block", "channels", "mean a", "std a", "std in a channel", "|a_t - a_t-1|")


@dataclass(frozen=True)
class BlockGates:
    """One block's gate a_t over all clips.

    Attributes:
        block: Its name in the backbone.
        channels: Channels C.
        mean: Mean over clips, frames and channels, 0..1.
        std: Standard deviation over the same.
        std_in_channel: Root mean square distance from the channel's own mean: what follows the
            clips and frames, without what differs between channels only.
        change: Mean |a_t - a_{t-1}|; 0 for clips of one frame.
    """

    block: str
    channels: int
    mean: float
    std: float
    std_in_channel: float
    change: float


@dataclass(frozen=True)
class Held:
    """Clip accuracy with gates held.

    Attributes:
        top1: 0..1.
        changed: Share of clips whose answer is another than as trained, 0..1.
    """

    top1: float
    changed: float


@dataclass(frozen=True)
class GateReport:
    """What PEM does in a model.

    Attributes:
        blocks: Their gates, in the order of the data.
        clips: How many clips were seen.
        top1: Clip top-1 as trained, 0..1.
        at_mean: With every channel's gate at its mean over clips and frames, in all blocks.
        at_half: With all gates at 0.5.
    """

    blocks: tuple[BlockGates, ...]
    clips: int
    top1: float
    at_mean: Held
    at_half: Held

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


class _Seen:
    """Running sums of a block's gate a_t, float64."""

    def __init__(self, channels: int) -> None:
        self.count, self.count_changes = 0, 0  # values a channel
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.changes = torch.zeros(channels, dtype=torch.float64)

    def add(self, gate: Tensor) -> None:
        """Add a_t of some clips, shape (N, T, C)."""
        gate = gate.cpu().double()
        rows = gate.flatten(0, 1)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += rows.square().sum(0)
        changes = gate.diff(dim=1).abs().flatten(0, 1)
        self.count_changes += len(changes)
        self.changes += changes.sum(0)

    @property
    def mean(self) -> Tensor:
        """Each channel's mean, shape (C,)."""
        return self.total / self.count

    def summary(self, block: str) -> BlockGates:
        """The sums as numbers for people."""
        mean = self.mean
        inner = (self.squares / self.count - mean.square()).clamp_min(0).mean()
        return BlockGates(
            block=block,
            channels=len(mean),
            mean=float(mean.mean()),
            std=float((inner + mean.var(correction=0)).sqrt()),
            std_in_channel=float(inner.sqrt()),
            change=float(self.changes.mean()) / max(1, self.count_changes),
        )


def gate_report(model: Tdrl, views: ViewSet, *, workers: int = 0) -> GateReport:
    """Measure the gates of a model, and its accuracy with and without them.

    Args:
        model: A model with PEM, in evaluation mode.
        views: Its clips; they are read three times.
        workers: Processes that read; 0 reads in this one.

    Raises:
        DataError: Too many clips cannot be read.
        ValueError: The model has no PEM.
    """
    pems = {name: unit.pem for name, unit in unit_names(model).items() if unit.pem is not None}
    if not pems:
        raise ValueError("the model has no PEM, so it has no gates")
    seen = {name: _Seen(pem.attend.out_features) for name, pem in pems.items()}
    with _hooks(pems, lambda name: _watch(seen[name])):
        trained = answer_views(model, views, workers=workers, title="clips as trained")
    means = {name: sums.mean for name, sums in seen.items()}
    with _hooks(pems, lambda name: _hold(means[name])):
        at_mean = answer_views(model, views, workers=workers, title="gates at their mean")
    halves = {name: torch.full_like(mean, 0.5) for name, mean in means.items()}
    with _hooks(pems, lambda name: _hold(halves[name])):
        at_half = answer_views(model, views, workers=workers, title="gates at 0.5")
    return GateReport(
        blocks=tuple(sums.summary(name) for name, sums in seen.items()),
        clips=len(trained.label),
        top1=_top1(trained),
        at_mean=_held(at_mean, trained),
        at_half=_held(at_half, trained),
    )


_Hook = Callable[[Any, Any, Tensor], Tensor | None]


def _watch(seen: _Seen) -> _Hook:
    def hook(_: Any, __: Any, output: Tensor) -> None:
        seen.add(output.sigmoid())

    return hook


def _hold(gate: Tensor) -> _Hook:
    """Give a_t of shape (C,) to every frame."""

    def hook(_: Any, __: Any, output: Tensor) -> Tensor:
        return gate.logit().to(output).expand_as(output)

    return hook


@contextmanager
def _hooks(pems: Mapping[str, Pem], make: Callable[[str], _Hook]) -> Iterator[None]:
    """Hooks behind W_a m_t, whose sigmoid is the gate; the model is left as it was."""
    handles = [pem.attend.register_forward_hook(make(name)) for name, pem in pems.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _top1(answers: Answers) -> float:
    return float((answers.probs.argmax(1) == answers.label).mean())


def _held(answers: Answers, trained: Answers) -> Held:
    changed = answers.probs.argmax(1) != trained.probs.argmax(1)
    return Held(_top1(answers), float(np.mean(changed)))


def gate_table(report: GateReport) -> str:
    """The report for people."""
    rows = [
        (one.block, str(one.channels))
        + tuple(f"{v:.3f}" for v in (one.mean, one.std, one.std_in_channel, one.change))
        for one in report.blocks
    ]
    held = {"gates at their mean": report.at_mean, "gates at 0.5": report.at_half}
    lines = [
        f"{name:<20} {one.top1:7.1%}   {one.changed:.1%} of the answers change"
        for name, one in held.items()
    ]
    return "\n".join(
        [
            as_table([HEADER, *rows]),
            "",
            f"clip top-1 of {report.clips} clips",
            f"{'as trained':<20} {report.top1:7.1%}",
            *lines,
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.gates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="a model with PEM (default: the newest run's best)"
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--split", default="validation", help="default: validation")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON too")
    parser.add_argument("--workers", type=int, default=0, help="processes that read (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.gates`."""
    given = _parser().parse_args(argv)
    if given.workers < 0:
        raise ValueError(f"--workers must be >= 0, got {given.workers}")
    checkpoint = given.checkpoint or default_checkpoint()
    model, facts = load_checkpoint(checkpoint)
    if not facts.model.unit.pem:
        raise CheckpointError(
            f"{checkpoint} has no PEM, so it has no gates; give a checkpoint of a recipe with "
            "`pem: true`"
        )
    split = load_split(given.data, given.split, facts.labels)
    sampling = facts.sampling
    views = view_set(
        split, facts.picture, sampling.num_segments, sampling.window_s, parse_protocol(PROTOCOL)
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    report = gate_report(model, views, workers=given.workers)
    say(gate_table(report))
    if given.out is not None:
        write_json(given.out, {"checkpoint": checkpoint.name, **report.to_json()})
        say(f"numbers: {given.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
