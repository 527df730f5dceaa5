"""What TDRL costs over its plain backbone, and INT8 over float: one step, same engine, one run.

Graphs have random weights (cost does not depend on them) and INT8 thresholds from a few steps of
noise. In a round every graph runs one step; ratios are taken round by round. Time is the
process's CPU time: with one thread it is the wall clock of an idle machine, and other programs
that share the cores do not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from export.engines.build_log import conv_node_names, nvidia_build_check
from export.step_engines import Engine, step_in
from export.to_int8 import int8_onnx_from_step, observed_from_step
from export.to_onnx import step_onnx_from_model
from runtime.bundle import FRAME_INPUT, RESET_INPUT, StateSpec
from runtime.nvidia import find_tensorrt
from runtime.preprocess import PictureRule
from train.model.pem import Pem
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

Key = TypeVar("Key")

WARM_UP = 8
NUM_CLASSES = 13
MODELS = {"plain": UnitConfig(temporal="none", pem=False), "tdrl": UnitConfig()}
PRECISIONS = ("float32", "int8")
GRAPHS = tuple(f"{model}.{precision}" for precision in PRECISIONS for model in MODELS)


@dataclass(frozen=True)
class Ratio:
    """A ratio over the rounds.

    Attributes:
        median: Its median.
        low: Its 10th percentile.
        high: Its 90th percentile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """`1.16 (1.13-1.19)`."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class StepRatios:
    """One backbone at one size in one engine.

    Attributes:
        backbone: Its name.
        size_px: Height and width of the picture.
        engine: What ran it.
        rounds: Rounds measured.
        ms: Median CPU time of a step by graph (`plain.float32` ...), milliseconds.
        tdrl_float32: TDRL ÷ plain, float32.
        tdrl_int8: TDRL ÷ plain, INT8.
        int8: INT8 ÷ float32, TDRL.
    """

    backbone: str
    size_px: int
    engine: Engine
    rounds: int
    ms: Mapping[str, float]
    tdrl_float32: Ratio
    tdrl_int8: Ratio
    int8: Ratio

    def to_json(self) -> dict[str, Any]:
        """The numbers for a report."""
        return asdict(self)


def write_graphs(backbone: str, size_px: int, folder: Path) -> dict[str, Path]:
    """Step graphs of the plain backbone and of TDRL, float32 and INT8.

    Args:
        backbone: Its name.
        size_px: Height and width of the picture.
        folder: Where they go.

    Returns:
        The files, by the names of `GRAPHS`.
    """
    rule = PictureRule(height_px=size_px, width_px=size_px)
    files = {name: folder / f"{backbone}-{size_px}.{name}.onnx" for name in GRAPHS}
    for name, unit in MODELS.items():
        write_pair(
            random_model(backbone, unit), rule, files[f"{name}.float32"], files[f"{name}.int8"]
        )
    return files


def write_pair(
    model: Tdrl, rule: PictureRule, step: Path, int8: Path
) -> tuple[tuple[StateSpec, ...], tuple[StateSpec, ...]]:
    """A model's step graph, float32 and INT8; the states of both."""
    states = step_onnx_from_model(model, rule, step)
    return states, int8_onnx_from_step(step, states, _thresholds(step, states), int8)


def step_ratios(
    backbone: str, size_px: int, engine: Engine, files: Mapping[str, Path], *, rounds: int
) -> StepRatios:
    """Time the four graphs against one another.

    Args:
        backbone: For the report.
        size_px: For the report.
        engine: What runs them.
        files: What `write_graphs` gave.
        rounds: Rounds, >= 1.

    Raises:
        ExportError: The engine is not installed.
    """
    steps = {name: step_in(engine, files[name]) for name in GRAPHS}
    times = cpu_times(steps, rounds, f"{backbone} {size_px} {engine}")
    return StepRatios(
        backbone=backbone,
        size_px=size_px,
        engine=engine,
        rounds=rounds,
        ms={name: float(np.median(times[name])) for name in GRAPHS},
        tdrl_float32=ratio_of(times["tdrl.float32"], times["plain.float32"]),
        tdrl_int8=ratio_of(times["tdrl.int8"], times["plain.int8"]),
        int8=ratio_of(times["tdrl.int8"], times["tdrl.float32"]),
    )


def kernel_counts(files: Mapping[str, Path]) -> dict[str, int] | None:
    """Kernels of a step in NVIDIA's own build of every graph; None without `tensorrt_rtx`.

    Args:
        files: What `write_graphs` gave.

    Raises:
        ExportError: A convolution of an INT8 graph does not run on INT8, or one of a float graph
            does: the counts would be another graph's.
    """
    if find_tensorrt(("tensorrt_rtx",)) is None:
        return None
    return {name: _kernels(files[name], is_int8=name.endswith(".int8")) for name in GRAPHS}


def _kernels(path: Path, *, is_int8: bool) -> int:
    expected = conv_node_names(path) if is_int8 else 0
    return nvidia_build_check(path, expected_int8=expected).kernels


def as_markdown(rows: Sequence[StepRatios]) -> str:
    """The rows as a table for people."""
    lines = [
        "| backbone | size | engine | TDRL float ms | TDRL INT8 ms "
        "| TDRL ÷ plain, float | TDRL ÷ plain, INT8 | INT8 ÷ float |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.backbone} | {row.size_px} | {row.engine} | {row.ms['tdrl.float32']:.2f} "
        f"| {row.ms['tdrl.int8']:.2f} | {row.tdrl_float32} | {row.tdrl_int8} | {row.int8} |"
        for row in rows
    ]
    return "\n".join(lines)


def kernels_as_markdown(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Kernel counts by backbone as a table for people."""
    lines = [
        "| backbone | plain float | TDRL float | ratio | plain INT8 | TDRL INT8 | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in counts.items():
        cells = []
        for precision in PRECISIONS:
            plain, tdrl = of[f"plain.{precision}"], of[f"tdrl.{precision}"]
            cells += [str(plain), str(tdrl), f"{tdrl / plain:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def random_model(backbone: str, unit: UnitConfig) -> Tdrl:
    """A model with random weights in which nothing can be folded away."""
    torch.manual_seed(0)
    model = Tdrl(ModelConfig(backbone=backbone, num_classes=NUM_CLASSES, unit=unit)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Pem):  # at rest its gates are constant, and could be folded
                nn.init.normal_(module.attend.weight)
    return model


def _thresholds(step: Path, states: Sequence[StateSpec]) -> dict[str, float]:
    """Largest magnitudes along a few steps of noise."""
    observed = step.with_suffix(".observed")
    placement = observed_from_step(step, tuple(states), observed)
    session: Any = ort.InferenceSession(str(observed), providers=["CPUExecutionProvider"])
    observed.unlink()
    names = [output.name for output in session.get_outputs()]
    shape = next(i.shape for i in session.get_inputs() if i.name == FRAME_INPUT)
    rng = np.random.default_rng(0)
    carried = {state.name_in: np.zeros(state.shape, np.float32) for state in states}
    largest = dict.fromkeys(placement.tensors, 1e-3)
    for start in (1.0, 0.0, 0.0):
        frame = rng.integers(0, 256, shape, dtype=np.uint8)
        feeds = {FRAME_INPUT: frame, RESET_INPUT: np.full((1, 1), start, np.float32), **carried}
        found = dict(zip(names, session.run(names, feeds), strict=True))
        carried = {state.name_in: found[state.name_out] for state in states}
        largest = {n: max(v, float(np.abs(found[n]).max())) for n, v in largest.items()}
    return largest


def cpu_times(
    steps: Mapping[Key, Callable[[], object]],
    rounds: int,
    title: str,
    *,
    warm_up: int = WARM_UP,
    least_ms: float = 0.0,
) -> dict[Key, NDArray[np.float64]]:
    """CPU time of each step in each round, milliseconds, shape (rounds,), after a warm-up.

    Args:
        steps: What runs in a round, by name.
        rounds: Rounds, >= 1.
        title: Of the progress bar.
        warm_up: Runs of each before the first round, >= 1.
        least_ms: Steps that take less all together take their turns several times in a round,
            until they take this, and the round counts means. A step always follows another one,
            as a tick follows other work: its memory is not in the caches.
    """
    for step in steps.values():
        for _ in range(warm_up - 1):
            step()
    all_ms = sum(_cpu_ms(step) for step in steps.values())
    turns = max(1, math.ceil(least_ms / max(all_ms, 1e-3)))
    times: dict[Key, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(rounds), desc=title, unit="round", disable=None, leave=False):
        sums = dict.fromkeys(steps, 0.0)
        for _ in range(turns):
            for name, step in steps.items():
                sums[name] += _cpu_ms(step)
        for name, total in sums.items():
            times[name].append(total / turns)
    return {name: np.array(each) for name, each in times.items()}


def _cpu_ms(step: Callable[[], object]) -> float:
    """CPU time of a run, the process's threads together."""
    started_ns = time.process_time_ns()
    step()
    return (time.process_time_ns() - started_ns) / 1e6


def ratio_of(one: NDArray[np.float64], other: NDArray[np.float64]) -> Ratio:
    """One by the other, round by round."""
    low, median, high = np.percentile(one / other, [10, 50, 90])
    return Ratio(float(median), float(low), float(high))
