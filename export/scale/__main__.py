"""What cameras cost, from 1 to 10,000: sums over what the bench measured, and a small simulation.

    python -m export.scale                                          # a ResNet-18's tables
    python -m export.scale --model 'tiny at 48' --picture 1280x720 --mbit 4
    python -m export.scale --box-price 400 --ticks 8                # your price: cost per camera
    python -m export.scale --server-batch-ms 6.5 --server-rows 32   # your Triton server's batch
    python -m export.scale --write                                  # into docs/scale.md

Prices, bit rates and how busy a core may be are yours to set; the rest is read from
docs/measurements/bench.json (make bench) and from the prediction for Jetsons.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from export.bench.compare import read_run
from export.bench.decoding import SIZES_PX
from export.marked_page import begin_mark, write_between_marks
from export.roofline.table import PredictedStep, read_prediction
from export.scale.pieces import Pieces, Wish
from export.scale.tables import (
    EIGHT,
    affinity_table,
    aligned_table,
    batcher_table,
    boxes_table,
    kinds,
    pieces_table,
    site_row,
)
from export.scale.triton import Served, Site, triton_site
from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say

DOCS = ARTIFACTS.parent / "docs"
BENCH, PAGE = DOCS / "measurements" / "bench.json", DOCS / "scale.md"
BEGIN = begin_mark("python -m export.scale --write")
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
    text = page(pieces, wish, site=_site(options, pieces, wish), price=options.box_price)
    say(text)
    if options.write:
        write_between_marks(text, PAGE, BEGIN)
        say(f"written into {PAGE}")


def _site(options: argparse.Namespace, pieces: Pieces, wish: Wish) -> Site | None:
    predicted = predicted_step(pieces.model)
    served = served_by(options.server_batch_ms, options.server_rows, predicted, options.server_gbit)
    if served is None:
        return None
    return triton_site(pieces, wish, served, cores=options.decoder_cores, price=options.box_price)


def page(
    pieces: Pieces, wish: Wish, *, site: Site | None = None, price: float | None = None
) -> str:
    """All tables, with headings.

    Args:
        pieces: What was measured.
        wish: What is wanted.
        site: Servers with decoding boxes; None leaves them out.
        price: Of one machine, in the reader's money; None leaves cost out.
    """
    predicted = predicted_step(pieces.model)
    found = [replace(kind, price=price) for kind in kinds(pieces, wish, predicted)]
    machines = boxes_table(found) if site is None else f"{boxes_table(found)}\n{site_row(site)}"
    parts = [
        f"`{pieces.model}`, {wish.ticks_per_s:g} steps a second and {wish.fps:g} frames/s of "
        f"{wish.picture} from each camera, cores at most {wish.busy:.0%} busy.",
        "### One camera\n\n" + pieces_table(pieces, wish),
        "### Machines\n\n" + machines,
        "### One box: streams on one clock, one thread\n\n" + aligned_table(pieces, wish),
    ]
    if predicted is not None:
        step_ms = partial(predicted_batch_ms, predicted)
        parts.append(
            f"### A server with a batcher: {predicted.device}'s predicted GPU, at most {EIGHT} "
            f"rows, {DELAY_MS:g} ms of waiting\n\n"
            + batcher_table(step_ms, wish, most_rows=EIGHT, delay_ms=DELAY_MS)
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


def predicted_batch_ms(predicted: PredictedStep, rows: int) -> float:
    """A batch on the line through the two predicted ones: a launch's cost, and each row's."""
    row_ms = (predicted.eight_ms - predicted.ms) / (EIGHT - 1)
    return predicted.ms + (rows - 1) * row_ms


def served_by(
    batch_ms: float | None, rows: int, predicted: PredictedStep | None, gbit_per_s: float
) -> Served | None:
    """What a server does: the reader's batch, else the predicted one; None where there is neither.

    Args:
        batch_ms: Time of the reader's batch; None where it is not known.
        rows: Streams in that batch.
        predicted: The prediction of the model.
        gbit_per_s: The server's network.

    Raises:
        ValueError: The batch or the network is not possible.
    """
    if batch_ms is not None:
        return Served(batch_ms, rows, f"{batch_ms:g} ms for {rows} rows", gbit_per_s)
    if predicted is None:
        return None
    source = f"{predicted.device}, predicted"
    return Served(predicted_batch_ms(predicted, rows), rows, source, gbit_per_s)


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
    parser.add_argument(
        "--server-batch-ms",
        type=float,
        help="a batch on a Triton server's GPU (default: the predicted Orin Nano's)",
    )
    parser.add_argument(
        "--server-rows", type=int, default=EIGHT, help="streams in that batch (%(default)s)"
    )
    parser.add_argument(
        "--server-gbit", type=float, default=1.0, help="a server's network (%(default)s)"
    )
    parser.add_argument(
        "--decoder-cores", type=int, default=16, help="of a box that decodes (%(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
