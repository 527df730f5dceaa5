"""The float and the INT8 step graph side by side on a long stream: logits, states, state math."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.record import no_news
from export.stream.graph_run import GraphRun, Values
from export.stream.growth import growth_of
from export.stream.long_stream import LongStream, stream_of
from export.stream.noise import Noise
from export.stream.state_math import ExactStateMath, exact_state_math
from export.stream.state_parts import StatePart
from runtime.bundle import LOGITS_OUTPUT, Bundle
from runtime.errors import ExportError
from runtime.machine import measured_on
from runtime.sessions.base import Logits, StepSession

EXPORT_STEPS = 1000
PROBE_STEPS = 2
TRACE_POINTS = 100
LIBRARIES = ("onnxruntime", "numpy")


def measure_drift(
    bundle: Bundle,
    clips: Sequence[NDArray[np.uint8]],
    parts: Sequence[StatePart],
    *,
    steps: int = EXPORT_STEPS,
    most_seconds: float | None = None,
    model: StepSession | None = None,
    advance: Callable[[int], object] = no_news,
) -> dict[str, Any]:
    """Run a long stream through both step graphs.

    Args:
        bundle: A bundle with both step graphs.
        clips: Pictures of each clip, (S, H, W, 3) uint8.
        parts: What the states' numbers are.
        steps: Steps of the stream, at least.
        most_seconds: Run fewer steps where these would take longer; None does not ask.
        model: The PyTorch model, to hold the float graph against where there is time for it.
        advance: Called with the number of new steps.

    Returns:
        The numbers for the report. Distances are the largest difference of a logit as a share of
        the float logits' range over the stream.

    Raises:
        ExportError: A graph gives something that is no number.
        ValueError: No clips, or `steps` < 1.
    """
    with _Sides(bundle, parts, model) as sides:
        affordable = steps
        if most_seconds is not None and clips:
            affordable = sides.affordable(clips[0][0], steps, most_seconds)
        stream = stream_of(clips, min(steps, max(1, affordable)))
        started = time.monotonic()
        for number, frame in enumerate(stream):
            sides.step(frame, number, stream)
            advance(1)
    return {
        "steps": stream.steps,
        "wanted_steps": steps,
        "clips": len(stream.clips),
        "block_steps": stream.block_steps,  # the warm-up's too
        "seconds": round(time.monotonic() - started, 1),
        "measured": measured_on(LIBRARIES),
        **sides.to_json(stream),
    }


class _Sides:
    """All that runs side by side, and what was seen of it behind the warm-up.

    Float and INT8 run at the same time, each on half of the cores: less waits than where each
    step's operations are shared out over all (a quarter less time on two cores).
    """

    def __init__(
        self, bundle: Bundle, parts: Sequence[StatePart], model: StepSession | None
    ) -> None:
        self._parts, self._model = parts, model
        self._math = _math_of(bundle)
        path, int8 = bundle.graph_path("step_int8"), bundle.graph("step_int8")
        pooled = () if self._math is None else self._math.pooled
        threads = max(1, (os.cpu_count() or 1) // 2)
        self._float = GraphRun(bundle.graph_path("step"), bundle.graph("step"), threads=threads)
        self._int8 = GraphRun(path, int8, pooled, threads=threads)
        self._aside = ThreadPoolExecutor(1, "float")
        self._expected: list[Logits] = []
        self._got: list[Logits] = []
        self._of_model: list[Logits] = []
        self._noises = [Noise() for _ in parts]
        self._math_noise = Noise()

    def __enter__(self) -> _Sides:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._aside.shutdown()

    def affordable(self, frame: NDArray[np.uint8], steps: int, seconds: float) -> int:
        """How many steps there is time for; PyTorch is left out where it takes some of them.

        INT8 is what may drift: its steps are worth more than PyTorch's. The stream's first step
        begins anew, so what runs here leaves no trace.

        Args:
            frame: Any picture of the stream.
            steps: The wanted ones.
            seconds: There are.
        """
        each_s = self._probe(frame)
        if self._model is not None and seconds / each_s < steps:
            self._model = None
            each_s = self._probe(frame)
        return int(seconds / each_s)

    def _probe(self, frame: NDArray[np.uint8]) -> float:
        """Seconds of a step."""
        self._run(frame, 1.0)
        started = time.monotonic()
        for _ in range(PROBE_STEPS):
            self._run(frame, 0.0)
        return (time.monotonic() - started) / PROBE_STEPS

    def step(self, frame: NDArray[np.uint8], number: int, stream: LongStream) -> None:
        """One step of the stream."""
        expected, got, of_model, exact = self._run(frame, float(number == 0))
        rows = (expected[LOGITS_OUTPUT][0], got[LOGITS_OUTPUT][0])
        if not all(np.isfinite(row).all() for row in rows):
            raise ExportError(
                f"a logit is no number at step {number} of a long stream; do not ship this graph"
            )
        block = number // stream.block_steps - 1
        if block < 0:
            return
        self._expected.append(rows[0])
        self._got.append(rows[1])
        if of_model is not None:
            self._of_model.append(of_model)
        ours, theirs = self._float.states(expected), self._int8.states(got)
        for part, noise in zip(self._parts, self._noises, strict=True):
            cut = slice(part.start, part.stop)
            noise.add(block, ours[part.state][:, cut], theirs[part.state][:, cut])
        if self._math is not None and exact is not None:
            self._math_noise.add(block, exact, theirs[self._math.number])

    def _run(
        self, frame: NDArray[np.uint8], reset: float
    ) -> tuple[Values, Values, Logits | None, NDArray[np.float64] | None]:
        running = self._aside.submit(self._float.step, frame, reset)
        got = self._int8.step(frame, reset)
        expected = running.result()
        of_model = None
        if self._model is not None:
            starts = np.full((1, 1), reset, np.float32)
            of_model = self._model.step(0, frame[np.newaxis], starts)[0]
        exact = None if self._math is None else self._math.step(got, reset)
        return expected, got, of_model, exact

    def to_json(self, stream: LongStream) -> dict[str, Any]:
        """The numbers for the report."""
        expected, got = np.stack(self._expected), np.stack(self._got)
        span = float(expected.max() - expected.min()) or 1.0
        distance = _distance(got, expected, span)
        logits = Noise()
        logits.add(0, expected, got)
        of_model = None
        if self._of_model:
            away = _distance(np.stack(self._of_model), expected, span)
            of_model = {"largest": float(away.max()), **growth_of(away).to_json()}
        return {
            "logits_range": span,
            "logits_sqnr_db": logits.sqnr_db,
            "same_top1": float((expected.argmax(1) == got.argmax(1)).mean()),
            "int8": growth_of(distance).to_json(),
            "onnx_model": of_model,
            "trace": _trace(distance, stream.block_steps),
            "states": [
                {**part.to_json(), "sqnr_db": noise.sqnr_db}
                for part, noise in zip(self._parts, self._noises, strict=True)
            ],
            "kinds": self._kinds(),
            "state_math": None if self._math is None else _in_decibels(self._math_noise),
        }

    def _kinds(self) -> dict[str, Any]:
        """PEM's states and the temporal module's, each as one."""
        kinds = {}
        for kind in dict.fromkeys(part.kind for part in self._parts):
            pairs = zip(self._parts, self._noises, strict=True)
            noises = [noise for part, noise in pairs if part.kind == kind]
            lowest = min(noise.sqnr_db for noise in noises)
            kinds[kind] = {**_in_decibels(Noise.of_all(noises)), "lowest_db": lowest}
        return kinds


def _math_of(bundle: Bundle) -> ExactStateMath | None:
    """The exact state math, where the INT8 graph still has the pooled vectors it reads."""
    math = exact_state_math(onnx.load(bundle.graph_path("step")), bundle.graph("step").states)
    nodes = onnx.load(bundle.graph_path("step_int8")).graph.node
    made = {name for node in nodes for name in node.output}
    return math if math is not None and set(math.pooled) <= made else None


def _distance(got: Logits, expected: Logits, span: float) -> NDArray[np.float64]:
    return np.abs(got - expected).max(1).astype(np.float64) / span


def _in_decibels(noise: Noise) -> dict[str, Any]:
    return {"sqnr_db": noise.sqnr_db, "by_block": noise.by_block}


def _trace(distance: NDArray[np.float64], first_step: int) -> dict[str, list[float]]:
    """The distance along the stream, thinned: median and 95th percentile of short stretches."""
    stretches = np.array_split(distance, min(TRACE_POINTS, len(distance)))
    ends = first_step + np.cumsum([len(stretch) for stretch in stretches])
    return {
        "step": [int(end) for end in ends],
        "median": [float(np.median(stretch)) for stretch in stretches],
        "high": [float(np.quantile(stretch, 0.95)) for stretch in stretches],
    }
