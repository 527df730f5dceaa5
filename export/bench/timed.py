"""CPU time of one call, and of a session's steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.base import Held, Logits, StepSession

Found = TypeVar("Found")


def timed(call: Callable[[], Found]) -> tuple[Found, float]:
    """What a call gives, and the process's CPU time of it in milliseconds."""
    started_ns = time.process_time_ns()
    found = call()
    return found, (time.process_time_ns() - started_ns) / 1e6


class CpuTimedSession:
    """A session that keeps the CPU time and the wall time of its last step.

    Args:
        session: The session, which its owner closes.

    Attributes:
        cpu_ms: CPU time of the last step.
        wall_ms: Wall time of the last step.
    """

    def __init__(self, session: StepSession) -> None:
        self._session = session
        self.num_streams, self.num_phases = session.num_streams, session.num_phases
        self.description = session.description
        self.cpu_ms = self.wall_ms = 0.0

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase; see `StepSession.step`."""
        cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
        logits = self._session.step(phase, frames, reset, held)
        self.cpu_ms = (time.process_time_ns() - cpu_ns) / 1e6
        self.wall_ms = (time.perf_counter_ns() - wall_ns) / 1e6
        return logits

    def close(self) -> None:
        """The session stays its owner's."""

    def __enter__(self) -> CpuTimedSession:
        """Return the session itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """The session stays its owner's."""
