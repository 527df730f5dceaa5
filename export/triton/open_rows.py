"""A step graph whose number of rows is open, in ONNX Runtime: each step may have another one.

A server that keeps states for its callers runs a batch of whoever has a frame. This session does
so too, to prove before a server does that rows neither mix nor hold on to a batch size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.errors import ExportError
from runtime.sessions.base import Held, Logits


class OpenRowsSession:
    """A model file with an open number of rows, and one phase of states for `num_streams` rows.

    Args:
        model: A serialised ONNX model whose first axes are open.
        states: Its states.
        num_streams: Rows N of a step.

    Raises:
        ExportError: ONNX Runtime is missing, or refuses the file.
    """

    num_phases = 1

    def __init__(self, model: bytes, states: tuple[StateSpec, ...], num_streams: int) -> None:
        self._session = _session(model)
        self._specs = states
        self.num_streams = num_streams
        self.description = f"ONNX Runtime, {num_streams} rows of an open number"
        self._states: dict[str, NDArray[Any]] = {
            state.name_in: np.zeros((num_streams, *state.shape[1:]), state.dtype)
            for state in states
        }

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance by one frame a row; see `StepSession.step`. There is one phase, and no hold."""
        if held is not None:
            raise ValueError("a session with an open number of rows holds none of them")
        names = [LOGITS_OUTPUT, *(state.name_out for state in self._specs)]
        feeds = {FRAME_INPUT: frames, RESET_INPUT: reset, **self._states}
        try:
            logits, *after = self._session.run(names, feeds)
        except Exception as err:  # ONNX Runtime's share no other base
            raise ExportError(
                f"the step graph does not run with {self.num_streams} rows ({err}); "
                "a node holds the batch size: export the bundle again"
            ) from err
        self._states = {s.name_in: value for s, value in zip(self._specs, after, strict=True)}
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Nothing outlives the object."""

    def __enter__(self) -> OpenRowsSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _session(model: bytes) -> Any:
    try:
        from export.reference import reference_of
    except ImportError as err:
        raise ExportError(
            f"onnxruntime cannot be imported ({err}); pip install 'tdrl-edge[cpu]'"
        ) from err
    try:
        return reference_of(model)
    except Exception as err:
        raise ExportError(
            f"ONNX Runtime refuses the graph with an open number of rows ({err}); "
            "export the bundle again"
        ) from err
