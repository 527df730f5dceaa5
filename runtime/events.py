"""What happened, as JSON objects: one a line of the event file.

Every line has `type`, `source`, `stream_time_s`, `monotonic_ns` and `utc`. Types:

    start          a run begins: bundle, session, window_s, phases, streams that step together
    decision       one tick: label, index, prob, top, action (null for none of these), warming,
                   latency_ms, tick, phase
    action_start   an action was found: label, start_s, peak_prob so far, latency_s
    action         an action ended: label, start_s, end_s, peak_prob, decisions, latency_s
    reset          states were set to zero: reason start, reconnect, time_went_back, gap, nan or
                   scene_cut
    reconnect      a lost source came back
    missed         ticks that no frame came for: count
    slow_source    it gives fewer frames than the schedule takes, told once: fps, wanted_fps,
                   missed_share of the ticks
    phase_dropped  frames or steps could not keep up: phases left
    source_lost    the source ended before it should: message
    video_lost     the annotated video could not be written any further: message
    failed         the engine or the window failed: message
    lines_lost     the event file could not be written for so long that lines were lost: count
    end            the run ended: the counts of the last line

`stream_time_s` is the frame's that brought the line; an action's `start_s` and `end_s` are when it
happened, `latency_s` before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.decision import Decision

TOP_COUNT = 5
PROB_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something other than a decision.

    Attributes:
        kind: What happened; the list is at the top of this module.
        source: Name of the source, without credentials.
        stream_time_s: Stream time of the frame that brought it; None where there is none.
        monotonic_ns: Monotonic clock when it was noticed.
        utc: Wall clock when it was noticed, ISO 8601.
        details: Facts that belong to the kind, JSON values.
    """

    kind: str
    source: str
    stream_time_s: float | None
    monotonic_ns: int
    utc: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The event's line."""
        return {
            "type": self.kind,
            "source": self.source,
            "stream_time_s": self.stream_time_s,
            **self.details,
            "monotonic_ns": self.monotonic_ns,
            "utc": self.utc,
        }


def decision_to_json(decision: Decision, labels: Sequence[str]) -> dict[str, Any]:
    """A decision's line; the probabilities of the five best classes only."""
    return {
        "type": "decision",
        "source": decision.source,
        "stream_time_s": round(decision.stream_time_s, 6),
        "label": decision.label,
        "index": decision.index,
        "prob": round(decision.prob, PROB_DIGITS),
        "top": [
            [label, round(prob, PROB_DIGITS)] for label, prob in decision.top(labels, TOP_COUNT)
        ],
        "action": decision.action,
        "warming": decision.warming,
        "tick": decision.tick,
        "phase": decision.phase,
        "latency_ms": round(decision.latency_ms, 3),
        "monotonic_ns": decision.monotonic_ns,
        "utc": decision.utc,
    }
