"""Every recording of a data set opened once: what it holds, and which of its clips can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.command import one_line
from runtime.errors import DataError
from train.data.clips import span_of
from train.data.decode import DEFAULT_FPS, FrameReader, open_frames, probe
from train.data.entry import VideoSegment
from train.data.packet_index import VideoFacts

WORTH_PROCESSES = 64  # fewer recordings are done before a process has started
UNEVEN = 0.25  # spacings that differ from the median by more than this share of it ...
UNEVEN_SHARE = 0.05  # ... in more than this share of a recording make its rate a variable one
EDGE_S = 1e-6

Work = TypeVar("Work")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Task:
    """A recording to open, and its clips.

    Attributes:
        path: The video or frame folder.
        fps: Pictures a second of a folder; None where the file says so.
        template: Names of a folder's pictures; None reads them off.
        segments: Its clips.
        decode: Decode the first, middle and last frame of every clip.
    """

    path: Path
    fps: float | None
    template: str | None
    segments: tuple[VideoSegment, ...]
    decode: bool


@dataclass(frozen=True)
class Span:
    """A clip in its recording.

    Attributes:
        start_s: Start, seconds of stream time.
        end_s: End; infinite where the recording's end is not known.
        num_frames: Frames that are shown in it.
        problem: Why it cannot be read; empty if it can.
    """

    start_s: float
    end_s: float
    num_frames: int
    problem: str


@dataclass(frozen=True)
class Recording:
    """What was found in a recording.

    Attributes:
        path: The video or frame folder.
        facts: What it holds; None where it cannot be opened.
        is_uneven: Whether its frame rate is a variable one.
        spans: Its clips, in the task's order.
        problem: Why it cannot be opened; empty if it can.
    """

    path: Path
    facts: VideoFacts | None
    is_uneven: bool
    spans: tuple[Span, ...]
    problem: str


def inspect_recording(task: Task) -> Recording:
    """Open a recording; whatever is wrong with it is in the result."""
    fps = task.fps or DEFAULT_FPS
    try:
        facts = probe(task.path, fps=fps, template=task.template)
        with open_frames(task.path, fps=fps, template=task.template) as reader:
            spans = tuple(_span(reader, segment, task.decode) for segment in task.segments)
            return Recording(task.path, facts, _is_uneven(reader.times_s), spans, "")
    except (DataError, OSError) as err:
        problem = one_line(err)
        spans = tuple(_unread(segment, problem) for segment in task.segments)
        return Recording(task.path, None, False, spans, problem)


def in_processes(
    work: Callable[[Work], Found], tasks: Sequence[Work], *, workers: int, name: str
) -> Iterator[Found]:
    """Do all tasks, in their order, with a progress bar.

    Args:
        work: A module's function; tasks and results can be pickled.
        tasks: What to do.
        workers: Processes; few tasks, or 1, are done in this one.
        name: Stands before the bar.

    Raises:
        DataError: A process died.
    """
    with tqdm(total=len(tasks), desc=name, disable=None, leave=False) as bar:
        for found in _results(work, tasks, workers):
            bar.update()
            yield found


def _results(work: Callable[[Work], Found], tasks: Sequence[Work], workers: int) -> Iterator[Found]:
    if workers <= 1 or len(tasks) < WORTH_PROCESSES:
        yield from map(work, tasks)
        return
    # forked from a clean server: a fork of this process would copy its threads' locks
    context = get_context("forkserver")
    context.set_forkserver_preload(["train.data.catalog"])
    pool = ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield from pool.map(work, tasks, chunksize=4)
    except BrokenProcessPool as err:
        raise DataError(
            "a process that reads recordings died: out of memory, or a file that its decoder "
            "cannot bear; --workers 1 shows which"
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


def _span(reader: FrameReader, segment: VideoSegment, decode: bool) -> Span:
    try:
        start_s, end_s = span_of(segment, reader)
        first, stop = np.searchsorted(reader.times_s, [start_s - EDGE_S, end_s - EDGE_S]).tolist()
        if decode:
            last = max(first, stop - 1)
            reader.frames(np.array([first, (first + last) // 2, last], np.int64))
        return Span(start_s, end_s, stop - first, "")
    except (DataError, OSError) as err:
        return _unread(segment, one_line(err))


def _unread(segment: VideoSegment, problem: str) -> Span:
    end_s = float("inf") if segment.end_s is None else segment.end_s
    return Span(segment.start_s, end_s, 0, problem)


def _is_uneven(times_s: NDArray[np.float64]) -> bool:
    steps = np.diff(times_s)
    if len(steps) < 2:
        return False
    median = float(np.median(steps))
    return bool((np.abs(steps - median) > UNEVEN * median).mean() > UNEVEN_SHARE)
