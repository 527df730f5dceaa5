"""What a session is: one step graph loaded into an engine, with the states it owns."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]
Held: TypeAlias = NDArray[np.bool_]


class StepSession(Protocol):
    """A step graph with its recurrent states, one set of them for each phase.

    The states live inside the session: two buffers for each state and phase, swapped after every
    step (the same buffer as input and output gives wrong results). A session belongs to the
    thread that made it.
    """

    @property
    def description(self) -> str:
        """Engine, its version, device and precision, for people and logs."""
        ...

    @property
    def num_streams(self) -> int:
        """Rows N of the batch."""
        ...

    @property
    def num_phases(self) -> int:
        """Independent sets of states."""
        ...

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase by one frame a stream.

        Args:
            phase: Whose states to use, 0 <= phase < num_phases.
            frames: One picture a stream, shape (N, H, W, 3), uint8, RGB.
            reset: 1 where a stream starts from the zero state, else 0; shape (N, 1), float32.
            held: Streams that keep their states of this phase as they were, shape (N,), bool;
                their frames and resets are ignored. None where every stream steps.

        Returns:
            Logits, shape (N, K), float32, without a meaning where held; the caller's own copy.

        Raises:
            ValueError: Shapes or dtypes that the graph does not take.
            SessionError: The engine failed.
        """
        ...

    def close(self) -> None:
        """Free what the session holds; a second call does nothing."""
        ...

    def __enter__(self) -> Any:
        """Return the session itself."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Close the session."""
        ...
