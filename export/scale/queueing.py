"""How long a frame waits: streams in a box on one clock, and cameras before a server's batcher.

Small simulations of the waiting alone, from a seed. Times in milliseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JITTER_SHARE = 0.1  # standard deviation of a frame's delay on its way, of a frame's interval
WAIT_SHARE = 0.5  # a batch waits at most half a tick for a row (runtime/conductor.py)


@dataclass(frozen=True)
class Waits:
    """From a frame's arrival to the end of its step.

    Attributes:
        p50_ms: Half are no later.
        p99_ms: 99 % are no later.
        late: Share that missed the next tick, 0..1.
        rows: Mean streams in a step.
    """

    p50_ms: float
    p99_ms: float
    late: float
    rows: float

    @classmethod
    def of(cls, waits_ms: NDArray[np.float64], interval_ms: float, rows: float) -> Waits:
        """Percentiles of some waits."""
        p50, p99 = np.percentile(waits_ms, [50, 99])
        return cls(float(p50), float(p99), float((waits_ms > interval_ms).mean()), rows)


def aligned(
    streams: int,
    step_ms: float,
    *,
    interval_ms: float,
    frame_ms: float,
    ticks: int = 400,
    seed: int = 0,
) -> Waits:
    """Streams whose ticks fall together; a step takes all that came until it starts.

    Args:
        streams: Cameras in the box.
        step_ms: Time of a step; the engine computes all rows, whoever is due.
        interval_ms: Between two ticks.
        frame_ms: Between two frames of a camera; cameras are not synchronised.
        ticks: Ticks to run.
        seed: Of the random offsets and delays.
    """
    rng = np.random.default_rng(seed)
    offsets = rng.uniform(0, frame_ms, streams)
    waits, steps, free_ms = [], 0, 0.0
    for tick in range(ticks):
        tick_ms = tick * interval_ms
        delay = np.abs(rng.normal(0, JITTER_SHARE * frame_ms, streams))
        # the first frame at or after the tick
        first = tick_ms + (offsets - tick_ms) % frame_ms + delay
        waiting = np.sort(first)
        while len(waiting):
            opens = max(waiting[0], free_ms)
            start = max(opens, min(waiting[-1], waiting[0] + WAIT_SHARE * interval_ms))
            taken = waiting[waiting <= start]
            free_ms = start + step_ms
            waits.append(free_ms - taken)
            waiting, steps = waiting[len(taken) :], steps + 1
    return Waits.of(np.concatenate(waits), interval_ms, streams * ticks / steps)


def before_batcher(
    cameras: int,
    step_ms: Callable[[int], float],
    *,
    interval_ms: float,
    most_rows: int,
    delay_ms: float,
    ticks: int = 60,
    seed: int = 0,
) -> Waits:
    """Cameras that send a frame each tick to one server with a sequence batcher, at no common time.

    The server starts when a batch is full or its oldest frame has waited, and takes the oldest.

    Args:
        cameras: Cameras of this server.
        step_ms: Time of a step by its rows.
        interval_ms: Between two frames of a camera.
        most_rows: The largest batch.
        delay_ms: The longest wait for a batch to fill.
        ticks: Frames of each camera.
        seed: Of the cameras' offsets.
    """
    rng = np.random.default_rng(seed)
    offsets = rng.uniform(0, interval_ms, cameras)
    arrivals = np.sort((offsets[:, np.newaxis] + np.arange(ticks) * interval_ms).ravel())
    waits, free_ms, first, steps = np.empty(len(arrivals)), 0.0, 0, 0
    while first < len(arrivals):
        full = first + most_rows - 1
        filled_ms = arrivals[full] if full < len(arrivals) else np.inf
        start = max(free_ms, min(filled_ms, arrivals[first] + delay_ms))
        end = min(int(np.searchsorted(arrivals, start, side="right")), first + most_rows)
        free_ms = start + step_ms(end - first)
        waits[first:end] = free_ms - arrivals[first:end]
        first, steps = end, steps + 1
    return Waits.of(waits, interval_ms, len(arrivals) / steps)


def fullest_server(cameras: int, servers: int, *, by_hash: bool, seed: int = 0) -> float:
    """Cameras on the fullest server, divided by the mean.

    Args:
        cameras: Cameras, >= 1.
        servers: Servers, >= 1.
        by_hash: A camera's name chooses its server; else the one with the fewest does.
        seed: Of the names.
    """
    if by_hash:
        chosen = np.random.default_rng(seed).integers(0, servers, cameras)
        most = int(np.bincount(chosen, minlength=servers).max())
    else:
        loads = [0] * servers
        heapq.heapify(loads)
        for _ in range(cameras):
            heapq.heapreplace(loads, loads[0] + 1)
        most = max(loads)
    return most * servers / cameras
