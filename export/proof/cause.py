"""Why an engine's logits are wrong, found by experiments on the engine itself.

Nothing but the session and the stored logits is at hand on a device. So each experiment undoes
one fault (swaps the colours back, shifts the picture back, resets every step) and looks whether
the logits become right, or whether they were those of the fault all along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from export.proof.golden import (
    LONGEST_SHIFT_PX,
    ONE_PHASE,
    ROWS,
    TWO_PHASES,
    Run,
    judge_run,
    run_golden,
)
from runtime.bundle import Golden, Precision
from runtime.selftest import judge_logits, sqnr_db
from runtime.sessions.base import Logits, StepSession

# An explanation has to bring the logits this near, and so much nearer than without it.
EXPLAINED_DB = 15.0
GAINED_DB = 10.0
SAME_DB = 60.0
OFFSET_STEPS = (16, 8, 4, 2, 1)  # levels of 0..255
UNKNOWN = (
    "wrong from the zero state on: another model's weights, another normalisation, or an engine "
    "of another graph; rebuild the engine, then export the bundle again"
)


@dataclass(frozen=True)
class Evidence:
    """What a failure is judged by.

    Attributes:
        session: The session that failed.
        golden: The golden sequence.
        precision: Which of the stored logits it has to match.
        stored: Stored logits by precision, shape (S, K).
    """

    session: StepSession
    golden: Golden
    precision: Precision
    stored: Mapping[Precision, Logits]

    @property
    def expected(self) -> Logits:
        """The logits to match, shape (S, K)."""
        return self.stored[self.precision]

    def run(self, frames: NDArray[np.uint8] | None = None, *, always_reset: bool = False) -> Logits:
        """Logits of the first row, stepped alone, shape (S, K)."""
        found = run_golden(
            self.session, self.golden, ONE_PHASE, frames=frames, always_reset=always_reset
        )
        return found.got[:: self.session.num_streams]


def find_cause(evidence: Evidence, failed: Run) -> str:
    """What a failure usually means.

    Args:
        evidence: The session and what it should give.
        failed: The first run that failed; simpler runs of this session passed.

    Raises:
        SessionError: The engine failed.
    """
    if not np.isfinite(failed.got).all():
        return "logits that are no numbers: half precision overflowed, or a buffer was not written"
    if failed.name == TWO_PHASES:
        return "a phase alone is right: phases share their states, or a step uses another's"
    if failed.name == ROWS:
        return "rows with the same frames are right: rows of the batch are mixed up"
    for cause in _simple_causes(evidence, failed.got[:: evidence.session.num_streams]):
        return cause
    verdict = judge_run(failed, evidence.expected, evidence.precision)
    restarts = failed.of(evidence.golden.reset) > 0.5
    restarts[[visit.step == 0 for visit in failed.visits]] = True
    if not verdict.bad[restarts].any():
        return _state_cause(evidence)
    if not verdict.bad[[visit.step == 0 for visit in failed.visits]].any():
        return "right until a restart: `reset` does not clear the states"
    return _picture_cause(evidence) or UNKNOWN


def blind_spots(evidence: Evidence, *, has_states: bool) -> list[str]:
    """Faults that this golden sequence does not show, though this engine has none.

    Where a model says nearly the same about every golden frame, a fault can hide behind the noise
    that the precision is allowed.

    Args:
        evidence: A session that passed, and what it should give.
        has_states: Whether the graph has states at all.

    Raises:
        SessionError: The engine failed.
    """
    faults = {"swapped colours": evidence.run(evidence.golden.frames[..., ::-1])}
    if has_states:
        faults["states that are not fed back"] = evidence.run(always_reset=True)
    return [
        fault
        for fault, got in faults.items()
        if judge_logits(got, evidence.expected, evidence.precision).passed
    ]


def _simple_causes(evidence: Evidence, got: Logits) -> Iterator[str]:
    """What the first row's logits, shape (S, K), tell without an experiment."""
    precision = evidence.precision
    if judge_logits(got, evidence.expected, precision).passed:
        yield "the first row of the batch is right and another is not: rows are mixed up"
    if np.ptp(got, axis=0).max() == 0:
        yield "all steps give the same logits: frames do not reach the engine"
    if judge_logits(got[1:], evidence.expected[:-1], precision).passed:
        yield "each step gives the logits of the one before: they are read before they are written"
    own_db = sqnr_db(got, evidence.expected)
    for other, logits in evidence.stored.items():
        nearer = sqnr_db(got, logits) > own_db + GAINED_DB
        if other != precision and nearer and judge_logits(got, logits, other).passed:
            yield f"these are the logits of the {other} graph: the engine was built from it"


def _state_cause(evidence: Evidence) -> str:
    """All restarts are right, so picture and weights are, and the states are not."""
    if sqnr_db(evidence.run(always_reset=True), evidence.run()) > SAME_DB:
        return "every step gives what a restart gives: the states are not fed back"
    return (
        "right after each restart and wrong from the next step on: states reach the wrong inputs "
        "(two are swapped, or a state is read and written in one buffer)"
    )


def _picture_cause(evidence: Evidence) -> str:
    """The change of the picture that makes the logits right; empty where none does."""
    frames = evidence.golden.frames
    least_db = max(EXPLAINED_DB, sqnr_db(evidence.run(), evidence.expected) + GAINED_DB)

    def explains(changed: NDArray[np.uint8]) -> bool:
        got = evidence.run(changed)
        right = judge_logits(got, evidence.expected, evidence.precision).passed
        return right or sqnr_db(got, evidence.expected) >= least_db

    if explains(frames[..., ::-1]):
        return "red and blue are swapped on the way to the engine"
    shift = _best_shift(evidence)
    if explains(_shifted(frames, shift)):
        # what undoes a fault points the other way
        return f"the picture is shifted by x {-shift[0]:+d}, y {-shift[1]:+d} pixels"
    offset = _best_offset(evidence)
    if explains(_brighter(frames, offset)):
        levels = ", ".join(f"{level:+d}" for level in offset)
        return f"the mean is wrong, by about {levels} levels of red, green, blue"
    return ""


def _best_shift(evidence: Evidence) -> tuple[int, int]:
    """The shift in x and y after which restarts are nearest to the stored logits."""
    reach = range(-LONGEST_SHIFT_PX, LONGEST_SHIFT_PX + 1)
    frames = evidence.golden.frames
    shifts = [(x, y) for x in reach for y in reach]
    return max(shifts, key=lambda shift: _restarts_db(evidence, _shifted(frames, shift)))


def _best_offset(evidence: Evidence) -> tuple[int, int, int]:
    """Levels of red, green and blue after which restarts are nearest: a search by halving steps."""
    frames = evidence.golden.frames
    best = (0, 0, 0)
    best_db = _restarts_db(evidence, frames)
    for size in OFFSET_STEPS:
        improved = True
        while improved:
            improved = False
            for offset in _neighbours(best, size):
                found_db = _restarts_db(evidence, _brighter(frames, offset))
                if found_db > best_db:
                    best, best_db, improved = offset, found_db, True
    return best


def _neighbours(offset: tuple[int, int, int], size: int) -> Iterator[tuple[int, int, int]]:
    """Every other offset that is one step or none away in each colour."""
    for moves in product((0, -size, size), repeat=3):
        if any(moves):
            red, green, blue = (level + move for level, move in zip(offset, moves, strict=True))
            yield red, green, blue


def _restarts_db(evidence: Evidence, frames: NDArray[np.uint8]) -> float:
    """SQNR of the golden steps that start from the zero state, each run alone."""
    session, golden = evidence.session, evidence.golden
    restarts = np.flatnonzero(golden.reset > 0.5).tolist() or [0]
    starts = np.ones((session.num_streams, 1), np.float32)
    got = [
        session.step(0, np.repeat(frames[step][np.newaxis], session.num_streams, axis=0), starts)[0]
        for step in restarts
    ]
    return sqnr_db(np.stack(got), evidence.expected[restarts])


def _shifted(frames: NDArray[np.uint8], shift: tuple[int, int]) -> NDArray[np.uint8]:
    """Pictures moved by x, y pixels; what leaves on one side comes back on the other."""
    x, y = shift
    return np.roll(frames, (y, x), axis=(1, 2))


def _brighter(frames: NDArray[np.uint8], offset: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pictures with levels of red, green and blue added, cut at 0 and 255."""
    return np.clip(frames.astype(np.int16) + np.array(offset, np.int16), 0, 255).astype(np.uint8)
