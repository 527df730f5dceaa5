"""How late decisions are: from a frame that is there to its decision, at a camera's pace."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from export.bench.camera import FPS, HEIGHT_PX, WIDTH_PX, camera_file
from export.bench.effort import TINY, Effort
from export.bench.models import Models, fast_choice, one_thread_session
from export.bench.timed import CpuTimedSession
from export.bench.values import Table
from runtime.bundle import Bundle
from runtime.live import Stream, Streams
from runtime.sources.file import FileSource

MANY = 8
SMALL_PX = (640, 360)
FRAME_MS = 1000 / FPS
SPARE_MS = 10.0
TEXT = (
    f"An H.264 file of {WIDTH_PX} × {HEIGHT_PX} at its own pace ({FPS} frames/s), one thread, wall "
    f"clock: from the moment that a decoded frame is there to its decision. {MANY} streams are of "
    f"{SMALL_PX[0]} × {SMALL_PX[1]} and step in one batch, which waits for frames that are about "
    "to come, so their limit has one frame interval more. Whatever else runs on the machine is in "
    "it."
)


def measure(models: Models, effort: Effort, folder: Path) -> Table:
    """The table `latency`."""
    header = ("bundle", "decisions", "p50, ms", "p99, ms", "step p50, ms", "limit of p99, ms")
    table = Table("latency", "Grab to decision of a paced source", TEXT, header)
    video = camera_file(folder, effort.paced_s)
    for case in dict.fromkeys((TINY, *effort.cases)):
        _add(table, models.bundle(case), [video])
    small = camera_file(folder, effort.paced_s, *SMALL_PX)
    _add(table, models.bundle(TINY), [small] * MANY)
    return table


def limit_ms(step_ms: float, streams: int) -> float:
    """The most that p99 may be: two steps, 10 ms, and for a batch a frame interval.

    Example:
        >>> limit_ms(5.0, 1), limit_ms(5.0, 8)
        (20.0, 60.0)
    """
    return 2 * step_ms + SPARE_MS + (FRAME_MS if streams > 1 else 0)


def _add(table: Table, bundle: Bundle, videos: list[Path]) -> None:
    count = len(videos)
    name = bundle.name if count == 1 else f"{bundle.name}, {count} streams"
    latencies, steps = [], []
    with ExitStack() as opened:
        inner = one_thread_session(bundle, fast_choice(), num_streams=count)
        session = CpuTimedSession(opened.enter_context(inner))
        sources = [
            opened.enter_context(FileSource(video, name=f"camera {row}", realtime=True))
            for row, video in enumerate(videos)
        ]
        decisions = (
            Stream(bundle, sources[0], session)
            if count == 1
            else Streams(bundle, sources, session, realtime=True)
        )
        for decision in decisions:
            latencies.append(decision.latency_ms)
            steps.append(session.wall_ms)
    step = table.add(f"{name}/step", steps, "ms")
    table.add(f"{name}/latency", latencies, "ms")
    p50, p99 = np.percentile(latencies, [50, 99])
    table.add(f"{name}/p99", [p99], "ms")
    limit = limit_ms(step.median, count)
    table.add(f"{name}/limit", [limit], "ms")
    cells = (f"{len(latencies)}", f"{p50:.2f}", f"{p99:.2f}", f"{step.median:.2f}", f"{limit:.1f}")
    table.rows.append((name, *cells))
