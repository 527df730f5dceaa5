"""Signal to noise of what comes in pieces, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.decibels import LARGEST_DB
from export.stream.growth import NUM_BLOCKS


def _zeros() -> NDArray[np.float64]:
    return np.zeros(NUM_BLOCKS)


@dataclass(eq=False)
class Noise:
    """Powers of a signal and of its noise.

    Attributes:
        signal: By block, shape (`NUM_BLOCKS`,).
        noise: Likewise.
    """

    signal: NDArray[np.float64] = field(default_factory=_zeros)
    noise: NDArray[np.float64] = field(default_factory=_zeros)

    @classmethod
    def of_all(cls, parts: Iterable[Noise]) -> Noise:
        """Several signals as one."""
        whole = cls()
        for part in parts:
            whole.signal += part.signal
            whole.noise += part.noise
        return whole

    def add(self, block: int, expected: NDArray[Any], got: NDArray[Any]) -> None:
        """Count a piece of the signal; shapes are equal."""
        reference = expected.astype(np.float64)
        self.signal[block] += float(np.square(reference).sum())
        self.noise[block] += float(np.square(got - reference).sum())

    @property
    def sqnr_db(self) -> float:
        """Decibels in all, within ±999."""
        return _decibels(float(self.signal.sum()), float(self.noise.sum()))

    @property
    def by_block(self) -> list[float]:
        """Decibels of each block, within ±999."""
        pairs = zip(self.signal, self.noise, strict=True)
        return [_decibels(float(signal), float(noise)) for signal, noise in pairs]


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return LARGEST_DB
    if signal == 0:
        return -LARGEST_DB
    return min(LARGEST_DB, max(-LARGEST_DB, 10 * math.log10(signal / noise)))
