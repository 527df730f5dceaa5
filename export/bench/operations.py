"""Where a step's time goes, by kind of operation: what a ratio that misses is made of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.bench.effort import Case, Effort
from export.bench.models import Models, Part, name_of, noise
from export.bench.values import Table
from runtime.bundle import FRAME_INPUT
from runtime.errors import ExportError
from runtime.sessions.ov import compiled_step, has_openvino, import_openvino

KINDS = 6
WARM_UP = 20
TEXT = (
    "An INT8 step in OpenVINO with its own counters on, one thread, wall clock by kind of "
    "operation, mean of some steps after a warm-up: TDRL's time less the plain backbone's, the "
    "largest shares. *Calls*: operations that ran. The counters cost time themselves, so the sum "
    "is more than a step, and a busy machine makes nonsense of it."
)


def measure(models: Models, effort: Effort) -> Table:
    """The table `operations`; a line that says so without OpenVINO."""
    header = ("backbone", "plain, ms (calls)", "TDRL, ms (calls)", "the difference, by kind")
    table = Table("operations", "What the temporal parts spend their time on", TEXT, header)
    if not has_openvino():
        table.rows.append(("OpenVINO is not installed", "", "", ""))
        return table
    for case in effort.cases:
        _add(table, models, case, effort.rounds)
    return table


def _add(table: Table, models: Models, case: Case, rounds: int) -> None:
    plain, tdrl = (_profile(models, case, part, rounds) for part in ("none", "both"))
    cells = []
    for name, profile in (("plain", plain), ("TDRL", tdrl)):
        value = table.add(f"{name_of(case)}/{name}", [sum(profile.ms.values())], "ms")
        cells.append(f"{value.median:.2f} ({profile.calls})")
    kinds = plain.ms.keys() | tdrl.ms.keys()
    more = {kind: tdrl.ms.get(kind, 0.0) - plain.ms.get(kind, 0.0) for kind in kinds}
    largest = sorted(more, key=lambda kind: -abs(more[kind]))[:KINDS]
    whole = sum(more.values())
    cells.append(", ".join(f"{kind} {more[kind] / whole:.0%}" for kind in largest))
    table.rows.append((name_of(case), *cells))


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a step by kind of operation, and how many operations ran."""

    ms: dict[str, float]
    calls: int


def _profile(models: Models, case: Case, part: Part, rounds: int) -> Profile:
    request = _request(models.bundle(case, part).graph_path("step_int8"))
    for _ in range(WARM_UP):
        request.infer()
    before = _totals_ms(request, WARM_UP)
    for _ in range(rounds):
        request.infer()
    after = _totals_ms(request, WARM_UP + rounds)
    ms: defaultdict[str, float] = defaultdict(float)
    for name, (kind, total_ms) in after.items():
        ms[kind] += (total_ms - before.get(name, (kind, 0.0))[1]) / rounds
    return Profile(dict(ms), len(after))


def _totals_ms(request: Any, runs: int) -> dict[str, tuple[str, float]]:
    """Kind and time of each operation in all runs: a counter holds their mean, the first included.

    The first run compiles kernels, which takes a thousand times as long.
    """
    return {
        each.node_name: (each.node_type, runs * each.real_time.total_seconds() * 1e3)
        for each in request.get_profiling_info()
        if each.status.name == "EXECUTED"
    }


def _request(path: Path) -> Any:
    openvino, compiled = import_openvino(), compiled_step(path, threads=1, counters=True)
    try:
        request = compiled.create_infer_request()
        for port in request.model_inputs:
            name, shape = port.get_any_name(), tuple(port.get_shape())
            dtype = port.get_element_type().to_dtype()
            array = noise(shape) if name == FRAME_INPUT else np.zeros(shape, dtype)
            request.set_tensor(name, openvino.Tensor(array))
    except RuntimeError as err:
        raise ExportError(f"OpenVINO cannot profile {path.name}: {err}") from err
    return request
