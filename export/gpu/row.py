"""What a part of the GPU check finds: numbers, and what it could not do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

TENTHS = 10


class CheckFailed(Exception):  # noqa: N818  it is a verdict
    """Something that must hold does not; the message says what was found."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured or proven.
        value: The number: a median, or a difference; None where it was skipped.
        unit: `ms`, `clips/s`, `x` (a ratio) ...
        low: 10th percentile of the rounds; None for a single number.
        high: 90th percentile.
        note: A limit, a condition, or why it was skipped.
    """

    what: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def shown(self) -> str:
        """The number for people.

        >>> Row(what="a step", value=1.234, unit="ms", low=1.1, high=1.5).shown
        '1.23 ms (1.10-1.50)'
        >>> Row(what="a difference", value=3.2e-6).shown
        '3.2e-06'
        >>> Row(what="a step", value=None, note="no GPU").shown
        'skipped'
        """
        if self.value is None:
            return "skipped"
        text = f"{_short(self.value)} {self.unit}".strip()
        if self.low is None or self.high is None:
            return text
        return f"{text} ({_short(self.low)}-{_short(self.high)})"


def skipped(what: str, why: str) -> Row:
    """Something that this machine cannot do."""
    return Row(what=what, value=None, note=why)


def row_of(what: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """Median and spread of some rounds.

    Args:
        what: What was measured.
        values: One number a round, at least two.
        unit: Their unit.
        note: A condition.

    Example:
        >>> row_of("a step", [3.0, 1.0, 2.0], "ms").shown
        '2.00 ms (1.00-3.00)'
    """
    tenths = statistics.quantiles(values, n=TENTHS, method="inclusive")
    low, high = max(min(values), tenths[0]), min(max(values), tenths[-1])
    if len(values) < TENTHS:
        low, high = min(values), max(values)
    return Row(
        what=what,
        value=statistics.median(values),
        unit=unit,
        low=low,
        high=high,
        note=note,
    )


def _short(value: float) -> str:
    """Three digits."""
    if value == 0:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"
