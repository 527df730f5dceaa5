"""How long a step should take on a Jetson that nobody has measured yet.

    python -m export.predict                                # tables
    python -m export.predict --write                        # and predicted.json, and the page
    python -m export.predict --models resnet18:224 tiny:48
    python -m export.predict --measured verify.json         # what `make verify` wrote on a device
    python -m export.predict --measured nano.json nx.json --write       # into the page

Operations and bytes are counted kernel by kernel on the exported step graph (roofline/kernels.py).
Four constants turn them into time; they are fitted to published latencies of plain networks on an
Orin Nano and judged on NVIDIA's MLPerf results of Orin NX and AGX Orin (roofline/published.py).
The time is the GPU's, at the module's highest clocks: no copies, no Python, no waiting.
--measured counts nothing anew: a prediction is not changed by what it is compared with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from export.graph_view import load_graph
from export.marked_page import begin_mark, write_between_marks
from export.roofline.kernels import Kernel, Precision, step_kernels
from export.roofline.measured import measured_as_markdown, read_measured
from export.roofline.model import Constants, estimate, fit, relative_error
from export.roofline.published import (
    DEVICES,
    FITTED_ROWS,
    JUDGED_ROWS,
    Device,
    PublishedRow,
    mobilenet_v2_kernels,
)
from export.roofline.table import (
    PREDICTED,
    PredictedStep,
    Prediction,
    read_prediction,
    steps_as_markdown,
)
from export.step_cost import parse_case
from export.step_ratios import MODELS, random_model
from export.to_onnx import step_onnx_from_model
from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.files import write_json
from runtime.preprocess import PictureRule

PRECISIONS: tuple[Precision, ...] = ("int8", "float16")
LARGE = ("resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0")
CASES = (*((name, size_px) for size_px in (224, 112) for name in LARGE), ("tiny", 48))
PAGE = ARTIFACTS.parent / "docs" / "jetson-prediction.md"
BEGIN = begin_mark("python -m export.predict --write")
PUBLISHED_SIZE = 224
MANY = 8

Kernels = Mapping[str, Sequence[Kernel]]


def kernels_of(backbone: str, size_px: int, model: str) -> tuple[Kernel, ...]:
    """The kernels of a backbone's exported step graph.

    Args:
        backbone: Its name.
        size_px: Height and width of the picture.
        model: `plain` or `tdrl`.
    """
    rule = PictureRule(height_px=size_px, width_px=size_px)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        step_onnx_from_model(random_model(backbone, MODELS[model]), rule, path)
        return step_kernels(load_graph(path))


def published_kernels() -> dict[str, tuple[Kernel, ...]]:
    """Kernels of the networks that the published rows are of, by name."""
    found = {"mobilenet_v2": mobilenet_v2_kernels()}
    for name in {row.network for row in (*FITTED_ROWS, *JUDGED_ROWS)} - found.keys():
        found[name] = kernels_of(name, PUBLISHED_SIZE, "plain")
    return found


def judged_errors(kernels: Kernels, constants: Constants) -> list[tuple[PublishedRow, float]]:
    """Relative errors on rows that the constants have not seen.

    On the judged rows, and on each network of the fitted ones with constants of the others.
    """
    errors = [(row, relative_error(row, kernels, constants)) for row in JUDGED_ROWS]
    for network in dict.fromkeys(row.network for row in FITTED_ROWS):
        without = fit([row for row in FITTED_ROWS if row.network != network], kernels)
        errors += [
            (row, relative_error(row, kernels, without))
            for row in FITTED_ROWS
            if row.network == network
        ]
    return errors


def predict(cases: Sequence[tuple[str, int]], constants: Constants, *, spread: float) -> Prediction:
    """Predict the step of each case on each device in each precision.

    Args:
        cases: Backbones and sizes.
        constants: The fitted ones.
        spread: The largest relative error on unseen rows, 0..1.
    """
    steps = []
    for backbone, size_px in tqdm(cases, desc="count", unit="model", disable=None, leave=False):
        tdrl, plain = (kernels_of(backbone, size_px, name) for name in ("tdrl", "plain"))
        steps += [
            _predicted((backbone, size_px), (tdrl, plain), device, precision, constants)
            for device in DEVICES
            for precision in PRECISIONS
        ]
    today = datetime.now(timezone.utc).date().isoformat()
    return Prediction(today, asdict(constants), round(spread, 3), tuple(steps))


def _predicted(
    case: tuple[str, int],
    kernels: tuple[Sequence[Kernel], Sequence[Kernel]],
    device: Device,
    precision: Precision,
    constants: Constants,
) -> PredictedStep:
    tdrl, plain = kernels
    one = estimate(tdrl, device, precision, constants)
    return PredictedStep(
        backbone=case[0],
        size_px=case[1],
        device=device.name,
        precision=precision,
        kernels=len(tdrl),
        ms=round(one.ms, 3),
        launch_ms=round(one.launch_ms, 3),
        compute_ms=round(one.compute_ms, 3),
        memory_ms=round(one.memory_ms, 3),
        plain_ms=round(estimate(plain, device, precision, constants).ms, 3),
        eight_ms=round(estimate(tdrl, device, precision, constants, rows=MANY).ms, 3),
    )


def check_as_markdown(kernels: Kernels, constants: Constants) -> str:
    """Published against predicted, row by row."""
    unseen = {id(row): error for row, error in judged_errors(kernels, constants)}
    lines = [
        "| device | network | batch | precision | published ms | predicted ms | error | "
        "error, not fitted to it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (*FITTED_ROWS, *JUDGED_ROWS):
        found = estimate(kernels[row.network], row.device, row.precision, constants, rows=row.rows)
        error = f"{relative_error(row, kernels, constants):+.0%}" if row in FITTED_ROWS else "–"
        lines.append(
            f"| {row.device.name} | {row.network} | {row.rows} | {row.precision} | {row.ms:.3f} "
            f"| {found.ms:.3f} | {error} | {unseen[id(row)]:+.0%} |"
        )
    return "\n".join(lines)


def constants_text(constants: Constants) -> str:
    """The fitted constants in a sentence."""
    return (
        f"Fitted: convolutions reach {constants.int8_share:.0%} of the INT8 rate and "
        f"{constants.float16_share:.0%} of the FP16 rate, memory {constants.memory_share:.0%} of "
        f"its bandwidth, a kernel costs {constants.launch_clocks:.0f} clocks besides."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m export.predict`."""
    options = _parser().parse_args(argv)
    if options.measured:
        compare(options.measured, write=options.write)
        return
    kernels = published_kernels()
    constants = fit(FITTED_ROWS, kernels)
    spread = max(abs(error) for _, error in judged_errors(kernels, constants))
    prediction = predict(options.models, constants, spread=spread)
    say(check_as_markdown(kernels, constants))
    say(f"\n{constants_text(constants)}\n")
    table = steps_as_markdown(prediction.steps)
    say(table)
    say(f"\nINT8 / FP16. Largest error on rows that were not fitted: {spread:.0%}.")
    if options.write:
        write_between_marks(table, PAGE, BEGIN)
        write_json(PREDICTED, prediction.to_json())
        say(
            f"written to {PREDICTED.name} and {PAGE}: `make verify` shows it beside what a device "
            "measures"
        )


def compare(reports: Sequence[Path], *, write: bool) -> None:
    """Show the stored prediction beside what devices measured.

    Args:
        reports: JSON files of `make verify`.
        write: Put the table into the page.

    Raises:
        BundleError: A file is no report, or holds nothing that was predicted.
    """
    prediction = read_prediction()
    measured = read_measured(reports, prediction)
    table = steps_as_markdown(prediction.steps, {each.step: each.ms for each in measured})
    text = (
        f"{table}\n\nMeasured by `make verify`, p50 of steps back to back, with copies:\n\n"
        f"{measured_as_markdown(measured)}"
    )
    say(text)
    if write:
        write_between_marks(text, PAGE, BEGIN)
        say(f"written into {PAGE}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--measured",
        nargs="+",
        type=Path,
        metavar="VERIFY.json",
        help="show the stored prediction beside these reports of `make verify`",
    )
    what.add_argument(
        "--models",
        nargs="+",
        type=parse_case,
        default=CASES,
        metavar="BACKBONE:SIZE",
        help="what to predict (default: every backbone)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace the prediction that is stored with the code, and the page's table; with "
        "--measured the table alone",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
