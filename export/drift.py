"""Does INT8 go away from float along a stream that never ends?

    python -m export.drift artifacts/demo/bundle --steps 10000

A long stream runs through both step graphs of a finished bundle, state beside state. What comes
out goes into the bundle's report; the command fails where the distance grows. Clips come from the
list that the export left beside the bundle.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from calib.clip_list import CalibrationClip, read_clip_list
from export.bundle_folder import CLIPS
from export.report.verdict import LEAST_STEPS, PAGE, read_report, require_steady
from export.report_page import update_report
from export.stream.drift_measure import EXPORT_STEPS, measure_drift
from export.stream.growth import NUM_BLOCKS
from export.stream.long_stream import NUM_PARTS, stream_clips
from export.stream.state_parts import StatePart, parts_from_json
from runtime.bundle import Bundle, load_bundle
from runtime.command import run_command, say
from runtime.errors import BundleError
from runtime.sessions.base import StepSession

LONG_STEPS = 10_000
# the shortest request whose blocks, without the warm-up's, have the steps that a verdict needs
FEWEST_STEPS = NUM_PARTS * (math.ceil(LEAST_STEPS / NUM_BLOCKS) - 1) + 1
EXPORT_SECONDS = 120.0  # ResNet-50 at 224 has its steps in it on two cores, a slower model fewer


def drift_at_export(
    bundle: Bundle,
    clips: Sequence[CalibrationClip],
    parts: Sequence[StatePart],
    model: StepSession,
    *,
    long_stream: bool = False,
) -> dict[str, Any]:
    """The report's parts about long streams: `drift`, and `long_drift` where it is asked for.

    Args:
        bundle: A bundle with both step graphs.
        clips: Clips the streams are made of.
        parts: What the states' numbers are.
        model: The PyTorch model.
        long_stream: Run the long one too.

    Raises:
        DataError: No clip can be read.
        ExportError: A graph gives something that is no number.
    """
    found = {
        "state_parts": [part.to_json() for part in parts],
        "drift": _with_bar(
            bundle, clips, parts, EXPORT_STEPS, most_seconds=EXPORT_SECONDS, model=model
        ),
    }
    if long_stream:
        found["long_drift"] = _with_bar(bundle, clips, parts, LONG_STEPS)
    return found


def drift_of_bundle(folder: Path, clip_list: Path, steps: int) -> dict[str, Any]:
    """Measure a finished bundle and put the result into its report as `long_drift`.

    Args:
        folder: The bundle.
        clip_list: Clips the stream is made of.
        steps: Length of the stream, at least.

    Returns:
        The new report.

    Raises:
        BundleError: The bundle is not whole, or has no INT8 graph.
        DataError: No clip can be read.
        ExportError: The report cannot be read, or a graph gives something that is no number.
        ValueError: Too few steps to judge a stream by.
    """
    if steps < FEWEST_STEPS:
        raise ValueError(
            f"too few steps to judge a drift, want >= {FEWEST_STEPS}, got {steps}; {LONG_STEPS} is "
            "a long stream"
        )
    bundle = load_bundle(folder)
    report = read_report(folder)
    if "step_int8" not in bundle.graphs:
        raise BundleError(f"{folder} has no INT8 graph; there is nothing to hold against float")
    parts = parts_from_json(report["state_parts"])
    found = _with_bar(bundle, read_clip_list(clip_list), parts, steps)
    return update_report(folder, long_drift=found)


def _with_bar(
    bundle: Bundle,
    listed: Sequence[CalibrationClip],
    parts: Sequence[StatePart],
    steps: int,
    *,
    most_seconds: float | None = None,
    model: StepSession | None = None,
) -> dict[str, Any]:
    clips = stream_clips(listed, bundle.picture, bundle.sampling, steps)
    with tqdm(total=steps, desc="long stream", unit="step", disable=None) as bar:
        return measure_drift(
            bundle,
            clips,
            parts,
            steps=steps,
            most_seconds=most_seconds,
            model=model,
            advance=bar.update,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument(
        "--steps", type=int, default=LONG_STEPS, help="length of the stream (default %(default)s)"
    )
    parser.add_argument(
        "--clips", type=Path, help=f"clip list (default: {CLIPS} beside the bundle)"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.drift`."""
    options = _parser().parse_args(argv)
    clip_list = options.clips or options.bundle.resolve().parent / CLIPS
    report = drift_of_bundle(options.bundle, clip_list, options.steps)
    require_steady(report)
    found = report["long_drift"]
    say(
        f"{found['steps']:,} steps: INT8's distance to float does not grow (ends at "
        f"{found['int8']['growth']:.2f} times its start, t = {found['int8']['t_value']:.1f}); "
        f"page {options.bundle / PAGE}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
