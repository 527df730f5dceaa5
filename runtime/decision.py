"""From logits to a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.base import Logits


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """What the model says at one tick.

    Attributes:
        source: Name of the source, without credentials.
        tick: Number of the tick since the schedule started.
        phase: Phase that stepped.
        label: The most probable class.
        index: Its number in the bundle's labels.
        action: The action that it speaks for; None for "none of these": its probability or lead
            is under the policy's thresholds, or the class is the background, an ignored one, or
            warming.
        prob: Its probability, 0..1.
        probs: Probabilities of all classes, shape (K,), float32.
        warming: A phase has not seen T frames since its reset: do not rely on it yet.
        stream_time_s: Stream time of the frame that triggered it.
        monotonic_ns: Monotonic clock when it was made.
        utc: Wall clock when it was made, ISO 8601.
        latency_ms: From the frame's grab to here.
    """

    source: str
    tick: int
    phase: int
    label: str
    index: int
    prob: float
    probs: NDArray[np.float32]
    warming: bool
    stream_time_s: float
    monotonic_ns: int
    utc: str
    latency_ms: float
    action: str | None = None

    def top(self, labels: Sequence[str], count: int) -> list[tuple[str, float]]:
        """The `count` most probable labels with their probabilities, best first."""
        best = np.argsort(-self.probs, kind="stable")[:count]
        return [(labels[index], float(self.probs[index])) for index in best]


def consensus(windows: Sequence[NDArray[np.float32]]) -> Logits:
    """Segment consensus: the mean over time in each phase, then the mean over phases.

    Args:
        windows: The last logits of each phase, shapes (n, K), float32, n >= 1.

    Returns:
        Logits, shape (K,), float32.

    Raises:
        ValueError: No phase has any logits.
    """
    if not windows:
        raise ValueError("consensus needs the logits of at least one phase, got none")
    per_phase = [window.mean(axis=0, dtype=np.float32) for window in windows]
    return np.asarray(np.mean(per_phase, axis=0, dtype=np.float32), np.float32)


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities of logits, shape (K,), float32.

    Args:
        logits: Shape (K,), float32.
        temperature: Divides them, > 0: above 1 the probabilities are less sure.

    Example:
        >>> softmax(np.array([1000, 1000], np.float32)).tolist()
        [0.5, 0.5]
    """
    powers = np.exp((logits - logits.max()) / np.float32(temperature), dtype=np.float32)
    return np.asarray(powers / powers.sum(dtype=np.float32), np.float32)


def utc_now() -> str:
    """The wall clock as ISO 8601 in UTC, with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
