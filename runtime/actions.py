"""Stretches of equal decisions: what was seen, from when to when. Thin and pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.decision import Decision


@dataclass(frozen=True)
class Action:
    """Consecutive decisions for one label.

    Attributes:
        label: The label.
        start_s: Stream time of the first decision.
        end_s: Stream time of the last decision.
        peak_prob: Largest probability among them, 0..1.
        decisions: How many there were.
    """

    label: str
    start_s: float
    end_s: float
    peak_prob: float
    decisions: int = 1

    def to_json(self) -> dict[str, Any]:
        """The action as an event's details."""
        return {
            "label": self.label,
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "peak_prob": round(self.peak_prob, 6),
            "decisions": self.decisions,
        }


class ActionTracker:
    """Groups decisions. Warming ones take no part and end nothing."""

    def __init__(self) -> None:
        self.current: Action | None = None

    def see(self, decision: Decision) -> Action | None:
        """Take the next decision.

        Returns:
            The action that it ended; None where it goes on or none was there.
        """
        if decision.warming:
            return None
        last, time_s = self.current, decision.stream_time_s
        if last is not None and last.label == decision.label:
            peak_prob = max(last.peak_prob, decision.prob)
            self.current = Action(last.label, last.start_s, time_s, peak_prob, last.decisions + 1)
            return None
        self.current = Action(decision.label, time_s, time_s, decision.prob)
        return last

    def finish(self) -> Action | None:
        """End and give the action that is going on, if any: the stream ended or was reset."""
        last, self.current = self.current, None
        return last
