"""Measure a checkpoint: clip accuracy, live accuracy, the order control, and where it errs.

    python -m train.evaluate --checkpoint artifacts/demo/checkpoint/best.ckpt \
        --data artifacts/data/arrow_of_time
    python -m train.evaluate --protocol 2x3 --checkpoint f8.ckpt f16.ckpt --data ssv2

Clip accuracy is the papers' protocol: T frames, zero state. Live accuracy is what a camera gets:
actions back to back in one stream, no reset. They stand side by side, because the difference is
the price of streaming.

Protocols (clips x crops): 1x1 is segment centres and the checkpoint's own crop, 2x3 is
Something-Something's, 10x3 is Kinetics' (dense clips of the contract's window); any CxK with K of
1 or 3, CxK-dense. Three crops are cut from the full resolution, whose short side is 256/224 of
the model's. Probabilities are averaged over views and over checkpoints.
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
from runtime.command import run_command, say
from runtime.files import write_json
from runtime.policy import Policy, load_policy
from train.calibration_error import draw_reliability
from train.checkpoint import Facts
from train.clip_evaluation import ClipResult, Member, evaluate_clips, load_members
from train.confusion import confusion_matrix, draw_confusion
from train.data.catalog import has_tape, load_split, load_tapes
from train.data.clips import ClipRule
from train.evaluation_summary import summary
from train.event_score import draw_event_curve
from train.live_report import LiveResult, evaluate_tapes
from train.model.tdrl import Tdrl
from train.protocols import parse_protocol
from train.scores import write_class_scores

BATCH = 64


@dataclass(frozen=True, eq=False)
class Clips:
    """A split in memory: pictures (B, T, 3, H, W) uint8 and classes (B,) int64."""

    pictures: Tensor
    label: Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        protocol: Clips x crops, see `train.protocols`.
        split: The split with the clips.
        workers: Processes that read; 0 reads in this one.
        device: Where models compute: `cpu`, `cuda`, ...; `auto` takes a GPU where there is one.
        policy: Policy file: which live decisions make an event; None for the checkpoint's.
    """

    protocol: str = "1x1"
    split: str = "validation"
    workers: int = 0
    device: str = "auto"
    policy: Path | None = None


DEFAULTS = Options()


def load_clips(data: Path, split: str, facts: Facts) -> Clips:
    """A whole split's clips in memory, at segment centres, as the clip protocol wants them.

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


def evaluate(
    checkpoints: Path | Sequence[Path], data: Path, out: Path, options: Options = DEFAULTS
) -> dict[str, Any]:
    """Measure a checkpoint, or several as one, and write what was found.

    `evaluation.json`, `per_class.csv`, `confusion.png` and `reliability.png` are written, and
    `event_curve.png` where there are live tapes and one causal checkpoint.

    Args:
        checkpoints: What to measure; the probabilities of several are averaged.
        data: Data folder with `validation/` and, for live accuracy, `tape/`.
        out: Folder for the results.
        options: How to measure.

    Returns:
        What `evaluation.json` holds.

    Raises:
        CheckpointError: A checkpoint cannot be used, or their labels differ.
        DataError: The data cannot be used.
        PolicyError: The policy file cannot be used.
        ValueError: No such protocol or device.
    """
    rule = parse_protocol(options.protocol)
    paths = [checkpoints] if isinstance(checkpoints, Path) else list(checkpoints)
    members = load_members(paths, _device(options.device))
    split = load_split(data, options.split, members[0].facts.labels)
    policy = None if options.policy is None else _policy(options.policy, members[0].facts)
    clips = evaluate_clips(members, split, rule, workers=options.workers)
    live = _live(members, data, policy)
    result: dict[str, Any] = {
        "checkpoint": " + ".join(member.path.name for member in members),
        "protocol": options.protocol,
        "views_per_clip": rule.num_views,
        **clips.to_json(),
    }
    if len(members) > 1:
        result["members"] = [
            _member_json(member, top1)
            for member, top1 in zip(members, clips.member_top1, strict=True)
        ]
    if live is not None:
        result["consensus_len"] = members[0].facts.sampling.consensus_len
        result["temperature"] = members[0].facts.operating.temperature
        result["live"] = live.to_json()
    write_json(out / "evaluation.json", result)
    _write_pictures(clips, live, members[0].facts.labels, out)
    return result


def _policy(path: Path, facts: Facts) -> Policy:
    base, longest_lag_s = facts.operating.policy, facts.sampling.warm_up_s
    return load_policy(path, base, facts.labels, longest_lag_s=longest_lag_s)


def _live(members: Sequence[Member], data: Path, policy: Policy | None) -> LiveResult | None:
    """Live metrics of one causal model; an ensemble has no one state to stream with."""
    model, facts = members[0].model, members[0].facts
    if len(members) > 1 or facts.model.offline_reason is not None:
        return None
    if not has_tape(data, "tape", facts.labels):
        return None
    return evaluate_tapes(model, facts, load_tapes(data, "tape", facts.labels), policy)


def _member_json(member: Member, top1: float) -> dict[str, Any]:
    return {
        "checkpoint": str(member.path),
        "name": member.facts.name,
        "num_segments": member.facts.sampling.num_segments,
        "clip_top1": top1,
    }


def _write_pictures(
    clips: ClipResult, live: LiveResult | None, labels: Sequence[str], out: Path
) -> None:
    answers = clips.answers
    answer = answers.probs.argmax(1).tolist()
    matrices = {"clips": confusion_matrix(answers.label.tolist(), answer, len(labels))}
    columns: dict[str, dict[str, float | None]] = {}
    if live is not None:
        matrices["live tape"] = np.asarray(live.score.confusion, np.int64)
        columns = {"live_recall": live.score.recall, "event_recall": live.score.event_recall_of}
        draw_event_curve(live.curve, out / "event_curve.png", "live events")
    write_class_scores(out / "per_class.csv", clips.scores.per_class, columns)
    draw_confusion(matrices, labels, out / "confusion.png")
    draw_reliability(clips.calibration, out / "reliability.png", f"{len(answer)} clips")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as err:
        first = str(err).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used ({first}); try --device cpu") from err
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        action="extend",
        help="what to measure (default: the newest run's best); several are one ensemble",
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the run's)")
    parser.add_argument("--protocol", default="1x1", metavar="CxK", help="default: 1x1")
    parser.add_argument("--split", default="validation", help="default: validation")
    parser.add_argument("--workers", type=int, default=0, help="processes that read (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if any)")
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="policy file for the events on live tapes (default: what was fitted in training)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.evaluate`."""
    given = _parser().parse_args(argv)
    if given.workers < 0:
        raise ValueError(f"--workers must be >= 0, got {given.workers}")
    checkpoints = given.checkpoint or [default_checkpoint()]
    out = given.out or checkpoints[0].parent.parent / "evaluation"
    options = Options(
        protocol=given.protocol,
        split=given.split,
        workers=given.workers,
        device=given.device,
        policy=given.policy,
    )
    result = evaluate(checkpoints, given.data, out, options)
    say(f"{summary(result)}\nresults: {out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
