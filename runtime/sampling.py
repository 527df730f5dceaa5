"""The sampling contract: how frames were drawn in training, so that the live runtime does the same.

A clip of training is T frames spread over an action of some seconds. The contract travels from
the training data into the checkpoint and on into the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WINDOW_GRID_S = 0.25
DECISIONS_PER_SECOND = 4.0
MOST_SEGMENTS = 4096
LONGEST_WINDOW_S = 86400.0
SHORTEST_SPACING_S = 0.001  # no camera is faster


@dataclass(frozen=True)
class ClipLengths:
    """Statistics of the training clips' lengths, in seconds."""

    count: int
    p10_s: float
    median_s: float
    p90_s: float

    @classmethod
    def of(cls, lengths_s: Sequence[float]) -> ClipLengths:
        """Statistics of a list of lengths.

        Raises:
            ValueError: The list is empty.
        """
        if len(lengths_s) == 0:
            raise ValueError("lengths_s must hold at least one length, got none")
        p10, median, p90 = np.percentile(np.asarray(lengths_s, np.float64), [10, 50, 90])
        return cls(
            len(lengths_s), round(float(p10), 3), round(float(median), 3), round(float(p90), 3)
        )


@dataclass(frozen=True, kw_only=True)
class SamplingContract:
    """T segments over a window of seconds.

    Attributes:
        num_segments: Segments T of a training clip, one frame each.
        window_s: Seconds that the T frames span.
        consensus_len: How many of the last logits a live decision averages, fitted on a
            validation tape.
        clip_lengths: Lengths of the training clips; None where they are unknown.
    """

    num_segments: int
    window_s: float
    consensus_len: int
    clip_lengths: ClipLengths | None = None

    def __post_init__(self) -> None:
        for name in ("num_segments", "consensus_len"):
            if not 1 <= getattr(self, name) <= MOST_SEGMENTS:
                raise ValueError(f"{name} must be in 1..{MOST_SEGMENTS}, got {getattr(self, name)}")
        if not 0 < self.window_s <= LONGEST_WINDOW_S:
            raise ValueError(
                f"window_s must be > 0 and <= {LONGEST_WINDOW_S:g}, got {self.window_s}; "
                "retrain or set --window"
            )
        if self.spacing_s < SHORTEST_SPACING_S:
            raise ValueError(
                f"window_s must be >= {SHORTEST_SPACING_S * self.num_segments:g} for "
                f"{self.num_segments} segments, got {self.window_s}; retrain or set --window"
            )

    @property
    def spacing_s(self) -> float:
        """Seconds between the frames of one phase."""
        return self.window_s / self.num_segments

    @property
    def warm_up_s(self) -> float:
        """Seconds from a phase's first frame to its first decision on a whole window."""
        return self.window_s - self.spacing_s

    def to_json(self) -> dict[str, Any]:
        """The contract as `bundle.json` and checkpoints store it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SamplingContract:
        """The contract that `to_json` wrote.

        Raises:
            ValueError: Values out of range.
            KeyError: A field is missing.
        """
        lengths = data["clip_lengths"]
        return cls(
            num_segments=int(data["num_segments"]),
            window_s=float(data["window_s"]),
            consensus_len=int(data["consensus_len"]),
            clip_lengths=None if lengths is None else ClipLengths(**lengths),
        )


def window_from_lengths(lengths_s: Sequence[float]) -> float:
    """The default window: the median clip length on a grid of a quarter second.

    Example:
        >>> window_from_lengths([1.4, 2.1, 2.9])
        2.0
    """
    median = ClipLengths.of(lengths_s).median_s
    return max(WINDOW_GRID_S, round(median / WINDOW_GRID_S) * WINDOW_GRID_S)


def default_phases(contract: SamplingContract) -> int:
    """The fewest phases that decide at least four times a second.

    Example:
        >>> default_phases(SamplingContract(num_segments=8, window_s=4.0, consensus_len=8))
        2
    """
    return max(1, math.ceil(contract.spacing_s * DECISIONS_PER_SECOND - 1e-9))
