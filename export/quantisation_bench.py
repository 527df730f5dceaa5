"""What each step of the quantisation brings on a checkpoint: nearness to float, accuracy.

    python -m export.quantisation_bench --checkpoint artifacts/demo/checkpoint/best.ckpt \
        --data artifacts/data/arrow_of_time --json int8.json

The steps are those of an export, one on top of the other, each measured on the validation clips
too, whether an export would keep it or not. Nothing is bundled.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calib.cache import default_cache_dir
from export.calibration_bar import CalibrationBar
from export.calibration_clips import MOST_CLIPS, calibration_clips, comparison
from export.held_out import held_out_clips
from export.int8.probe import clip_logits
from export.int8.quantise import (
    STEP_INT8,
    Int8Options,
    LabelledClips,
    int8_maker,
    state_kinds,
)
from export.int8.search import BUDGET, Found, Int8Maker, Settings, search
from export.parity import starts_of
from export.stream.state_sqnr import state_sqnr_db
from export.to_int8 import write_int8
from export.to_onnx import step_onnx_from_model
from runtime.artifacts import default_checkpoint
from runtime.bundle import Bundle, GraphSpec
from runtime.command import run_command, say
from runtime.files import write_json
from runtime.machine import measured_on
from runtime.sessions.base import Logits
from train.checkpoint import Facts, load_checkpoint
from train.live_evaluation import bundle_of
from train.model.tdrl import Tdrl

LIBRARIES = ("onnxruntime", "onnx", "torch", "numpy")
NAIVE = "minmax"


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        step: What it is called.
        kept: Whether an export keeps it.
        sqnr_db: SQNR of the logits on the comparison steps, decibels.
        step_agreement: Share of the comparison steps with float's answer, 0..1.
        pem_db: SQNR of PEM's vectors; None without any.
        map_db: SQNR of the worst feature map that is a state; None without any.
        clip_agreement: Share of the validation clips with float's answer, 0..1.
        top1_loss: Clip top-1 lost, 0..1.
        float_convs: Convolutions in float.
        int8_convs: Convolutions in INT8.
    """

    step: str
    kept: bool
    sqnr_db: float
    step_agreement: float
    pem_db: float | None
    map_db: float | None
    clip_agreement: float
    top1_loss: float
    float_convs: int
    int8_convs: int


@dataclass(frozen=True)
class Bench:
    """A model's measurement.

    Attributes:
        name: The checkpoint's name.
        backbone: Its backbone.
        top1: Clip top-1 of float, 0..1.
        clips: Validation clips.
        rows: The steps in order.
        kept_float: Convolutions that stay in float.
        seconds: Seconds of calibration and search.
        machine: What it was measured on.
    """

    name: str
    backbone: str
    top1: float
    clips: int
    rows: tuple[Row, ...]
    kept_float: tuple[str, ...]
    seconds: float
    machine: str


@dataclass(frozen=True)
class _Yardstick:
    """What every step is held against."""

    bundle: Bundle
    maker: Int8Maker
    clips: LabelledClips
    logits: Logits

    def row(self, step: str, kept: bool, settings: Settings) -> Row:
        """Measure one INT8 graph."""
        made = self.maker.make(settings)
        write_int8(made, self.bundle.folder / STEP_INT8)
        graph = GraphSpec(STEP_INT8, made.states)
        states = state_sqnr_db(self.bundle, graph, self.maker.frames, self.maker.reset)
        kinds = state_kinds(self.bundle)
        vectors = [db for name, db in states.items() if kinds[name] == "PEM"]
        maps = [db for name, db in states.items() if kinds[name] == "TM"]
        got = clip_logits(made.proto, made.states, self.clips.pictures).argmax(1)
        expected = self.logits.argmax(1)
        label = self.clips.label
        parity = self.maker.measure(settings)
        return Row(
            step=step,
            kept=kept,
            sqnr_db=parity.sqnr_db,
            step_agreement=parity.same_top1,
            pem_db=min(vectors, default=None),
            map_db=min(maps, default=None),
            clip_agreement=float((got == expected).mean()),
            top1_loss=float((expected == label).mean() - (got == label).mean()),
            float_convs=len(made.placement.float_convs),
            int8_convs=len(made.placement.convs),
        )


def bench(
    checkpoint: Path, data: Path, *, budget: float = BUDGET, cache_dir: Path | None = None
) -> Bench:
    """Measure the steps on one checkpoint.

    Args:
        checkpoint: A causal model's checkpoint.
        data: Data folder with `calibration/` and `validation/`.
        budget: Share of the multiplications that may stay in float, 0..1.
        cache_dir: Where recorded ranges are kept.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used.
        ExportError: The graph cannot be quantised.
        ValueError: `budget` is out of range.
    """
    budget = Int8Options(budget).float_budget
    model, facts = load_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        bundle = _step_bundle(model, facts, Path(folder))
        listed = calibration_clips(data, facts, most=MOST_CLIPS)
        compared = comparison(listed, facts)
        start_s = time.monotonic()
        with CalibrationBar(len(compared.rest)) as bar:
            maker, _ = int8_maker(
                bundle,
                compared.rest,
                compared.frames,
                starts_of(len(compared.frames)),
                advance=bar.advance,
                cache_dir=cache_dir,
            )
        found = search(maker, budget)
        seconds = time.monotonic() - start_s
        clips = held_out_clips(data, facts, most=sys.maxsize).clips
        logits = clip_logits(maker.step, maker.states, clips.pictures)
        yardstick = _Yardstick(bundle, maker, clips, logits)
        rows = tuple(yardstick.row(*each) for each in _steps(found))
    return Bench(
        name=facts.name,
        backbone=facts.model.backbone,
        top1=float((logits.argmax(1) == clips.label).mean()),
        clips=len(clips.label),
        rows=rows,
        kept_float=found.settings.float_convs,
        seconds=round(seconds, 1),
        machine=measured_on(LIBRARIES),
    )


def _steps(found: Found) -> Iterator[tuple[str, bool, Settings]]:
    """Each step, whether it was kept, and its settings on top of what was kept before."""
    final = found.settings
    yield f"nearest weights, {NAIVE}", final == Settings(NAIVE), Settings(NAIVE)
    best = Settings(final.method)
    if final.method != NAIVE:
        yield f"thresholds: {final.method}", True, best
    rounded = replace(best, rounded=True)
    yield "weights rounded against their inputs", final.rounded, rounded
    best = rounded if final.rounded else best
    corrected = replace(best, corrected=True)
    yield "corrected biases", final.corrected, corrected
    if final.float_convs:
        yield "convolutions in float", True, final


def _step_bundle(model: Tdrl, facts: Facts, folder: Path) -> Bundle:
    """A bundle with nothing but the float step graph."""
    states = step_onnx_from_model(model, facts.picture, folder / "step.onnx")
    unit = facts.model.unit
    return replace(
        bundle_of(facts),
        folder=folder,
        graphs={"step": GraphSpec("step.onnx", states)},
        model={"backbone": facts.model.backbone, "temporal": unit.temporal, "pem": unit.pem},
    )


def markdown_of(found: Bench) -> str:
    """The measurement as a table."""
    lines = [
        f"**{found.name}** ({found.backbone}): float top-1 {found.top1:.2%} of {found.clips} "
        f"validation clips; calibration and search took {found.seconds:.0f} s.",
        "",
        "| step | stays | logits dB | steps agree | PEM dB | worst TM state dB | clips agree "
        "| top-1 lost, points | INT8 / float convolutions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        lines.append(
            f"| {row.step} | {'yes' if row.kept else 'no'} | {row.sqnr_db:.1f} "
            f"| {row.step_agreement:.1%} | {_db(row.pem_db)} | {_db(row.map_db)} "
            f"| {row.clip_agreement:.2%} | {100 * row.top1_loss:.2f} "
            f"| {row.int8_convs} / {row.float_convs} |"
        )
    if found.kept_float:
        lines += ["", f"In float: {', '.join(f'`{name}`' for name in found.kept_float)}."]
    return "\n".join([*lines, "", found.machine])


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def to_json(found: Bench) -> dict[str, Any]:
    """The numbers for a file."""
    return asdict(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.quantisation_bench",
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
    parser.add_argument(
        "--float-budget",
        type=float,
        default=BUDGET,
        help="share of the work that may stay in float, 0..1 (default %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.quantisation_bench`."""
    options = _parser().parse_args(argv)
    found = bench(
        options.checkpoint,
        options.data,
        budget=options.float_budget,
        cache_dir=default_cache_dir(),
    )
    if options.json:
        write_json(options.json, to_json(found))
    say(markdown_of(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
