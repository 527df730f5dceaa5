"""Two runs side by side: whether each number agrees within the spread that the runs state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bench.values import Value, values_from_json
from runtime.errors import ExportError


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common.

    Attributes:
        agree: Names of numbers whose spreads overlap, see `Value.agrees`.
        differ: Those whose spreads do not, with both numbers for people.
    """

    agree: tuple[str, ...]
    differ: Mapping[str, tuple[Value, Value]]

    def text(self) -> str:
        """Counts, and a line for each that differs; ratios and times apart."""
        lines = [f"{len(self.agree)} of {len(self.agree) + len(self.differ)} numbers agree"]
        for unit in sorted({new.unit for _, new in self.differ.values()}, key=lambda u: u != "x"):
            lines += [
                f"  {key}: was {old}, is {new} {'' if unit == 'x' else unit}".rstrip()
                for key, (old, new) in self.differ.items()
                if new.unit == unit
            ]
        return "\n".join(lines)


def compare(old: Mapping[str, Value], new: Mapping[str, Value]) -> Comparison:
    """Compare the numbers that both runs have.

    A number of one round has no spread, so it is left out.

    Raises:
        ExportError: They have none in common.
    """
    common = [key for key in new if key in old and min(new[key].rounds, old[key].rounds) > 1]
    if not common:
        raise ExportError("the two runs have no number in common; nothing is compared")
    agree = tuple(key for key in common if new[key].agrees(old[key]))
    return Comparison(agree, {key: (old[key], new[key]) for key in common if key not in agree})


def read_run(path: Path) -> dict[str, Value]:
    """The numbers that an earlier run wrote.

    Raises:
        ExportError: It is no file of a bench.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return values_from_json(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ExportError(
            f"{path} is no run of `make bench` ({type(err).__name__}: {err}); pass the JSON that "
            "an earlier run wrote"
        ) from err
