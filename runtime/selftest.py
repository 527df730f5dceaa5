"""The golden check: proves, in a second, that this device computes what the bundle promises.

A golden sequence runs through the session, in two phases at once where it has them, so that
states which are not fed, swapped, or shared between phases show. Engines differ in rounding:
top-1 has to agree where the stored margin is clear, and the logits as a whole to so many decibels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle, Golden, Precision, load_golden
from runtime.errors import BundleError, SessionError
from runtime.preprocess import fit_picture
from runtime.sessions.base import Logits, StepSession

MAX_STEPS = 16
MAX_SECONDS = 1.0
MIN_STEPS = 4
LOWEST_SQNR_DB: Mapping[Precision, float] = {"float32": 40.0, "float16": 30.0, "int8": 20.0}
LARGEST_PICTURE_DIFFERENCE = 1.0
# A margin is clear where noise of the allowed size would have to be three times its usual self.
CLEAR_MARGIN = 3.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelfTestResult:
    """What the check measured: steps run, seconds it took, and the logits' SQNR in decibels."""

    steps: int
    seconds: float
    sqnr_db: float


def run_self_test(bundle: Bundle, session: StepSession, precision: Precision) -> SelfTestResult:
    """Check pictures and logits of this device against the bundle's golden sequence.

    The session's states are not zero afterwards: the next step of every phase has to reset.

    Args:
        bundle: A loaded bundle.
        session: The session that will run; any number of streams.
        precision: Sets the allowed noise; INT8 has logits of its own, the others match float32's.

    Raises:
        BundleError: `golden.npz` is unreadable, or has no logits of this precision.
        SessionError: Pictures or logits differ; the message names the first bad step.
    """
    started_s = time.monotonic()
    golden = load_golden(bundle)
    stored = stored_logits(bundle, golden, precision)
    check_pictures(bundle, golden)
    runs = _run_phases(session, golden, _phases_to_check(session))
    for phase, logits in runs.items():
        check_logits(logits, stored[: len(logits)], precision, f"{session.description} {phase=}")
    got = np.concatenate(list(runs.values()))
    want = np.concatenate([stored[: len(logits)] for logits in runs.values()])
    result = SelfTestResult(len(got), time.monotonic() - started_s, sqnr_db(got, want))
    logger.info(
        "self-test passed: %d steps, SQNR %.0f dB, %.2f s",
        result.steps,
        result.sqnr_db,
        result.seconds,
    )
    return result


def stored_logits(bundle: Bundle, golden: Golden, precision: Precision) -> Logits:
    """The golden logits that a precision has to match, shape (S, K).

    Raises:
        BundleError: The bundle has none of this precision.
    """
    stored = golden.logits_int8 if precision == "int8" else golden.logits
    if stored.shape != golden.logits.shape:
        raise BundleError(
            f"{bundle.folder} has no golden logits for {precision}; export it again or pass "
            "--no-self-test"
        )
    return stored


def check_pictures(bundle: Bundle, golden: Golden) -> None:
    """Compare this device's preprocessing with the stored pictures.

    Raises:
        SessionError: A picture differs by more than one level on average.
    """
    pairs = zip(golden.camera_frames, golden.camera_pictures, strict=True)
    for number, (frame, expected) in enumerate(pairs):
        picture = fit_picture(frame, bundle.picture)
        difference = np.abs(picture.astype(np.int16) - expected.astype(np.int16)).mean()
        if difference > LARGEST_PICTURE_DIFFERENCE:
            raise SessionError(
                f"self-test failed: golden camera picture {number} differs by {difference:.1f} "
                f"levels, allowed {LARGEST_PICTURE_DIFFERENCE:g}; this OpenCV resizes differently"
            )


def check_logits(got: Logits, expected: Logits, precision: Precision, what: str) -> None:
    """Compare logits of consecutive steps with the stored ones.

    Args:
        got: Shape (S, K).
        expected: Shape (S, K).
        precision: Sets the allowed noise.
        what: Name of what was run, for the error.

    Raises:
        SessionError: Top-1 differs on a clear step, or the SQNR is too low.
    """
    verdict = judge_logits(got, expected, precision)
    if verdict.passed:
        return
    raise SessionError(
        f"self-test failed at golden step {int(verdict.bad.argmax())} of {len(got)}: logits have "
        f"SQNR {verdict.sqnr_db:.1f} dB, needed {verdict.lowest_db:g}, and top-1 differs on "
        f"{int(verdict.moved.sum())} clear steps ({what}); rebuild the engine or export the bundle "
        "again"
    )


@dataclass(frozen=True, eq=False)
class Verdict:
    """How logits compare with stored ones.

    Attributes:
        sqnr_db: SQNR of all steps together.
        lowest_db: What the precision needs.
        moved: Clear steps with another top-1, shape (S,), bool.
        bad: Steps that moved or whose noise is above the limit, shape (S,), bool.
    """

    sqnr_db: float
    lowest_db: float
    moved: NDArray[np.bool_]
    bad: NDArray[np.bool_]

    @property
    def passed(self) -> bool:
        """Whether no clear step moved and the steps together are near enough."""
        return not self.moved.any() and self.sqnr_db >= self.lowest_db


def judge_logits(got: Logits, expected: Logits, precision: Precision) -> Verdict:
    """Compare logits, shape (S, K), with the stored ones step by step."""
    lowest_db = LOWEST_SQNR_DB[precision]
    noise = 10 ** (-lowest_db / 20) * float(np.sqrt(np.mean(np.square(expected))))
    ordered = np.sort(expected, axis=1)
    clear = np.ones(len(expected), bool)
    if expected.shape[1] > 1:
        clear = ordered[:, -1] - ordered[:, -2] > CLEAR_MARGIN * noise
    moved = clear & ~(got.argmax(axis=1) == expected.argmax(axis=1))
    errors = np.sqrt(np.mean(np.square(got - expected), axis=1))
    return Verdict(sqnr_db(got, expected), lowest_db, moved, moved | ~(errors <= noise))


def sqnr_db(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Signal to quantisation noise ratio in decibels; infinite where both are equal.

    Example:
        >>> round(sqnr_db(np.float32([10.1, -10]), np.float32([10, -10])))
        43
    """
    noise = float(np.sum(np.square(got.astype(np.float64) - expected)))
    signal = float(np.sum(np.square(expected.astype(np.float64))))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _phases_to_check(session: StepSession) -> tuple[int, ...]:
    """The first and the last phase: states shared between phases show in two."""
    return (0,) if session.num_phases == 1 else (0, session.num_phases - 1)


def _run_phases(
    session: StepSession, golden: Golden, phases: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Run the sequence in each phase, the second one a step behind the first."""
    length = min(len(golden.frames), MAX_STEPS // len(phases))
    logits: dict[int, list[Logits]] = {phase: [] for phase in phases}
    started_s = time.monotonic()
    for turn in range(length + len(phases) - 1):
        if turn >= MIN_STEPS and time.monotonic() - started_s > MAX_SECONDS:
            break
        for lag, phase in enumerate(phases):
            if 0 <= turn - lag < length:
                logits[phase].append(_golden_step(session, golden, phase, turn - lag))
    return {phase: np.stack(rows) for phase, rows in logits.items()}


def _golden_step(session: StepSession, golden: Golden, phase: int, step: int) -> Logits:
    """One step with every stream given the same frame; the first stream's logits count."""
    starts = 1.0 if step == 0 else float(golden.reset[step])
    frames = np.repeat(golden.frames[step][np.newaxis], session.num_streams, axis=0)
    reset = np.full((session.num_streams, 1), starts, np.float32)
    return np.asarray(session.step(phase, frames, reset)[0], np.float32)
