"""What was expected of a board before one was measured, beside what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.proof.latency import BACK_TO_BACK, Timing
from export.roofline.table import read_prediction
from runtime.bundle import Bundle

STEP = "step"


@dataclass(frozen=True)
class Expected:
    """A prediction and what came of it.

    Attributes:
        device: Name of the module that was predicted, at its highest clocks.
        made: The day of the prediction, ISO 8601.
        predicted_ms: The GPU's time of a step.
        spread: The prediction's largest error on published latencies, 0..1.
        measured_ms: Half of the steps took no longer, back to back, with copies and waiting.
    """

    device: str
    made: str
    predicted_ms: float
    spread: float
    measured_ms: float


def expected_of(
    bundle: Bundle, board: str, precision: str, timings: Sequence[Timing]
) -> Expected | None:
    """The stored prediction for a bundle on a board; None where there is none, or no timing.

    Args:
        bundle: The bundle.
        board: The board's own name; empty where it has none.
        precision: Which graph.
        timings: What was measured of it.
    """
    measured = [t for t in timings if (t.schedule, t.part) == (BACK_TO_BACK, STEP)]
    if not board or not measured:
        return None
    prediction = read_prediction()
    size_px = (bundle.picture.height_px, bundle.picture.width_px)
    step = prediction.step_of(bundle.model, size_px, board, precision)
    if step is None:
        return None
    return Expected(step.device, prediction.made, step.ms, prediction.spread, measured[0].p50_ms)
