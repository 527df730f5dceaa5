"""Faults that real parts do not show on demand. Each wraps a real part and spoils one thing."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError
from runtime.sessions.base import Held, Logits, StepSession
from runtime.sources.uri import SourceUri


class RecordingSession:
    """A real session that remembers its calls, and can be told to change them."""

    def __init__(self, session: StepSession, *, nan_at: Collection[int] = ()) -> None:
        self.calls: list[tuple[int, bool]] = []  # phase, reset
        self._session = session
        self._nan_at = nan_at

    @property
    def description(self) -> str:
        return self._session.description

    @property
    def num_streams(self) -> int:
        return self._session.num_streams

    @property
    def num_phases(self) -> int:
        return self._session.num_phases

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        self.calls.append((phase, bool(reset[0, 0] > 0.5)))
        logits = self._session.step(*self.changed(phase, frames, reset), held)
        if len(self.calls) - 1 in self._nan_at:
            logits[0, 0] = np.nan
        return logits

    def changed(
        self, phase: int, frames: NDArray[np.uint8], reset: NDArray[np.float32]
    ) -> tuple[int, NDArray[np.uint8], NDArray[np.float32]]:
        """What reaches the real session."""
        return phase, frames, reset

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> RecordingSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class BgrSession(RecordingSession):
    """Gives the engine blue first."""

    def changed(self, phase, frames, reset):
        return phase, np.ascontiguousarray(frames[..., ::-1]), reset


class ForgetfulSession(RecordingSession):
    """Does not feed the states back."""

    def changed(self, phase, frames, reset):
        return phase, frames, np.ones_like(reset)


class OnePhaseSession(RecordingSession):
    """Lets all phases share the first one's states."""

    def changed(self, phase, frames, reset):
        return 0, frames, reset


class BrokenCapture:
    """A capture that gives so many frames and then fails, as an unplugged camera does.

    Attributes:
        held_ready: So many frames are there at once; later ones come 40 ms after each other.
    """

    def __init__(self, frames: int, *, first_msec: float = 0.0) -> None:
        self.released = False
        self.held_ready = frames
        self._given = 0
        self._left = frames
        self._msec = first_msec - 40.0

    def grab(self) -> bool:
        if self._given >= self.held_ready and self._left > 0:
            time.sleep(0.04)
        self._given += 1
        self._left -= 1
        self._msec += 40.0
        return self._left >= 0

    def retrieve(self) -> tuple[bool, NDArray[Any]]:
        return True, np.zeros((8, 8, 3), np.uint8)

    def get(self, propId: int) -> float:
        return self._msec

    def release(self) -> None:
        self.released = True


class Opener:
    """Gives prepared captures one after another; an entry of None cannot be opened."""

    def __init__(self, *captures: BrokenCapture | None) -> None:
        self.attempts = 0
        self._captures = list(captures)

    def __call__(self, uri: SourceUri) -> BrokenCapture:
        self.attempts += 1
        capture = self._captures.pop(0) if self._captures else None
        if capture is None:
            raise SourceError(f"{uri.name} cannot be opened")
        return capture
