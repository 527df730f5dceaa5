"""Where a step's time goes, by kind of operation: what a ratio that misses is made of."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from export.bench.effort import Case, Effort
from export.bench.models import Models, Part, name_of, noise
from export.bench.values import Table
from runtime.bundle import FRAME_INPUT, GraphKind
from runtime.errors import ExportError
from runtime.sessions.ov import compiled_step, has_openvino, import_openvino

KINDS = 6
WARM_UP = 20
DIFFERENCE = "the difference, by kind"
TEXT = (
    "A step with the engine's own counters on, INT8 in OpenVINO and float32 in ONNX Runtime, one "
    "thread, wall clock by kind of operation, mean of some steps after a warm-up: TDRL's time less "
    "the plain backbone's, the largest shares. *Calls*: operations that ran. The counters cost "
    "time themselves, so the sum is more than a step, and a busy machine makes nonsense of it. "
    "ONNX Runtime's count whole microseconds, so its smallest operations are rounded."
)


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a step by kind of operation, and how many operations ran."""

    ms: dict[str, float]
    calls: int


@dataclass(frozen=True)
class Engine:
    """What runs a step and counts.

    Attributes:
        name: For people, and in the numbers' names.
        graph: The step graph that it runs.
        profile: Gives the profile of a graph's step, mean of some runs.
    """

    name: str
    graph: GraphKind
    profile: Callable[[Path, int], Profile]


def measure(models: Models, effort: Effort) -> Table:
    """The table `operations`; instead of OpenVINO's lines one that says it is not installed."""
    header = ("backbone", "engine", "plain, ms (calls)", "TDRL, ms (calls)", DIFFERENCE)
    table = Table("operations", "What the temporal parts spend their time on", TEXT, header)
    openvino = Engine("openvino int8", "step_int8", openvino_profile)
    engines = [openvino] if has_openvino() else []
    if not engines:
        table.rows.append(("OpenVINO is not installed", *[""] * (len(header) - 1)))
    engines.append(Engine("ort float32", "step", ort_profile))
    for case in effort.cases:
        for engine in engines:
            _add(table, models, case, engine, effort.rounds)
    return table


def _add(table: Table, models: Models, case: Case, engine: Engine, rounds: int) -> None:
    parts: dict[str, Part] = {"plain": "none", "TDRL": "both"}
    profiles = {
        name: engine.profile(models.bundle(case, part).graph_path(engine.graph), rounds)
        for name, part in parts.items()
    }
    cells = []
    for name, profile in profiles.items():
        key = f"{name_of(case)}/{engine.name}/{name}"
        value = table.add(key, [sum(profile.ms.values())], "ms")
        cells.append(f"{value.median:.2f} ({profile.calls})")
    plain, tdrl = (profile.ms for profile in profiles.values())
    more = {kind: tdrl.get(kind, 0.0) - plain.get(kind, 0.0) for kind in plain.keys() | tdrl.keys()}
    largest = sorted(more, key=lambda kind: -abs(more[kind]))[:KINDS]
    whole = sum(more.values())
    cells.append(", ".join(f"{kind} {more[kind] / whole:.0%}" for kind in largest))
    table.rows.append((name_of(case), engine.name, *cells))


def ort_profile(path: Path, rounds: int) -> Profile:
    """A step graph in ONNX Runtime with its profiler on, by kind of kernel.

    Raises:
        ExportError: ONNX Runtime wrote no kernel of a measured run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / path.stem)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {
            each.name: _at_first(each.name, tuple(each.shape)) for each in session.get_inputs()
        }
        for _ in range(WARM_UP + rounds):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    profile = ort_kernels(events, WARM_UP)
    if not profile.calls:
        raise ExportError(f"ONNX Runtime {ort.__version__} profiled no kernel of {path.name}")
    return profile


def ort_kernels(events: Sequence[Mapping[str, Any]], warm_up: int) -> Profile:
    """Kernels of an ONNX Runtime profile by kind, mean of the runs after the first few.

    Args:
        events: Chrome trace events, times in microseconds:
            https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
        warm_up: Runs that do not count.
    """
    runs = sorted((each for each in events if each["name"] == "model_run"), key=lambda e: e["ts"])
    counted = runs[warm_up:]
    ms: defaultdict[str, float] = defaultdict(float)
    calls = 0
    for each in events:
        is_kernel = each["cat"] == "Node" and each["name"].endswith("_kernel_time")
        if is_kernel and counted and each["ts"] >= counted[0]["ts"]:
            ms[each["args"]["op_name"]] += each["dur"] / 1e3 / len(counted)
            calls += 1
    return Profile(dict(ms), round(calls / max(1, len(counted))))


def openvino_profile(path: Path, rounds: int) -> Profile:
    """A step graph in OpenVINO with its counters on, by kind of operation.

    Raises:
        ExportError: OpenVINO refuses to count.
    """
    request = _request(path)
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
            array = _at_first(name, shape, port.get_element_type().to_dtype())
            request.set_tensor(name, openvino.Tensor(array))
    except RuntimeError as err:
        raise ExportError(f"OpenVINO cannot profile {path.name}: {err}") from err
    return request


def _at_first(name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """An input of the step: a picture of noise, states of zeros."""
    return noise(shape) if name == FRAME_INPUT else np.zeros(shape, dtype)
