"""What happened, as JSON lines: one object a line, whole lines only, readable after a crash.

Every line has `type`, `source`, `stream_time_s`, `monotonic_ns` and `utc`. Types:

    start          a run begins: bundle, session, window_s, phases
    decision       one tick: label, index, prob, top, warming, latency_ms, tick, phase
    action         a stretch of equal decisions ended: label, start_s, end_s, peak_prob
    reset          states were set to zero: reason start, reconnect, time_went_back, gap or nan
    reconnect      a lost source came back
    missed         ticks that no frame came for: count
    phase_dropped  frames or steps could not keep up: phases left
    source_lost    the source ended before it should: message
    failed         the engine or an output failed: message
    end            the run ended: the counts of the last line
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

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
        "warming": decision.warming,
        "tick": decision.tick,
        "phase": decision.phase,
        "latency_ms": round(decision.latency_ms, 3),
        "monotonic_ns": decision.monotonic_ns,
        "utc": decision.utc,
    }


class EventLog:
    """Appends lines to a file; each one is handed to the system whole, at once.

    Args:
        path: The file; made if needed, appended to if it is there.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab+", buffering=0)
        self._end_broken_line()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object.

        Raises:
            OSError: The disk is full or gone.
            ValueError: A value that JSON has no word for, as NaN.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self._file.write(line.encode())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _end_broken_line(self) -> None:
        """A power cut may have left half a line: new ones start on their own."""
        if self._file.seek(0, 2) == 0:
            return
        self._file.seek(-1, 2)
        if self._file.read(1) != b"\n":
            self._file.write(b"\n")
