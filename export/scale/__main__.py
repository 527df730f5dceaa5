"""What cameras cost, from 1 to 10,000: sums over what the bench measured, and a small simulation.

    python -m export.scale                                          # a ResNet-18's tables
    python -m export.scale --model 'tiny at 48' --picture 1280x720 --mbit 4
    python -m export.scale --box-price 400 --ticks 8                # your price: cost per camera
    python -m export.scale --write                                  # into docs/scale.md

Prices, bit rates and how busy a core may be are yours to set; the rest is read from
docs/measurements/bench.json (make bench) and from the prediction for Jetsons.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from export.bench.compare import read_run
from export.bench.decoding import SIZES_PX
from export.roofline.table import PredictedStep, read_prediction
from export.scale.pieces import Pieces, Wish
from export.scale.tables import (
    affinity_table,
    aligned_table,
    batcher_table,
    boxes_table,
    kinds,
    pieces_table,
)
from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.errors import ExportError
from runtime.files import whole_file

DOCS = ARTIFACTS.parent / "docs"
BENCH, PAGE = DOCS / "measurements" / "bench.json", DOCS / "scale.md"
BEGIN, END = "<!-- written by python -m export.scale --write -->", "<!-- end -->"
DEVICE, PRECISION = "Orin Nano", "int8"
DELAY_MS = 20.0  # of a server's batcher


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m export.scale`."""
    options = _parser().parse_args(argv)
    wish = Wish(
        ticks_per_s=options.ticks,
        fps=options.fps,
        picture=options.picture,
        mbit_per_s=options.mbit,
        busy=options.busy,
    )
    pieces = Pieces.of(read_run(options.bench), options.model, options.picture)
    text = page(pieces, wish, price=options.box_price)
    say(text)
    if options.write:
        write(text, PAGE)
        say(f"written into {PAGE}")


def page(pieces: Pieces, wish: Wish, *, price: float | None = None) -> str:
    """All tables, with headings.

    Args:
        pieces: What was measured.
        wish: What is wanted.
        price: Of one machine, in the reader's money; None leaves cost out.
    """
    predicted = predicted_step(pieces.model)
    found = [replace(kind, price=price) for kind in kinds(pieces, wish, predicted)]
    parts = [
        f"`{pieces.model}`, {wish.ticks_per_s:g} steps a second and {wish.fps:g} frames/s of "
        f"{wish.picture} from each camera, cores at most {wish.busy:.0%} busy.",
        "### One camera\n\n" + pieces_table(pieces, wish),
        "### Machines\n\n" + boxes_table(found),
        "### One box: streams on one clock, one thread\n\n" + aligned_table(pieces, wish),
    ]
    if predicted is not None:
        rows = 8
        # a line through the two predicted batches: what each row adds, and what a launch costs
        row_ms = (predicted.eight_ms - predicted.ms) / (rows - 1)
        base_ms = predicted.ms - row_ms
        parts.append(
            f"### A server with a batcher: {predicted.device}'s predicted GPU, at most {rows} "
            f"rows, {DELAY_MS:g} ms of waiting\n\n"
            + batcher_table(lambda n: base_ms + n * row_ms, wish, most_rows=rows, delay_ms=DELAY_MS)
        )
    parts.append("### Fullest server ÷ mean: by hash / to the emptiest\n\n" + affinity_table())
    return "\n\n".join(parts)


def predicted_step(model: str) -> PredictedStep | None:
    """The prediction for a bench's model, `resnet18 at 224`; None where there is none."""
    backbone, _, size = model.partition(" at ")
    for step in read_prediction().steps:
        found = (step.device, step.precision, step.backbone, f"{step.size_px}")
        if found == (DEVICE, PRECISION, backbone, size):
            return step
    return None


def write(text: str, path: Path) -> None:
    """Put the tables between a page's marks.

    Raises:
        ExportError: The page has no marks.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ExportError(f"{path} has no marks {BEGIN} and {END}; put them where the tables go")
    with whole_file(path) as part:
        part.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sizes = tuple(f"{width}x{height}" for width, height in SIZES_PX)
    parser.add_argument("--bench", type=Path, default=BENCH, help="a run of the bench")
    parser.add_argument("--model", default="resnet18 at 224", help="as the bench names it")
    parser.add_argument("--picture", choices=sizes, default=sizes[0], help="(%(default)s)")
    parser.add_argument("--ticks", type=float, default=4.0, help="steps a second (%(default)s)")
    parser.add_argument("--fps", type=float, default=25.0, help="a camera's (%(default)s)")
    parser.add_argument("--mbit", type=float, default=1.0, help="a camera's bit rate (%(default)s)")
    parser.add_argument("--busy", type=float, default=0.7, help="share of a core (%(default)s)")
    parser.add_argument("--box-price", type=float, help="price of one machine, in your money")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
