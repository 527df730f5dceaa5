"""CPU time of one call, and of a session's steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from export.proof.latency import TimedSession
from runtime.sessions.base import Held, Logits, StepSession

Found = TypeVar("Found")


def timed(call: Callable[[], Found]) -> tuple[Found, float]:
    """What a call gives, and the process's CPU time of it in milliseconds."""
    started_ns = time.process_time_ns()
    found = call()
    return found, (time.process_time_ns() - started_ns) / 1e6


class CpuTimedSession(TimedSession):
    """A session that keeps the CPU time and the wall time of its last step.

    Args:
        session: The session, which its owner closes.

    Attributes:
        cpu_ms: CPU time of the last step.
    """

    def __init__(self, session: StepSession) -> None:
        super().__init__(session, session.num_phases)
        self.cpu_ms = 0.0

    @property
    def wall_ms(self) -> float:
        """Wall time of the last step."""
        return (self.end_ns - self.start_ns) / 1e6

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase; see `StepSession.step`."""
        logits, self.cpu_ms = timed(partial(super().step, phase, frames, reset, held))
        return logits
