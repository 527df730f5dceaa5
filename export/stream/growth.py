"""Does a distance grow along a stream? A stream's blocks hold the same clips, so they compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BLOCKS = 10
# Student's t with NUM_BLOCKS - 2 = 8 degrees of freedom: five in a thousand are above it by chance.
LARGEST_T = 3.36
# A smaller trend over the whole stream is no fault, however sure it is, and chance seldom makes a
# larger one: of 4,500 streams of mere noise 6 were called growing, of 300 that doubled all.
LARGEST_GROWTH = 1.5
# A straight line does not fit what breaks out near the end. The last two blocks are held against
# the eight before them: Student's t with 7 degrees of freedom, one in a thousand.
LAST_BLOCKS = 2
LARGEST_BREAK_T = 4.79
LARGEST_RATIO = 2.0
BOUND = 999.0  # in place of infinite, which JSON has not


@dataclass(frozen=True)
class Growth:
    """How a distance behaves along a stream.

    Attributes:
        blocks: Median distance in each of `NUM_BLOCKS` equal blocks, in order.
        t_value: Student's t of the line's slope through the blocks, within ±999.
        growth: The line's end ÷ its start, at most 999; 1 is none.
        ratio: Mean of the last two blocks ÷ that of those before them, at most 999.
        break_t: Student's t of the difference of these two means, within ±999.
    """

    blocks: tuple[float, ...]
    t_value: float
    growth: float
    ratio: float
    break_t: float

    @property
    def grows(self) -> bool:
        """A trend that is sure and large, or an end that surely is far above what was before."""
        trend = self.t_value > LARGEST_T and self.growth > LARGEST_GROWTH
        return trend or (self.break_t > LARGEST_BREAK_T and self.ratio > LARGEST_RATIO)

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {**asdict(self), "blocks": list(self.blocks), "grows": self.grows}


def growth_of(distance: NDArray[np.float64]) -> Growth:
    """Judge a distance step by step.

    The test is a straight line's slope against its standard error, over block medians: blocks are
    longer than any memory of the stream, so they are nearly independent, and one odd step moves
    no median.

    Args:
        distance: Shape (S,), S >= `NUM_BLOCKS`, finite, >= 0. The first steps, where states are
            equal still, are left out by the caller.

    Raises:
        ValueError: Too few steps, or values that are no distances.

    Example:
        >>> growth_of(np.linspace(1, 3, 1000)).grows
        True
        >>> growth_of(np.ones(1000)).grows
        False
    """
    if distance.ndim != 1 or len(distance) < NUM_BLOCKS:
        raise ValueError(f"want one distance a step, at least {NUM_BLOCKS}, got {distance.shape}")
    if not (np.isfinite(distance).all() and (distance >= 0).all()):
        raise ValueError("distances must be finite and >= 0")
    blocks = np.array([np.median(part) for part in np.array_split(distance, NUM_BLOCKS)])
    place = np.arange(NUM_BLOCKS) - (NUM_BLOCKS - 1) / 2
    slope = float(place @ blocks / (place @ place))
    rest = blocks - blocks.mean() - slope * place
    error = float(np.sqrt(rest @ rest / (NUM_BLOCKS - 2) / (place @ place)))
    half = slope * (NUM_BLOCKS - 1) / 2
    before, last = blocks[:-LAST_BLOCKS], blocks[-LAST_BLOCKS:]
    scatter = float(before.std(ddof=1)) * (1 / len(before) + 1 / len(last)) ** 0.5
    return Growth(
        blocks=tuple(float(value) for value in blocks),
        t_value=_bounded(slope, error),
        growth=_bounded(float(blocks.mean()) + half, max(0.0, float(blocks.mean()) - half)),
        ratio=_bounded(float(last.mean()), float(before.mean())),
        break_t=_bounded(float(last.mean() - before.mean()), scatter),
    )


def _bounded(above: float, below: float) -> float:
    """A quotient within ±999; 0 ÷ 0 is 0."""
    if above == 0:
        return 0.0
    if below <= abs(above) / BOUND:
        return float(np.copysign(BOUND, above))
    return above / below
