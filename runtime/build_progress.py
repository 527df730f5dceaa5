"""How far a build is: the builder's nested phases as one share, and a bar that shows it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, TypeAlias

from runtime.nvidia_types import TensorRT

if TYPE_CHECKING:
    import tensorrt as nv

Progress: TypeAlias = Callable[[float], None]

BAR_CELLS = 30
# without a terminal a line now and then, so that a log shows that the build is alive
PLAIN_INTERVAL_S = 10.0


class BuildMonitor:
    """The builder's phases, each with its steps, as one share of the whole; threads may call it.

    Attributes:
        cancelled: Set it to end the build at its next step.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """A phase began within the current step of its parent."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, num_steps))

    def step(self, name: str, step: int) -> None:
        """A step, counted from 0, is complete."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1

    def finish(self, name: str) -> None:
        """A phase ended."""
        with self._lock:
            self._phases.pop(name, None)

    def share(self) -> float:
        """What is done, 0..1; never falls.

        Example:
            >>> monitor = BuildMonitor()
            >>> monitor.start("build", None, 4)
            >>> monitor.step("build", 0)
            >>> monitor.start("time tactics", "build", 2)
            >>> monitor.step("time tactics", 0)
            >>> monitor.share()
            0.375
        """
        with self._lock:
            roots = [name for name, phase in self._phases.items() if not phase.parent]
            now = max((self._share_of(name) for name in roots), default=0.0)
            self._share = max(self._share, now)
            return self._share

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        children = [child for child, other in self._phases.items() if other.parent == name]
        inner = max((self._share_of(child) for child in children if child != name), default=0.0)
        return min(1.0, (phase.done + inner) / phase.num_steps)


@dataclass
class _Phase:
    parent: str | None
    num_steps: int
    done: int = 0


def trt_monitor(trt: TensorRT, monitor: BuildMonitor) -> nv.IProgressMonitor:
    """An `IProgressMonitor` (TensorRT 10 and later) that tells `monitor`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # found at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            monitor.step(phase_name, step)
            return not monitor.cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            monitor.finish(phase_name)

    made: nv.IProgressMonitor = Monitor()
    return made


class StderrBar:
    """A progress bar in plain characters; without a terminal, a line every ten seconds.

    It ends its line at 100 % and, as a context manager, when something goes wrong before.

    Args:
        title: What is going on.
        out: Where to write; standard error by default.
    """

    def __init__(self, title: str, out: TextIO | None = None) -> None:
        self._title = title
        self._out = out if out is not None else sys.stderr
        self._start_s = time.monotonic()
        self._last_plain_s = self._start_s
        self._is_terminal = self._out.isatty()
        self._line_is_open = False

    def __call__(self, share: float) -> None:
        """Show that `share`, 0..1, is done."""
        now_s = time.monotonic()
        text = f"{self._title} {share:4.0%} {now_s - self._start_s:.0f} s"
        if self._is_terminal:
            done = round(share * BAR_CELLS)
            self._out.write(f"\r[{'#' * done}{'.' * (BAR_CELLS - done)}] {text} ")
            self._line_is_open = True
        elif now_s - self._last_plain_s >= PLAIN_INTERVAL_S:
            self._last_plain_s = now_s
            self._out.write(text + "\n")
        self._out.flush()
        if share >= 1:
            self.close()

    def close(self) -> None:
        """End the bar's line, once."""
        if self._line_is_open:
            self._line_is_open = False
            self._out.write("\n")
            self._out.flush()

    def __enter__(self) -> StderrBar:
        """Return the bar itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the bar's line."""
        self.close()
