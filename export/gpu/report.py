"""The GPU check for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from export.gpu.effort import Effort
from export.gpu.row import Row
from export.gpu.runner import Outcome


@dataclass(frozen=True)
class Report:
    """What one run of the check found.

    Attributes:
        machine: What it ran on, a line.
        effort: Its sizes.
        outcomes: What became of each part.
    """

    machine: str
    effort: Effort
    outcomes: Sequence[Outcome]

    @property
    def failures(self) -> list[str]:
        """Parts that make the check fail, and why."""
        return [f"{o.part.name}: {o.reason}" for o in self.outcomes if o.is_bad]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "machine": self.machine,
            "effort": asdict(self.effort),
            "passed": not self.failures,
            "parts": [outcome.to_json() for outcome in self.outcomes],
        }

    def markdown(self) -> str:
        """A page: a table, what was skipped and why, the machine."""
        lines = ["# GPU check", "", "    make gpu-check", ""]
        if self.effort.device == "cpu":
            lines += ["A trial on a CPU with tiny sizes: its numbers say nothing about a GPU.", ""]
        lines += ["| part | what | result | |", "|---|---|---|---|"]
        for outcome in self.outcomes:
            name = outcome.part.name
            lines += [_line(name, row) for row in outcome.rows if row.value is not None]
        lines += ["", "| part | status | seconds |", "|---|---|---|"]
        lines += [f"| {o.part.name} | {o.status} | {o.seconds:.0f} |" for o in self.outcomes]
        missing = [f"- {o.part.name}: {_cell(why)}" for o in self.outcomes for why in o.not_done]
        if missing:
            lines += ["", "Skipped or not finished:", "", *missing]
        lines += ["", "Medians, in brackets the 10th and 90th percentile of the rounds.", ""]
        return "\n".join([*lines, self.machine, ""])


def row_line(part: str, row: Row) -> str:
    """A row as the command prints it.

    >>> row_line("law", Row(what="tiny", value=3e-7, note="must be small"))
    'law       tiny: 3.0e-07  (must be small)'
    """
    note = f"  ({row.note})" if row.note else ""
    return f"{part:<10}{row.what}: {row.shown}{note}"


def _line(part: str, row: Row) -> str:
    return f"| {part} | {_cell(row.what)} | {row.shown} | {_cell(row.note)} |"


def _cell(text: str) -> str:
    """Text that cannot end its cell."""
    return text.replace("|", "\\|")
