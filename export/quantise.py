"""From a float step graph and clips to the best INT8 graph: observe, record, choose, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.clip_list import CalibrationClip
from calib.record import Recording, no_news, record
from calib.thresholds import THRESHOLDS, Method
from export.parity import Parity, compare, session_steps
from export.placement import Placement
from export.to_int8 import int8_onnx_from_step, observed_from_step
from runtime.bundle import Bundle, GraphSpec, StateSpec
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession

STEP_INT8 = "step.int8.onnx"


@dataclass(frozen=True)
class Quantised:
    """The INT8 graph and how it was chosen.

    Attributes:
        graph: File and states of the INT8 graph.
        method: The threshold method that was kept.
        compared: Distance to float on the comparison steps, by method.
        placement: Where the Q/DQ pairs are.
        recording: What calibration streamed.
    """

    graph: GraphSpec
    method: Method
    compared: dict[str, Parity]
    placement: Placement
    recording: Recording

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {
            "method": self.method,
            "compared": {name: parity.to_json() for name, parity in self.compared.items()},
            "calibration_clips": self.recording.num_clips,
            "calibration_steps": self.recording.num_steps,
            "calibration_resets": self.recording.num_resets,
            "quantised_tensors": len(self.placement.tensors),
            "int8_convolutions": len(self.placement.convs),
            "int8_states": len(self.placement.shift_states),
        }


def quantise(
    bundle: Bundle,
    clips: Sequence[CalibrationClip],
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
    *,
    advance: Callable[[int], object] = no_news,
) -> Quantised:
    """Write the best INT8 step graph into a bundle's folder.

    Every threshold method makes a graph; the one whose logits are nearest to float on the
    comparison steps is kept (highest SQNR).

    Args:
        bundle: A bundle whose float step graph is in its folder.
        clips: Calibration clips.
        frames: Comparison steps, shape (S, H, W, 3), uint8; not among the clips.
        reset: 1 where a comparison step starts anew, shape (S,).
        advance: Called with 1 after every calibration clip.

    Raises:
        ExportError: The graph cannot be quantised.
        DataError: A clip cannot be used.
    """
    folder, states = bundle.folder, bundle.graph("step").states
    observed = folder / "observed.onnx"
    try:
        placement = observed_from_step(bundle.graph_path("step"), states, observed)
        recording = record(
            observed, states, clips, bundle.picture, bundle.sampling, advance=advance
        )
    finally:
        observed.unlink(missing_ok=True)
    reference = steps_of(bundle, frames, reset)
    compared: dict[str, Parity] = {}
    for method in THRESHOLDS:
        graph = _write(bundle, placement, recording, method)
        compared[method] = compare(steps_of(bundle, frames, reset, int8=graph), reference)
    best = max(THRESHOLDS, key=lambda method: compared[method].sqnr_db)
    graph = _write(bundle, placement, recording, best)
    return Quantised(graph, best, compared, placement, recording)


def steps_of(
    bundle: Bundle,
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
    *,
    int8: GraphSpec | None = None,
) -> Logits:
    """Reference logits of unrolled steps: ONNX Runtime with optimisation off.

    Args:
        bundle: A bundle with its step graph.
        frames: Shape (S, H, W, 3), uint8.
        reset: Shape (S,), float32.
        int8: The INT8 graph to run instead of the float one.
    """
    with reference_session(bundle, int8) as session:
        return session_steps(session, frames, reset)


def reference_session(bundle: Bundle, int8: GraphSpec | None = None) -> OrtStepSession:
    """ONNX Runtime with optimisation off: what the other engines are held against."""
    if int8 is None:
        return OrtStepSession(bundle, "float32", optimise=False)
    return OrtStepSession(with_graph(bundle, int8), "int8", optimise=False)


def with_graph(bundle: Bundle, int8: GraphSpec) -> Bundle:
    """The bundle with its INT8 graph named."""
    return replace(bundle, graphs={**bundle.graphs, "step_int8": int8})


def _write(bundle: Bundle, placement: Placement, recording: Recording, method: Method) -> GraphSpec:
    choose = THRESHOLDS[method]
    thresholds = {name: choose(recording.histograms[name]) for name in placement.tensors}
    states: tuple[StateSpec, ...] = int8_onnx_from_step(
        bundle.graph_path("step"),
        bundle.graph("step").states,
        thresholds,
        bundle.folder / STEP_INT8,
    )
    return GraphSpec(STEP_INT8, states)
