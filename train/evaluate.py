"""Measure a checkpoint: clip accuracy, live accuracy, the order control, a confusion picture.

    python -m train.evaluate --checkpoint artifacts/demo/checkpoint/best.ckpt \
        --data artifacts/data/arrow_of_time

Clip accuracy is the papers' protocol: T frames, zero state. Live accuracy is what a camera gets:
actions back to back in one stream, no reset. They stand side by side, because the difference is
the price of streaming.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from runtime.artifacts import default_checkpoint
from runtime.command import run_command
from runtime.errors import DataError
from runtime.files import write_json
from train.checkpoint import Facts, load_checkpoint
from train.confusion import confusion_matrix, draw_confusion
from train.data.arrow_of_time import PAIRS
from train.data.catalog import has_tape, load_split, load_tape
from train.data.clips import ClipRule
from train.live_evaluation import TorchSession, bundle_of, decide_tape, score_tape
from train.live_score import LiveScore
from train.model.tdrl import Tdrl

BATCH = 64


@dataclass(frozen=True, eq=False)
class Clips:
    """A split in memory: pictures (B, T, 3, H, W) uint8 and classes (B,) int64."""

    pictures: Tensor
    label: Tensor


def load_clips(data: Path, split: str, facts: Facts) -> Clips:
    """A split's clips at segment centres, as the clip protocol wants them.

    Raises:
        DataError: The split cannot be used.
    """
    rule = ClipRule(facts.sampling.num_segments, facts.sampling.spacing_s, "segments")
    clips = load_split(data, split, facts.labels).clips(facts.picture, rule)
    items = [clips[i] for i in tqdm(range(len(clips)), desc=f"{split} clips", disable=None)]
    return Clips(torch.stack([item[0] for item in items]), torch.tensor([i[1] for i in items]))


@torch.inference_mode()
def clip_logits(model: Tdrl, pictures: Tensor) -> Tensor:
    """Consensus logits (B, K) of clips (B, T, 3, H, W), in batches."""
    device = model.fc.weight.device
    batches = pictures.split(BATCH)
    return torch.cat([model(batch.to(device)).mean(1).cpu() for batch in batches])


def top1_of(logits: Tensor, label: Tensor) -> float:
    """Share of rows whose largest logit is the class, 0..1."""
    return float((logits.argmax(1) == label).double().mean())


def order_control(model: Tdrl, clips: Clips, labels: tuple[str, ...]) -> float:
    """Accuracy on exact pairs: every clip of a reversible class, forwards and backwards.

    Both clips of a pair hold the same frames, so a model that does not know their order gives
    the same answer twice and is right at most once: it cannot pass 50 %.

    Raises:
        DataError: The data have no reversible classes.
    """
    partner = {
        index: labels.index(PAIRS[name])
        for index, name in enumerate(labels)
        if PAIRS.get(name, name) != name and PAIRS[name] in labels
    }
    chosen = torch.tensor([int(c) in partner for c in clips.label])
    if not chosen.any():
        raise DataError("no reversible classes in these data: the order control needs the demo's")
    forwards, label = clips.pictures[chosen], clips.label[chosen]
    reverse = torch.tensor([partner[int(c)] for c in label])
    right = top1_of(clip_logits(model, forwards), label)
    return (right + top1_of(clip_logits(model, forwards.flip(1)), reverse)) / 2


def live_score(model: Tdrl, facts: Facts, data: Path, tape: str) -> LiveScore:
    """Live metrics of a causal model on a tape, through the runtime.

    Raises:
        DataError: The tape cannot be used.
    """
    video, truth = load_tape(data, tape, facts.labels)
    bundle = bundle_of(facts)
    with TorchSession(model) as session:
        decisions = decide_tape(bundle, session, video)
    return score_tape(bundle, decisions, truth)


def evaluate(checkpoint: Path, data: Path, out: Path) -> dict[str, Any]:
    """Measure a checkpoint and write `evaluation.json` and `confusion.png`.

    Args:
        checkpoint: What to measure.
        data: Data folder with `validation/` and, for live accuracy, `tape/`.
        out: Folder for the results.

    Returns:
        What `evaluation.json` holds.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used.
    """
    model, facts = load_checkpoint(checkpoint)
    clips = load_clips(data, "validation", facts)
    logits = clip_logits(model, clips.pictures)
    answer = logits.argmax(1).tolist()
    matrices = {"clips": confusion_matrix(clips.label.tolist(), answer, len(facts.labels))}
    result: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "clips": len(answer),
        "clip_top1": top1_of(logits, clips.label),
    }
    if set(facts.labels) <= set(PAIRS):
        result["order_control"] = order_control(model, clips, facts.labels)
    if facts.model.unit.form == "causal" and has_tape(data, "tape", facts.labels):
        live = live_score(model, facts, data, "tape")
        result["consensus_len"] = facts.sampling.consensus_len
        result["live"] = live.to_json()
        matrices["live tape"] = np.asarray(live.confusion, np.int64)
    write_json(out / "evaluation.json", result)
    draw_confusion(matrices, facts.labels, out / "confusion.png")
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=default_checkpoint(),
        help="what to measure (default: the newest run's best)",
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the run's)")
    return parser


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.3g}{unit}"


def summary(result: dict[str, Any]) -> str:
    """What was measured, for people; live top-1 never stands alone.

    Args:
        result: What `evaluate` returned.
    """
    lines = [("clip top-1", f"{_percent(result['clip_top1'])}  ({result['clips']} clips)")]
    if "order_control" in result:
        lines.append(("on exact pairs", _percent(result["order_control"])))
    if "live" in result:
        lines += _live_lines(result["live"], result["consensus_len"])
    return "\n".join(f"{name:<26}{text}" for name, text in lines)


def _live_lines(live: dict[str, Any], consensus_len: int) -> list[tuple[str, str]]:
    actions = f"({live['num_scored']} actions, last {consensus_len} logits)"
    delay = _number(live["delay_median_s"], " s"), _number(live["delay_p90_s"], " s")
    return [
        ("live top-1", f"{_percent(live['live_top1'])}  {actions}"),
        ("  by duration ÷ window", _bins(live["by_duration"])),
        ("  by earlier actions", _bins(live["by_earlier"])),
        ("delay, median / p90", " / ".join(delay)),
        ("event F1 (IoU ≥ 0.5)", _percent(live["event_f1"])),
        ("false events an hour", _number(live["false_events_per_hour"])),
    ]


def _bins(bins: Sequence[dict[str, Any]]) -> str:
    filled = (b for b in bins if b["num_actions"])
    return ", ".join(f"{_edges(b)} {_percent(b['top1'])}" for b in filled)


def _edges(b: dict[str, Any]) -> str:
    return f"{b['lower']:g}–{b['upper']:g}" if b["upper"] else f"≥ {b['lower']:g}"


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.evaluate`."""
    options = _parser().parse_args(argv)
    out = options.out or options.checkpoint.parent.parent / "evaluation"
    result = evaluate(options.checkpoint, options.data, out)
    print(f"{summary(result)}\nresults: {out}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_command(main))
