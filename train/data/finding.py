"""One thing that was found in a data set, and how it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MOST_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: `error`: training refuses the data, or their accuracy would be a lie; `warning`:
            look at it; `note`: good to know.
        code: Its kind, the same in every data set.
        text: What, where, and what to do.
    """

    severity: Severity
    code: str
    text: str


def count_of(things: Sequence[object], name: str) -> str:
    """How many there are, and the verb.

    Example:
        >>> count_of(["a.mp4"], "recording"), count_of([1, 2], "clip")
        ('1 recording is', '2 clips are')
    """
    return f"1 {name} is" if len(things) == 1 else f"{len(things)} {name}s are"


def named(things: Sequence[object]) -> str:
    """The first few of them.

    Example:
        >>> named("abcde")
        'a, b, c and 2 more'
    """
    shown = ", ".join(str(thing) for thing in things[:MOST_NAMED])
    more = len(things) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
