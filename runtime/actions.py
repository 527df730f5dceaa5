"""When actions start and end: a state machine over decisions. No clock, no files.

A decision *speaks* for its most probable class if that reaches the class's enter threshold and
leads the second by the margin. An action that was reported goes on while its probability reaches
its exit threshold and no other class speaks; once interrupted it has to speak again. Of what is
left, interruptions of at most `max_gap_s` are bridged, and an action is reported once it has lasted
`min_duration_s`. So actions never overlap, and a blip of another class inside one is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.policy import Rules

NO_CLASS = -1


class Speaker(Protocol):
    """What a tracker reads of a decision; `runtime.decision.Decision` has it."""

    @property
    def stream_time_s(self) -> float:
        """Stream time of the frame that triggered it."""

    @property
    def probs(self) -> NDArray[np.float32]:
        """Probabilities of all classes, shape (K,)."""

    @property
    def warming(self) -> bool:
        """Whether a phase has not seen T frames since its reset."""


@dataclass(frozen=True)
class Action:
    """An action that started or ended.

    Attributes:
        label: Its class.
        index: The class's number.
        start_s: Stream time at which it started, dated back by the policy's lag.
        end_s: Stream time at which it ended, dated back; None while it goes on.
        peak_prob: Largest probability so far, 0..1.
        decisions: How many decisions spoke for it so far.
        reported_s: Stream time of the decision that brought this report.
    """

    label: str
    index: int
    start_s: float
    end_s: float | None
    peak_prob: float
    decisions: int
    reported_s: float

    @property
    def has_ended(self) -> bool:
        """Whether this reports the end, not the start."""
        return self.end_s is not None

    @property
    def latency_s(self) -> float:
        """From the start, or the end where there is one, to its report, in stream time."""
        return self.reported_s - (self.start_s if self.end_s is None else self.end_s)

    def to_json(self) -> dict[str, Any]:
        """The action as an event's details."""
        end = {} if self.end_s is None else {"end_s": round(self.end_s, 6)}
        return {
            "label": self.label,
            "start_s": round(self.start_s, 6),
            **end,
            "peak_prob": round(self.peak_prob, 6),
            "decisions": self.decisions,
            "latency_s": round(self.latency_s, 6),
        }


@dataclass
class _Run:
    """A class that is or was spoken for; `end_s` is the first decision that did not."""

    index: int
    start_s: float
    last_s: float
    end_s: float | None = None
    peak_prob: float = 0.0
    decisions: int = 0
    is_reported: bool = False


class ActionTracker:
    """Turns decisions into actions that start and end.

    Args:
        rules: The policy for the model's classes.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._policy = rules.policy
        # the action at hand, and another one that may take over while the first is interrupted
        self._runs: list[_Run] = []
        self._heard = NO_CLASS
        self._time_s = 0.0

    def see(self, decision: Speaker) -> list[Action]:
        """Take the next decision.

        Args:
            decision: Later than the one before. A warming one ends what is going on.

        Returns:
            What it brought, in order: ends before starts.
        """
        if decision.warming:
            return self.finish()
        self._time_s = time_s = decision.stream_time_s
        probs = decision.probs
        self._heard = heard = self._listen(probs)
        for run in self._runs:
            if run.index != heard and run.end_s is None:
                run.end_s = time_s
        changes = self._close_old(heard)
        if heard == NO_CLASS:
            return changes
        run = self._run_of(heard)
        run.last_s, run.end_s = time_s, None
        run.peak_prob = max(run.peak_prob, float(probs[heard]))
        run.decisions += 1
        return changes + self._report(run)

    def finish(self) -> list[Action]:
        """End what is going on, at its last decision: the stream ended or was reset.

        Returns:
            The action that it ended, if one was reported.
        """
        changes = [action for run in self._runs for action in self._end(run)]
        self._runs, self._heard = [], NO_CLASS
        return changes

    def _listen(self, probs: NDArray[np.float32]) -> int:
        top, speaks = self._rules.top(probs)
        if speaks:
            return NO_CLASS if self._rules.is_silent[top] else top
        last = self._heard
        goes_on = last != NO_CLASS and self._runs[-1].is_reported
        return last if goes_on and float(probs[last]) >= self._rules.exit[last] else NO_CLASS

    def _close_old(self, heard: int) -> list[Action]:
        """End the runs whose interruption is too long to be bridged, now or later."""
        changes: list[Action] = []
        while self._runs and (end_s := self._runs[0].end_s) is not None:
            gap_s = self._time_s - end_s
            returns = self._runs[0].index == heard
            if gap_s < self._policy.max_gap_s or (returns and gap_s == self._policy.max_gap_s):
                break
            changes += self._end(self._runs.pop(0))
        return changes

    def _run_of(self, index: int) -> _Run:
        """The run that goes on, or a new one; what interrupted it in vain is forgotten."""
        for at, run in enumerate(self._runs):
            if run.index == index:
                del self._runs[at + 1 :]
                return run
        del self._runs[1:]
        self._runs.append(_Run(index, self._time_s, self._time_s))
        return self._runs[-1]

    def _report(self, run: _Run) -> list[Action]:
        if run.is_reported or run.last_s - run.start_s < self._policy.min_duration_s:
            return []
        changes = [action for other in self._runs[:-1] for action in self._end(other)]
        self._runs = [run]
        run.is_reported = True
        return [*changes, self._action(run, None)]

    def _end(self, run: _Run) -> list[Action]:
        if not run.is_reported:
            return []
        return [self._action(run, run.last_s if run.end_s is None else run.end_s)]

    def _action(self, run: _Run, end_s: float | None) -> Action:
        lag_s = self._policy.lag_s
        return Action(
            label=self._rules.labels[run.index],
            index=run.index,
            start_s=run.start_s - lag_s,
            end_s=None if end_s is None else end_s - lag_s,
            peak_prob=run.peak_prob,
            decisions=run.decisions,
            reported_s=self._time_s,
        )


def actions_of(decisions: Iterable[Speaker], rules: Rules) -> list[Action]:
    """All actions of a stream that has ended, in order.

    Args:
        decisions: The stream's decisions, times ascending.
        rules: The policy for the model's classes.
    """
    tracker = ActionTracker(rules)
    changes = [change for decision in decisions for change in tracker.see(decision)]
    return [action for action in (*changes, *tracker.finish()) if action.has_ended]
