"""The golden sequence through a session in every way that a stream may use it.

one phase      all golden frames, in order
two phases     the first and the last phase in turn, the second a step behind the first
rows           a batch whose rows are a step behind one another, so that no two rows see the same
pictures       this device's preprocessing of camera-sized frames

Every run visits golden steps in the order of time, so the first bad visit is where it went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export.decibels import bounded_db
from runtime.bundle import Bundle, Golden, Precision
from runtime.preprocess import Picture, PictureRule, fit_picture
from runtime.selftest import LARGEST_PICTURE_DIFFERENCE, Verdict, judge_logits
from runtime.sessions.base import Logits, StepSession

FitPicture: TypeAlias = Callable[[Picture, PictureRule], Picture]

ONE_PHASE = "one phase"
TWO_PHASES = "two phases"
SAME_ROWS = "rows with the same frames"
ROWS = "rows with frames of their own"
LONGEST_SHIFT_PX = 4
# An explanation has to remove half of what it explains.
EXPLAINED_SHARE = 0.5


@dataclass(frozen=True)
class Visit:
    """One step of one row: which phase stepped, and which golden step it was given."""

    phase: int
    row: int
    step: int


@dataclass(frozen=True, eq=False)
class Run:
    """What a session gave.

    Attributes:
        name: Way of running, one of this module's constants.
        visits: V visits in the order of time.
        got: Logits of each visit, shape (V, K), float32.
    """

    name: str
    visits: tuple[Visit, ...]
    got: Logits

    def of(self, golden_values: NDArray[Any]) -> NDArray[Any]:
        """Values of golden steps, shape (S, ...), in the order of the visits: (V, ...)."""
        return golden_values[[visit.step for visit in self.visits]]


@dataclass(frozen=True)
class BadStep:
    """The first step that is not what the bundle promises.

    Attributes:
        visit: Phase, row and golden step.
        label: The class whose logit is furthest off.
        expected: Its stored logit.
        got: Its logit here; NaN is possible.
        top1_expected: The most probable class of the stored logits.
        top1_got: That of the logits here.
        sqnr_db: SQNR of this step alone.
        before_db: SQNR of all visits before it; None where it is the first.
    """

    visit: Visit
    label: str
    expected: float
    got: float
    top1_expected: str
    top1_got: str
    sqnr_db: float
    before_db: float | None


def run_golden(
    session: StepSession,
    golden: Golden,
    name: str,
    *,
    frames: NDArray[np.uint8] | None = None,
    always_reset: bool = False,
) -> Run:
    """Run the golden sequence.

    Args:
        session: Any session; the first step of each phase and row resets it.
        golden: The bundle's golden sequence.
        name: Way of running: `ONE_PHASE` and `SAME_ROWS` step all rows of phase 0 alike,
            `TWO_PHASES` the first and the last phase, `ROWS` each row a step behind the one above.
        frames: Pictures instead of the golden ones, shape (S, H, W, 3), uint8.
        always_reset: Let every step start from the zero state.

    Raises:
        SessionError: The engine failed.
    """
    pictures = golden.frames if frames is None else frames
    starts = np.ones_like(golden.reset) if always_reset else golden.reset.copy()
    starts[0] = 1.0
    lags = _lags(session, name)
    visits: list[Visit] = []
    rows: list[Logits] = []
    for turn in range(len(pictures) + max(lags.values())):
        for phase in dict.fromkeys(phase for phase, _ in lags):
            steps = [turn - lags[phase, row] for row in range(session.num_streams)]
            inside = [0 <= step < len(pictures) for step in steps]
            if not any(inside):
                continue
            # a row that waits is given another frame and starts anew with each: nothing may leak
            chosen = [step % len(pictures) for step in steps]
            reset = np.where(inside, starts[chosen], 1.0).astype(np.float32)
            logits = session.step(phase, np.ascontiguousarray(pictures[chosen]), reset[:, None])
            visits += [Visit(phase, row, steps[row]) for row in np.flatnonzero(inside).tolist()]
            rows += list(np.asarray(logits, np.float32)[inside])
    return Run(name, tuple(visits), np.stack(rows))


def judge_run(run: Run, stored: Logits, precision: Precision) -> Verdict:
    """Compare a run with the stored logits, shape (S, K)."""
    return judge_logits(run.got, run.of(stored), precision)


def first_bad_step(
    run: Run, stored: Logits, precision: Precision, labels: tuple[str, ...]
) -> BadStep | None:
    """Where a run first differs; None where it passes."""
    verdict = judge_run(run, stored, precision)
    if verdict.passed:
        return None
    index = int(verdict.bad.argmax())
    got, expected = run.got[index], run.of(stored)[index]
    off = np.abs(got - expected)
    worst = int(np.where(np.isnan(off), np.inf, off).argmax())
    return BadStep(
        visit=run.visits[index],
        label=labels[worst],
        expected=float(expected[worst]),
        got=float(got[worst]),
        top1_expected=labels[int(expected.argmax())],
        top1_got=labels[int(got.argmax())],
        sqnr_db=bounded_db(got, expected),
        before_db=bounded_db(run.got[:index], run.of(stored)[:index]) if index else None,
    )


@dataclass(frozen=True)
class PictureCheck:
    """How one camera-sized golden frame came out.

    Attributes:
        number: Which golden camera frame.
        size_px: Its height and width.
        difference: Mean difference from the stored picture, in levels of 0..255.
        cause: What explains a failure; empty where it passed or nothing does.
    """

    number: int
    size_px: tuple[int, int]
    difference: float
    cause: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is the stored picture, up to rounding."""
        return self.difference <= LARGEST_PICTURE_DIFFERENCE


def check_camera_pictures(
    bundle: Bundle, golden: Golden, fit: FitPicture = fit_picture
) -> list[PictureCheck]:
    """Compare this device's preprocessing with the stored pictures.

    Args:
        bundle: Gives the picture rule.
        golden: Gives frames and pictures.
        fit: What makes pictures of frames here.
    """
    checks = []
    pairs = zip(golden.camera_frames, golden.camera_pictures, strict=True)
    for number, (frame, expected) in enumerate(pairs):
        difference = _difference(fit(frame, bundle.picture), expected)
        cause = ""
        if difference > LARGEST_PICTURE_DIFFERENCE:
            cause = _picture_cause(frame, expected, bundle.picture, fit)
        checks.append(PictureCheck(number, frame.shape[:2], difference, cause))
    return checks


def _picture_cause(frame: Picture, expected: Picture, rule: PictureRule, fit: FitPicture) -> str:
    """What undoes the difference: swapped colours or a shift; else it is the resize."""
    allowed = EXPLAINED_SHARE * _difference(fit(frame, rule), expected)
    if _difference(fit(frame, rule)[..., ::-1], expected) < allowed:
        return "red and blue are swapped"
    reach = range(-LONGEST_SHIFT_PX, LONGEST_SHIFT_PX + 1)
    # the shift that undoes it points the other way
    found = {
        (x, y): _difference(fit(np.roll(frame, (y, x), axis=(0, 1)), rule), expected)
        for x in reach
        for y in reach
    }
    x, y = min(found, key=lambda shift: found[shift])
    if (x, y) != (0, 0) and found[x, y] < allowed:
        return f"the crop is off by x {x:+d}, y {y:+d} pixels of the camera"
    return "the crop rule differs, or this OpenCV resizes differently"


def _difference(got: Picture, expected: Picture) -> float:
    return float(np.abs(got.astype(np.int16) - expected.astype(np.int16)).mean())


def _lags(session: StepSession, name: str) -> Mapping[tuple[int, int], int]:
    """How many turns each phase and row is behind the first."""
    rows = range(session.num_streams)
    if name == TWO_PHASES:
        pair = (0, session.num_phases - 1)
        return {(phase, row): lag for lag, phase in enumerate(pair) for row in rows}
    return {(0, row): row if name == ROWS else 0 for row in rows}
