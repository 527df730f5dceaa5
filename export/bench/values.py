"""What a table holds: numbers with their spread for programs, lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 10, 90
# What the same machine differs by from one run to the next, as a share of a number: a virtual
# processor runs faster or slower for hours, which both sides of a ratio share but for their caches.
DRIFT, DRIFT_OF_RATIOS = 0.04, 0.01
FINEST = {"ms": 0.01, "s": 0.01}  # under it clocks and scheduling are measured
DRIFT_TEXT = (
    f"The spread of another run on the same machine: {DRIFT:.0%} of a number more on either side, "
    f"{DRIFT_OF_RATIOS:.0%} of a ratio, as a shared processor is faster or slower for hours "
    "([bench-repeat.md](bench-repeat.md))."
)


@dataclass(frozen=True)
class Value:
    """A number over some rounds.

    Attributes:
        median: Its median.
        low: Its 10th percentile.
        high: Its 90th percentile.
        unit: `ms`, `MB`, `x` (a ratio) ...
        rounds: How many.
    """

    median: float
    low: float
    high: float
    unit: str
    rounds: int

    @classmethod
    def of(cls, rounds: NDArray[np.float64] | Sequence[float], unit: str) -> Value:
        """Median and spread of some rounds, at least one.

        Example:
            >>> Value.of([1.0, 2.0, 3.0], "ms")
            Value(median=2.0, low=1.2, high=2.8, unit='ms', rounds=3)
        """
        low, median, high = np.percentile(np.asarray(rounds, np.float64), [LOW, 50, HIGH])
        return cls(
            round(float(median), 4), round(float(low), 4), round(float(high), 4), unit, len(rounds)
        )

    def __str__(self) -> str:
        """`1.16 (1.13-1.19)`, `1.16` of one round; fewer digits where they mean nothing."""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        text = f"{self.median:.{digits}f}"
        if self.rounds == 1:
            return text
        return f"{text} ({self.low:.{digits}f}-{self.high:.{digits}f})"

    def agrees(self, other: Value) -> bool:
        """Whether the spreads of two runs, each with its `drift`, have something in common.

        Example:
            >>> Value(2.0, 1.8, 2.2, "ms", 9).agrees(Value(2.3, 2.1, 2.5, "ms", 9))
            True
            >>> Value(2.0, 1.8, 2.2, "ms", 9).agrees(Value(3.0, 2.9, 3.2, "ms", 9))
            False
        """
        drift = self.drift + other.drift
        return self.low <= other.high + drift and other.low <= self.high + drift

    @property
    def drift(self) -> float:
        """What the number may be off by in another run, beyond its spread; in its unit."""
        share = DRIFT_OF_RATIOS if self.unit == "x" else DRIFT
        return max(share * abs(self.median), FINEST.get(self.unit, 0.0))


@dataclass
class Table:
    """One measurement.

    Attributes:
        name: What `--only` takes.
        title: For people.
        text: What was measured and how, and what is seen.
        header: Names of the columns.
        rows: Cells of each line.
        values: Every number by a name that stays the same between runs.
    """

    name: str
    title: str
    text: str
    header: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def add(self, key: str, rounds: NDArray[np.float64] | Sequence[float], unit: str) -> Value:
        """Keep a number; gives it for the table's line."""
        value = self.values[f"{self.name}/{key}"] = Value.of(rounds, unit)
        return value

    def to_json(self) -> dict[str, Any]:
        """The table as the JSON file stores it."""
        return asdict(self)

    def markdown(self) -> str:
        """The table for people."""
        lines = [f"## {self.title}", "", self.text, ""]
        lines += [f"| {' | '.join(self.header)} |", "|" + "---|" * len(self.header)]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, ""])


def values_from_json(data: Mapping[str, Any]) -> dict[str, Value]:
    """Every number of a stored run by its name.

    Raises:
        KeyError: It is no such file.
        TypeError: The same.
    """
    return {
        key: Value(**value) for table in data["tables"] for key, value in table["values"].items()
    }
