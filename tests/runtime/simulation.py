"""Live lanes on a clock that a test turns: cameras and an engine that only count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.batch import Batch
from runtime.bundle import Bundle
from runtime.conductor import Conductor
from runtime.group_clock import GroupClock, StreamClock
from runtime.lane import Lane
from runtime.readers import End
from runtime.sources.frame import Frame
from runtime.sources.memory import MemorySource
from runtime.stepper import Moment

NS = 1_000_000_000


@dataclass(frozen=True)
class Call:
    """One step: when, of which phase, and each stepping row's picture code and reset."""

    now_ns: int
    phase: int
    codes: dict[int, int]
    resets: dict[int, bool]


class CountingSession:
    """An engine whose logits are the picture it was given: class `code % K` is sure.

    Attributes:
        now_ns: The test's clock.
        calls: What it was asked for.
        nan: Rows and calls whose logits are no numbers.
    """

    description = "counting"

    def __init__(self, num_streams: int, num_phases: int, num_labels: int = 3) -> None:
        self.num_streams = num_streams
        self.num_phases = num_phases
        self.now_ns = 0
        self.calls: list[Call] = []
        self.nan: set[tuple[int, int]] = set()
        self._num_labels = num_labels

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        rows = [row for row in range(self.num_streams) if held is None or not held[row]]
        codes = {row: int(frames[row, 0, 0, 0]) for row in rows}
        resets = {row: bool(reset[row, 0] > 0.5) for row in rows}
        logits = np.zeros((self.num_streams, self._num_labels), np.float32)
        for row, code in codes.items():
            logits[row, code % self._num_labels] = 20
            if (row, len(self.calls)) in self.nan:
                logits[row] = np.nan
        self.calls.append(Call(self.now_ns, phase, codes, resets))
        return logits

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> CountingSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class Camera:
    """When a camera's frames arrive, and what it says about their time.

    Attributes:
        fps: Frames a second of its own clock.
        from_s: Monotonic time of its first frame.
        until_s: Monotonic time after which none comes.
        ppm: How much faster its clock runs.
        late_s: So much later than usual its first frame arrives; the next ones catch up in a burst.
        away: From and until when no frame comes; after that it is another connection.
    """

    fps: float = 25.0
    from_s: float = 0.0
    until_s: float = 10.0
    ppm: float = 0.0
    late_s: float = 0.0
    away: tuple[float, float] | None = None

    def arrivals(self, row: int, size_px: int) -> Iterable[tuple[int, int, Frame | End]]:
        """Monotonic nanoseconds, row and frame, in order; then the end."""
        index = connection = 0
        origin_s = 1000.0 * row  # stream times mean nothing to each other
        while True:
            time_s = self.from_s + index / self.fps / (1 + self.ppm / 1e6)
            if time_s > self.until_s:
                break
            arrives_s = max(time_s, self.from_s + self.late_s)
            if self.away is None or not self.away[0] <= time_s < self.away[1]:
                if self.away is not None and time_s >= self.away[1]:
                    connection = 1
                at_ns = round(arrives_s * NS)
                picture = np.full((size_px, size_px, 3), (60 * row + index % 60) % 256, np.uint8)
                stream_time_s = origin_s + index / self.fps
                yield at_ns, row, Frame(picture, index, stream_time_s, at_ns, connection)
            index += 1
        yield round(self.until_s * NS) + 1, row, End(None)


@dataclass
class Played:
    """What came of it, by row."""

    lanes: list[Lane]
    session: CountingSession
    moments: dict[int, list[Moment]] = field(default_factory=dict)

    def events(self, row: int, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
        found = [event for moment in self.moments[row] for event in moment.events]
        return [
            (each.kind, dict(each.details)) for each in found if each.kind in kinds or not kinds
        ]

    def decided(self, row: int) -> list[Moment]:
        return [moment for moment in self.moments[row] if moment.decision is not None]

    def waits_ms(self) -> list[float]:
        """How long the oldest frame of each call had waited for it."""
        grabbed = {
            (row, int(moment.frame.image_rgb[0, 0, 0]), moment.frame.grabbed_ns)
            for row in self.moments
            for moment in self.decided(row)
        }
        waits = []
        for call in self.session.calls:
            ages = [
                call.now_ns - grabbed_ns
                for row, code, grabbed_ns in grabbed
                if call.codes.get(row) == code and 0 <= call.now_ns - grabbed_ns < NS
            ]
            waits.append(max(ages, default=0) / 1e6)
        return waits


def play(
    bundle: Bundle,
    cameras: list[Camera],
    *,
    phases: int = 2,
    step_ms: float = 5.0,
    nan: Iterable[tuple[int, int]] = (),
    newest_only: bool = False,
) -> Played:
    """Play cameras through a conductor, on a clock that jumps from one arrival to the next.

    With `newest_only` a row's frames that came during a step are dropped, but for the last one.
    """
    session = CountingSession(len(cameras), phases)
    session.nan.update(nan)
    group = GroupClock(bundle.sampling.window_s, bundle.sampling.num_segments)
    clocks = [StreamClock(group, f"camera {row}") for row in range(len(cameras))]
    lanes = [
        Lane(bundle, MemorySource([], name=f"camera {row}"), phases, clock=clock)
        for row, clock in enumerate(clocks)
    ]
    batch = Batch(bundle, session, [lane.stepper for lane in lanes])
    conductor = Conductor(lanes, clocks, batch, bundle.sampling.spacing_s)
    played = Played(lanes, session, {row: [] for row in range(len(cameras))})
    size_px = bundle.picture.height_px
    every = (each for row, camera in enumerate(cameras) for each in camera.arrivals(row, size_px))
    arrivals = deque(sorted(every, key=lambda each: each[0]))  # stable: a burst keeps its order
    now_ns = 0
    while not conductor.is_done:
        patience_ns = conductor.patience_ns
        arrives_ns = arrivals[0][0] if arrivals else None
        if patience_ns is not None and (arrives_ns is None or patience_ns <= arrives_ns):
            now_ns = max(now_ns, int(patience_ns) + 1)
        elif arrives_ns is not None:
            now_ns = max(now_ns, arrives_ns)
        here = []
        while arrivals and arrivals[0][0] <= now_ns:
            here.append(arrivals.popleft())
        newest = {row: at_ns for at_ns, row, item in here if isinstance(item, Frame)}
        for at_ns, row, item in here:
            if not newest_only or isinstance(item, End) or at_ns == newest[row]:
                conductor.arrive(row, item)
        session.now_ns = now_ns
        before = len(session.calls)
        for lane, moment in conductor.advance(now_ns):
            if moment is not None:
                played.moments[lanes.index(lane)].append(moment)
        now_ns += round(step_ms * 1e6) * (len(session.calls) - before)
    return played
