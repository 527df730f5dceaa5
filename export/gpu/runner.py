"""Parts of the GPU check, each in a process of its own: none can stop or slow another.

A CUDA error that spoils a process, a crash in a native library, a compiler that takes for ever: all
end one part, and what it had found is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias

from export.gpu.effort import Effort
from export.gpu.row import CheckFailed, Row
from runtime.command import one_line

Status: TypeAlias = Literal["done", "skipped", "failed", "stopped"]
OnRow: TypeAlias = Callable[[str, Row], None]

OUR_ROOMS = ("runtime", "calib", "train", "export")
SHORTEST_S = 5.0  # a part is not begun with less time than this
GRACE_S = 5.0


@dataclass(frozen=True)
class Part:
    """One thing to prove or to measure.

    Attributes:
        name: As `--only` takes it.
        about: What it is, for people.
        budget_s: It is stopped after this long.
        proves: Whether it says that something works: then it has to finish.
        rows: What finds the rows; a function of a module, which the new process imports.
    """

    name: str
    about: str
    budget_s: float
    proves: bool
    rows: Callable[[Effort], Iterator[Row]]


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        part: Which one.
        status: `stopped` is out of time; its rows so far count.
        reason: Why it is not done.
        seconds: How long it took, the start of its process included.
        rows: What it found.
    """

    part: Part
    status: Status = "done"
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        """Whether the whole check has to end with a non-zero status."""
        return self.status == "failed" or (self.status == "stopped" and self.part.proves)

    @property
    def not_done(self) -> list[str]:
        """Everything that was skipped or not finished, and why, a line each."""
        lines = [f"{row.what}: {row.note}" for row in self.rows if row.value is None]
        return lines if self.status == "done" else [*lines, f"{self.status}: {self.reason}"]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        rows = [asdict(row) for row in self.rows]
        facts = {"part": self.part.name, "status": self.status, "reason": self.reason}
        return {**facts, "seconds": round(self.seconds, 1), "rows": rows}


@dataclass(frozen=True)
class _Ended:
    """A part's last message."""

    status: Status
    reason: str = ""


def run_parts(
    parts: Sequence[Part], effort: Effort, *, total_s: float, on_row: OnRow
) -> Iterator[Outcome]:
    """Run parts one after the other, all of them whatever happens to one.

    Args:
        parts: What to run, in order.
        effort: Sizes and device.
        total_s: Time for all of them.
        on_row: Called with the part's name and each row as it comes.

    Yields:
        What became of each.
    """
    stop_s = time.monotonic() + total_s
    for part in parts:
        limit_s = min(part.budget_s, stop_s - time.monotonic())
        if limit_s < min(SHORTEST_S, part.budget_s):
            yield Outcome(part, "stopped", f"not begun: the {total_s:.0f} s for all are over")
        else:
            yield _run(part, effort, limit_s, on_row)


def _run(part: Part, effort: Effort, limit_s: float, on_row: OnRow) -> Outcome:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, part.rows, effort))
    started_s = time.monotonic()
    outcome = Outcome(part)
    process.start()
    theirs.close()  # else its end would not be seen
    try:
        ended = _listen(ours, outcome, started_s + limit_s, on_row)
        if ended is None or ended.status != "stopped":
            process.join(GRACE_S)
    finally:
        process.kill()  # nothing, where it has ended
        process.join()
        ours.close()
    if ended is None:
        ended = _Ended("failed", f"its process ended with status {process.exitcode}")
    if ended.status == "done" and all(row.value is None for row in outcome.rows):
        ended = _Ended("skipped", "nothing of it works here")
    outcome.status, outcome.reason = ended.status, ended.reason
    outcome.seconds = time.monotonic() - started_s
    return outcome


def _listen(ours: Connection, outcome: Outcome, stop_s: float, on_row: OnRow) -> _Ended | None:
    """Take rows until the part has ended, is out of time, or (None) its process is gone."""
    while True:
        if not ours.poll(max(0.0, stop_s - time.monotonic())):
            return _Ended("stopped", "out of time; what it had found is kept")
        try:
            message = ours.recv()
        except EOFError:
            return None
        if isinstance(message, _Ended):
            return message
        outcome.rows.append(message)
        on_row(outcome.part.name, message)


def _child(out: Connection, rows: Callable[[Effort], Iterator[Row]], effort: Effort) -> None:
    """The part's process."""
    if effort.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        for row in rows(effort):
            out.send(row)
    except CheckFailed as err:
        out.send(_Ended("failed", one_line(err)))
    except ImportError as err:
        is_ours = (err.name or "").split(".")[0] in OUR_ROOMS
        out.send(_Ended("failed" if is_ours else "skipped", one_line(err)))
    except Exception as err:  # noqa: BLE001  whatever it is, it is this part's result
        traceback.print_exc()
        out.send(_Ended("failed", f"{type(err).__name__}: {one_line(err)}"))
    else:
        out.send(_Ended("done"))
