"""The bench: which tables there are, and a run of them as one report."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from export.bench import (
    decision,
    decoding,
    engines,
    floor,
    latency,
    needed,
    operations,
    parts,
    processes,
    stages,
    streams,
    training,
    training_loop,
)
from export.bench.effort import Effort
from export.bench.models import Models
from export.bench.plots import PLOTS
from export.bench.values import DRIFT_TEXT, Table, Value
from runtime.files import whole_file, write_json
from runtime.machine import measured_on

LIBRARIES = ("onnxruntime", "openvino", "onnx", "numpy", "torch", "opencv-python", "av")
REPORT_NAME = "bench"
TITLE = "# What a decision costs on this CPU"
INTRODUCTION = (
    "Written by `make bench`; do not edit. Random weights (cost does not depend on them), INT8 "
    "with thresholds from a few steps of noise. Median (10th-90th percentile) over rounds in which "
    "everything that is compared takes its turn. Where nothing else is said, time is CPU time of "
    "the process on one thread: on an idle machine that is the wall clock, and other programs "
    f"count less. {DRIFT_TEXT}"
)

Measure: TypeAlias = Callable[[Models, Effort, Path], Table]

TABLES: dict[str, Measure] = {
    "decision": lambda models, effort, _: decision.measure(models, effort),
    "engines": lambda models, effort, _: engines.measure(models, effort),
    "parts": lambda models, effort, _: parts.measure(models, effort),
    "operations": lambda models, effort, _: operations.measure(models, effort),
    "floor": lambda models, effort, _: floor.measure(models, effort),
    "streams": lambda models, effort, _: streams.measure_streams(models, effort),
    "phases": lambda models, effort, _: streams.measure_phases(models, effort),
    "stages": stages.measure_stages,
    "decode": lambda _, effort, folder: decoding.measure(effort, folder),
    "latency": latency.measure,
    "memory": lambda models, effort, _: processes.measure_memory(models, effort),
    "start": processes.measure_start,
    "training": lambda _, effort, folder: training.measure(effort, folder),
    "training_loop": lambda _, effort, folder: training_loop.measure(effort, folder),
}


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        measured: Machine and versions.
        load: One-minute load average before and after.
        seconds: How long each table took.
        tables: What was measured.
    """

    measured: str
    load: tuple[float, float]
    seconds: dict[str, float]
    tables: tuple[Table, ...]

    @property
    def values(self) -> dict[str, Value]:
        """Every number by its name."""
        return {key: value for table in self.tables for key, value in table.values.items()}

    def to_json(self) -> dict[str, Any]:
        """The run for `--compare` and other programs."""
        return {
            "measured": self.measured,
            "load": list(self.load),
            "seconds": self.seconds,
            "tables": [table.to_json() for table in self.tables],
        }

    def markdown(self, plots: Sequence[str] = ()) -> str:
        """The run for people.

        Args:
            plots: Files of plots that lie beside the file.
        """
        total = sum(self.seconds.values())
        parts_of_it = ", ".join(f"{name} {s:.0f} s" for name, s in self.seconds.items())
        lines = [
            TITLE,
            "",
            INTRODUCTION,
            "",
            needed.as_markdown(self.values),
            "",
            *(f"![{Path(plot).stem}]({plot})\n" for plot in plots),
            *(table.markdown() for table in self.tables),
            f"{self.measured} Load average {self.load[0]:.1f} before and {self.load[1]:.1f} after; "
            f"{total / 60:.1f} min: {parts_of_it}.",
        ]
        return "\n".join(lines) + "\n"


def run(
    names: Sequence[str], effort: Effort, on_table: Callable[[Table], None] = lambda _: None
) -> Report:
    """Measure some tables, in order.

    Args:
        names: Of `TABLES`.
        effort: How much.
        on_table: Is told each table as it is there.

    Raises:
        ExportError: A part of the bench failed.
        SessionError: The same.
    """
    load, seconds, tables = os.getloadavg()[0], {}, []
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for name in names:
            started_s = time.perf_counter()
            tables.append(TABLES[name](models, effort, Path(folder)))
            seconds[name] = round(time.perf_counter() - started_s, 1)
            on_table(tables[-1])
    loads = (round(load, 2), round(os.getloadavg()[0], 2))
    return Report(measured_on(LIBRARIES), loads, seconds, tuple(tables))


def write(report: Report, folder: Path, name: str = REPORT_NAME) -> Path:
    """Write a run as `bench.json`, `bench.md` and plots; gives the Markdown's path.

    Args:
        report: The run.
        folder: Where to.
        name: Of the files, instead of `bench`.
    """
    drawn = {f"{name}-{plot}.png": draw(report.values) for plot, draw in PLOTS.items()}
    plots = {file: png for file, png in drawn.items() if png is not None}
    for file, png in plots.items():
        with whole_file(folder / file) as part:
            part.write_bytes(png)
    write_json(folder / f"{name}.json", report.to_json())
    text = folder / f"{name}.md"
    with whole_file(text) as part:
        part.write_text(report.markdown(list(plots)), encoding="utf-8")
    return text
