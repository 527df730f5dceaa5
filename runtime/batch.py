"""The rows of one session: those that are due step together, the others keep their states."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np

from runtime.bundle import Bundle
from runtime.sessions.base import StepSession
from runtime.stepper import TOLERABLE_MISSES, Due, Moment, Stepper

logger = logging.getLogger(__name__)


class Batch:
    """Steps streams in a session with one row for each.

    Args:
        bundle: Picture rule and sampling contract.
        session: A session with one row a stream.
        steppers: What each row's stream does; row 0 first.

    Raises:
        ValueError: The session has another number of rows.
    """

    def __init__(self, bundle: Bundle, session: StepSession, steppers: Sequence[Stepper]) -> None:
        count = len(steppers)
        if session.num_streams != count:
            raise ValueError(
                f"{count} stream(s) need a session with as many, got {session.num_streams}; "
                f"open it with num_streams={count}"
            )
        rule = bundle.picture
        self._session = session
        self._steppers = steppers
        self._frames = np.zeros((count, rule.height_px, rule.width_px, 3), np.uint8)
        self._reset = np.zeros((count, 1), np.float32)
        self._num_segments = bundle.sampling.num_segments
        self._begin_window()

    def step(self, dues: Mapping[int, Due]) -> dict[int, Moment]:
        """Step the rows that are due in one phase.

        Args:
            dues: By row, at least one, all of the same phase.

        Returns:
            What came of them, by row.

        Raises:
            ValueError: None is due, or not all are of one phase.
            SessionError: The engine failed.
        """
        phases = {due.tick.phase for due in dues.values()}
        if len(phases) != 1:
            raise ValueError(f"a step is of one phase, got {sorted(phases)}")
        held = np.ones(len(self._steppers), np.bool_)
        for row, due in dues.items():
            self._frames[row] = due.picture
            self._reset[row] = due.starts
            held[row] = False
        call = (phases.pop(), self._frames, self._reset)
        began_s = time.perf_counter()
        logits = self._session.step(*call, held) if held.any() else self._session.step(*call)
        step_s = time.perf_counter() - began_s
        moments = {
            row: self._steppers[row].finish(due, np.asarray(logits[row], np.float32), step_s)
            for row, due in dues.items()
        }
        self._watch_load(dues)
        return moments

    def _watch_load(self, dues: Mapping[int, Due]) -> None:
        """Drop a phase, for all rows at once, where this process cannot keep up.

        A source that is too slow is not counted: it must not cost the others a phase.
        """
        for row, due in dues.items():
            if not due.tick.is_gap:
                self._window_rows.add(row)
                self._window_ticks += 1 + due.tick.missed
                self._window_missed += due.overload
        phases = max(stepper.phases for stepper in self._steppers)
        if self._window_ticks < self._num_segments * phases * max(1, len(self._window_rows)):
            return
        share = self._window_missed / self._window_ticks
        self._begin_window()
        if phases > 1 and share > TOLERABLE_MISSES:
            self._drop_phase(phases - 1, share)

    def _drop_phase(self, phases: int, share: float) -> None:
        logger.warning(
            "%.0f %% of the ticks came while this machine was busy: %d phase(s) from here on",
            100 * share,
            phases,
        )
        for stepper in self._steppers:
            if stepper.phases > phases:
                stepper.drop_phases(phases)

    def _begin_window(self) -> None:
        self._window_ticks = self._window_missed = 0
        self._window_rows: set[int] = set()
