"""What a process costs: memory by streams, import, start."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.bench.camera import camera_file
from export.bench.effort import TINY, Effort
from export.bench.models import Models, fast_choice
from export.bench.values import Table
from runtime.artifacts import ARTIFACTS
from runtime.bundle import Bundle
from runtime.errors import ExportError

ROOT = ARTIFACTS.parent
MEMORY_TEXT = (
    "Resident memory of a process that imports nothing but the runtime, the runtime's own choice "
    "of session, one thread, after 20 steps. *States*: what one stream and phase keeps, twice "
    "(read and written). *Per stream*: (most - one) ÷ (N - 1); activations of the batch are in it."
)
START_TEXT = (
    "New processes, one thread. *Import*: all that the command imports. *Start*: the whole "
    "command on a video file until its first 0.3 s are decided: import, bundle, session, "
    "self-test, source, outputs, end. CPU time of the process."
)


def measure_memory(models: Models, effort: Effort) -> Table:
    """The table `memory`."""
    header = (
        "bundle",
        "imported, MB",
        "1 stream, MB",
        *(f"{n} streams" for n in effort.streams[1:]),
        "per stream, MB",
        "states of a stream, MB",
    )
    table = Table("memory", "Memory by streams", MEMORY_TEXT, header)
    for case in dict.fromkeys((TINY, *effort.cases)):
        _add_memory(table, models.bundle(case), effort)
    return table


def _add_memory(table: Table, bundle: Bundle, effort: Effort) -> None:
    choice = fast_choice()
    imported, after = 0.0, {}
    for count in effort.streams:
        command = ["-m", "export.bench.resident", str(bundle.folder), f"{count}"]
        out = _run([*command, choice.backend, choice.precision]).out
        imported, _, after[count] = (float(part) for part in out.split())
    most = effort.streams[-1]
    for count, megabytes in after.items():
        table.add(f"{bundle.name}/{count}", [megabytes], "MB")
    per_stream = (after[most] - after[effort.streams[0]]) / (most - effort.streams[0])
    table.add(f"{bundle.name}/per stream", [per_stream], "MB")
    states = table.add(f"{bundle.name}/states", [state_mb(bundle, choice.precision)], "MB")
    cells = [f"{imported:.0f}", *(f"{after[count]:.0f}" for count in effort.streams)]
    table.rows.append((bundle.name, *cells, f"{per_stream:.1f}", f"{states.median:.3f}"))


def state_mb(bundle: Bundle, precision: str) -> float:
    """What one stream keeps for one phase, both sets of buffers, megabytes."""
    graph = bundle.graph("step_int8" if precision == "int8" else "step")
    return 2e-6 * sum(
        math.prod(state.shape[1:]) * np.dtype(state.dtype).itemsize for state in graph.states
    )


def measure_start(models: Models, effort: Effort, folder: Path) -> Table:
    """The table `start`."""
    header = ("bundle", "import, s", "start to first decisions, s", "the same, wall clock, s")
    table = Table("start", "Import and start", START_TEXT, header)
    imports = [_run(["-c", "import runtime.app"]) for _ in range(effort.starts)]
    imported = table.add("import", [each.cpu_s for each in imports], "s")
    video = camera_file(folder, effort.video_s)
    for case in dict.fromkeys((TINY, *effort.cases[:1])):
        bundle = models.whole_bundle(case)
        command = ["runtime/stream.py", "--bundle", str(bundle.folder), "--source", str(video)]
        options = ["--headless", "--threads", "1", "--max-seconds", "0.3"]
        starts = [_run([*command, *options]) for _ in range(effort.starts)]
        cpu = table.add(f"{bundle.name}/cpu", [each.cpu_s for each in starts], "s")
        wall = table.add(f"{bundle.name}/wall", [each.wall_s for each in starts], "s")
        table.rows.append((bundle.name, f"{imported}", f"{cpu}", f"{wall}"))
    return table


@dataclass(frozen=True)
class _Run:
    """A process that ended well."""

    out: str
    cpu_s: float
    wall_s: float


def _run(arguments: Sequence[str]) -> _Run:
    """Run Python in the repository.

    Raises:
        ExportError: It failed.
    """
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started_s
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ExportError(f"python {' '.join(arguments[:2])} failed: {last}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Run(done.stdout, cpu_s, wall_s)
