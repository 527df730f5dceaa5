"""What the page shows, kept in bounded memory. The recognition loop writes, the server reads.

Nothing here waits: writing is a few assignments under a lock that nobody holds for longer, and who
reads too slowly finds that the oldest records are gone.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.events import decision_to_json
from runtime.lane import Lane
from runtime.sources.frame import Frame
from runtime.sources.redact import redact
from runtime.stepper import Moment

ACTION_KINDS = ("action_start", "action")
ACTIONS_KEPT = 500
OTHERS_KEPT = 200  # kept apart: a source that misses ticks all day must not push out the actions
SAMPLE_S = 1.0
SAMPLES_KEPT = 600
# the lowest are for preprocessing and for small models
TIME_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
Stage: TypeAlias = Literal["preprocess", "step", "grab_to_decision"]
# After a refused password nothing is tried for a minute, and that is no fault of this process.
HEALTHY_S = 75.0
UP_S = 5.0

Record = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One second of a stream.

    Attributes:
        number: Which second.
        fps: Frames captured a second.
        dropped: Frames dropped in it.
        missed: Ticks missed in it.
        p50_ms: Latency of its decisions; None without any.
        p99_ms: The same.
    """

    number: int
    fps: float
    dropped: int
    missed: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class StageTimes:
    """What a stage took since the start, as Prometheus wants it.

    Attributes:
        buckets: How often at most each of TIME_BOUNDS_S, and how often at all.
        sum_s: Of all.
    """

    buckets: tuple[int, ...]
    sum_s: float


class _Histogram:
    """Counts times by TIME_BOUNDS_S."""

    def __init__(self) -> None:
        self._counts = [0] * (len(TIME_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, time_s: float) -> None:
        self._counts[bisect_left(TIME_BOUNDS_S, time_s)] += 1
        self._sum_s += time_s

    def times(self) -> StageTimes:
        return StageTimes(tuple(itertools.accumulate(self._counts)), self._sum_s)


class Records:
    """The last records of all streams, numbered from 1; safe from any thread.

    Attributes:
        run: Names this run, so that a browser's number from an earlier one means nothing.
    """

    def __init__(self) -> None:
        self.run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._actions: deque[tuple[int, Record]] = deque(maxlen=ACTIONS_KEPT)
        self._others: deque[tuple[int, Record]] = deque(maxlen=OTHERS_KEPT)

    def add(self, record: Record) -> None:
        """Keep a record; the oldest of its sort goes where there are too many."""
        with self._lock:
            kept = self._actions if record["type"] in ACTION_KINDS else self._others
            kept.append((next(self._numbers), record))

    def after(self, number: int) -> list[tuple[int, Record]]:
        """The records after that number that are still there, in order."""
        with self._lock:
            newest = max((kept[-1][0] for kept in (self._actions, self._others) if kept), default=0)
            if newest <= number:
                return []
            found = [each for each in (*self._actions, *self._others) if each[0] > number]
        return sorted(found, key=lambda each: each[0])


class StreamBoard:
    """One stream's newest picture and decision, and what is counted about it.

    Args:
        number: Which stream of the board.
        bundle: Labels and picture rule.
        stream: The stream; only its counts and latencies are read.
        records: Where events go.
    """

    def __init__(self, number: int, bundle: Bundle, stream: Lane, records: Records) -> None:
        self.number = number
        self.bundle = bundle
        self.name = stream.name
        self._stream = stream
        self._records = records
        self._lock = threading.Lock()
        self._newest: Moment | None = None
        self._decision: Decision | None = None
        self._stages: dict[Stage, _Histogram] = {
            "preprocess": _Histogram(),
            "step": _Histogram(),
            "grab_to_decision": _Histogram(),
        }
        self._actions: Counter[str] = Counter()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._sampled_s = self._progressed_s = time.monotonic()
        self._progress = stream.progress
        self._counts = stream.counts
        self._latency = stream.latency.copy()
        self._outputs: Callable[[], Mapping[str, int]] = dict

    def count_outputs(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Ask there what became of the stream's lines, posts and recordings; from any thread."""
        self._outputs = counts

    def see(self, moment: Moment) -> None:
        """Take a moment; returns at once."""
        decision = moment.decision
        with self._lock:
            self._newest = moment
            if moment.tick is not None:
                self._stages["preprocess"].add(moment.preprocess_s)
                self._stages["step"].add(moment.step_s)
            if decision is not None:
                self._decision = decision
                self._stages["grab_to_decision"].add(decision.latency_ms / 1000)

    def note(self, record: Mapping[str, Any]) -> None:
        """Take an event's line; returns at once."""
        kept = {"stream": self.number, **record}
        if "message" in kept:
            kept["message"] = redact(str(kept["message"]))
        if kept["type"] == "action":
            with self._lock:
                self._actions[str(kept["label"])] += 1
        self._records.add(kept)

    def picture(self) -> tuple[Frame | None, Decision | None]:
        """The newest frame and the newest decision."""
        with self._lock:
            return (None if self._newest is None else self._newest.frame), self._decision

    def decision(self) -> Record | None:
        """The newest decision's line."""
        decision = self.picture()[1]
        if decision is None:
            return None
        return {"stream": self.number, **decision_to_json(decision, self.bundle.labels)}

    def samples(self, after: int = -1) -> list[Sample]:
        """The last seconds after that number."""
        with self._lock:
            return [sample for sample in self._samples if sample.number > after]

    def sample(self) -> None:
        """Sum up what happened since the last call; from one thread, once a second."""
        now_s, counts, progress = time.monotonic(), self._stream.counts, self._stream.progress
        latency = self._stream.latency.copy()
        recent = latency.since(self._latency)
        p50_ms, p99_ms = (
            round(recent.percentile(percent), 2) if recent.count else None for percent in (50, 99)
        )
        before, elapsed_s = self._counts, max(now_s - self._sampled_s, 1e-3)
        if progress != self._progress:
            self._progress, self._progressed_s = progress, now_s
        with self._lock:
            number = self._samples[-1].number + 1 if self._samples else 0
            self._samples.append(
                Sample(
                    number,
                    fps=round((counts.captured - before.captured) / elapsed_s, 2),
                    dropped=counts.dropped - before.dropped,
                    missed=counts.missed - before.missed,
                    p50_ms=p50_ms,
                    p99_ms=p99_ms,
                )
            )
        self._sampled_s, self._counts, self._latency = now_s, counts, latency

    @property
    def is_healthy(self) -> bool:
        """Whether ticks advanced, or the source was tried, a short while ago; or a clean end."""
        if self._stream.has_ended and self._stream.failure is None:
            return True
        return time.monotonic() - self._progressed_s < HEALTHY_S

    @property
    def frame_age_s(self) -> float | None:
        """Since the newest frame was grabbed; None before the first."""
        frame = self.picture()[0]
        return None if frame is None else (time.monotonic_ns() - frame.grabbed_ns) / 1e9

    @property
    def is_up(self) -> bool:
        """Whether frames come."""
        age_s = self.frame_age_s
        return age_s is not None and age_s < UP_S

    @property
    def counts(self) -> dict[str, int]:
        """Frames, steps, missed ticks and reconnects so far."""
        return asdict(self._stream.counts)

    def outputs(self) -> Mapping[str, int]:
        """Lines, posts and recordings so far, of those outputs that there are."""
        return self._outputs()

    def stages(self) -> dict[Stage, StageTimes]:
        """What each stage of a step took since the start."""
        with self._lock:
            return {stage: histogram.times() for stage, histogram in self._stages.items()}

    def actions(self) -> dict[str, int]:
        """Actions that ended so far, by label."""
        with self._lock:
            return dict(self._actions)

    def state(self) -> Record:
        """What changes every second."""
        age_s = self.frame_age_s
        return {
            "stream": self.number,
            "is_up": self.is_up,
            "is_healthy": self.is_healthy,
            "frame_age_s": None if age_s is None else round(age_s, 2),
            "counts": self.counts,
        }


class Board:
    """All streams of a run."""

    def __init__(self) -> None:
        self.records = Records()
        self.streams: list[StreamBoard] = []

    def add(self, bundle: Bundle, stream: Lane) -> StreamBoard:
        """Show one more stream."""
        board = StreamBoard(len(self.streams), bundle, stream, self.records)
        self.streams.append(board)
        return board

    def sample(self) -> None:
        """Sum up the last second of every stream."""
        for stream in self.streams:
            stream.sample()

    @property
    def health(self) -> str:
        """`starting` without a stream, as while an engine is built; `ok` or, for any, `stalled`."""
        if not self.streams:
            return "starting"
        return "ok" if all(stream.is_healthy for stream in self.streams) else "stalled"

    def state(self) -> Record:
        """All but the records, for a page that begins."""
        return {
            "run": self.records.run,
            "streams": [
                {
                    **stream.state(),
                    "name": stream.name,
                    "bundle": stream.bundle.name,
                    "labels": list(stream.bundle.labels),
                    "decision": stream.decision(),
                    "samples": [asdict(sample) for sample in stream.samples()],
                }
                for stream in self.streams
            ],
        }
