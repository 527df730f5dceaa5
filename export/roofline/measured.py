"""What devices measured of the prediction, from the JSON files that `make verify` wrote on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.proof.expected import STEP
from export.proof.latency import BACK_TO_BACK
from export.proof.report import read_report
from export.roofline.table import PredictedStep, Prediction
from runtime.errors import BundleError


@dataclass(frozen=True)
class Measurement:
    """A predicted step that a device has taken.

    Attributes:
        step: What was predicted.
        ms: Half of the steps took no longer, back to back, with copies and waiting.
        source: The report's name.
        state: The device's power mode and the engine, for people.
        day: Of the measurement, ISO 8601.
    """

    step: PredictedStep
    ms: float
    source: str
    state: str
    day: str

    @property
    def case(self) -> str:
        """What was measured, for people."""
        step = self.step
        return f"{step.backbone} at {step.size_px}, {step.precision}, on {step.device}"


def read_measured(paths: Iterable[Path], prediction: Prediction) -> list[Measurement]:
    """The predicted steps that some reports hold.

    Args:
        paths: Reports of `make verify`, as JSON.
        prediction: What was predicted.

    Raises:
        BundleError: A file is no report, tells of a device that failed, holds nothing that was
            predicted, or repeats what another holds.
    """
    by_step: dict[PredictedStep, Measurement] = {}
    for path in paths:
        for found in _measured_in(path, prediction):
            if found.step in by_step:
                raise BundleError(
                    f"{by_step[found.step].source} and {path} both hold {found.case}; pass one"
                )
            by_step[found.step] = found
    return list(by_step.values())


def measured_as_markdown(measured: Iterable[Measurement]) -> str:
    """Who measured what, when and how: a line each."""
    return "\n".join(f"* {each.case}: {each.day}, {each.state}" for each in measured)


def _measured_in(path: Path, prediction: Prediction) -> list[Measurement]:
    report = read_report(path)
    if report.get("passed") is not True:
        raise BundleError(
            f"{path} is of a device that failed `make verify`: how fast a wrong engine is tells "
            "nothing; pass a report that passed"
        )
    try:
        found = list(_predicted_steps(path, report, prediction))
        model, (height_px, width_px) = report["model"], report["size_px"]
        what = f"{model.get('backbone')} at {height_px} x {width_px}"
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(
            f"{path} does not say what it measured ({type(err).__name__}: {err}); run "
            "`make verify` on the device again with this version"
        ) from err
    if not found:
        board = report["facts"].get("board") or "a machine that is no board"
        raise BundleError(
            f"{path} measured nothing that was predicted: it has {what} on {board}; see "
            "docs/jetson-prediction.md for the rows"
        )
    return found


def _predicted_steps(
    path: Path, report: Mapping[str, Any], prediction: Prediction
) -> Iterator[Measurement]:
    height_px, width_px = (int(side) for side in report["size_px"])
    facts = report["facts"]
    for proof in report["proofs"]:
        step = prediction.step_of(
            report["model"], (height_px, width_px), str(facts.get("board", "")), proof["precision"]
        )
        for timing in proof["timings"]:
            if step is None or (timing["schedule"], timing["part"]) != (BACK_TO_BACK, STEP):
                continue
            ms = float(timing["p50_ms"])
            if not 0 < ms < math.inf:
                raise ValueError(f"p50_ms must be finite and > 0, got {ms}")
            mode = f"power mode {facts.get('power_mode', 'unknown')}, {facts.get('engine', '?')}"
            yield Measurement(step, ms, str(path), mode, str(report["created_utc"])[:10])
