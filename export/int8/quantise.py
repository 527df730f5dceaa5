"""From a float step graph and clips to the best INT8 graph: observe, record, search, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.clip_list import CalibrationClip
from calib.record import clip_pictures, no_news, record
from calib.recording import Recording
from export.int8.placement import MAP_RANK, Placement
from export.int8.probe import Probe, probe_of
from export.int8.search import BUDGET, Found, Int8Maker, search
from export.int8.sensitivity import LayerSensitivity, with_top1_loss
from export.parity import session_steps
from export.stream.state_sqnr import state_sqnr_db
from export.to_int8 import observed_from_step, write_int8
from runtime.bundle import Bundle, GraphSpec
from runtime.errors import DataError, SourceError
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession

STEP_INT8 = "step.int8.onnx"
# what weights, biases and sensitivities are measured on: every second step of a few clips
PROBE_CLIPS = 16
PROBE_EVERY = 2


@dataclass(frozen=True)
class LabelledClips:
    """Clips to measure accuracy on.

    Attributes:
        pictures: Shape (B, T, H, W, 3), uint8.
        label: Classes, shape (B,).
    """

    pictures: NDArray[np.uint8]
    label: NDArray[np.int64]


@dataclass(frozen=True)
class Int8Options:
    """What may be chosen about an INT8 graph.

    Attributes:
        float_budget: Share of the multiplications that may stay in float, 0..1; 0 keeps all in
            INT8.
        layer_accuracy: Measure what the ten most sensitive convolutions cost in accuracy on all
            validation clips, however long it takes, see `layer_clips`.
    """

    float_budget: float = BUDGET
    layer_accuracy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.float_budget <= 1:
            raise ValueError(
                f"float_budget must be in 0..1, got {self.float_budget}; 0.05 is 5 % of the work"
            )


DEFAULT_OPTIONS = Int8Options()


@dataclass(frozen=True)
class Quantised:
    """The INT8 graph and how it was chosen.

    Attributes:
        graph: File and states of the INT8 graph.
        found: What was tried, what stayed, and what it measures.
        placement: Where the Q/DQ pairs are.
        recording: What calibration streamed.
        layers: Each convolution's sensitivity, the most sensitive one first.
        num_layer_clips: Clips that the accuracy of the first ones was measured on; 0: it was not.
        budget: Share of the multiplications that was allowed to stay in float, 0..1.
        state_sqnr_db: SQNR of each state on the comparison steps, by its input's name.
        state_kinds: What each state is of: `PEM`, `TM` or both.
    """

    graph: GraphSpec
    found: Found
    placement: Placement
    recording: Recording
    layers: tuple[LayerSensitivity, ...]
    num_layer_clips: int
    budget: float
    state_sqnr_db: dict[str, float]
    state_kinds: dict[str, str]

    @property
    def float_convs(self) -> dict[str, str]:
        """Convolutions that stay in float, and why."""
        costs = {layer.conv: layer.sqnr_db for layer in self.layers}
        return {
            conv: f"alone in INT8 it takes the logits to {costs[conv]:.1f} dB"
            for conv in self.found.settings.float_convs
        }

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        settings = self.found.settings
        shares = {layer.conv: layer.macs_share for layer in self.layers}
        kept = [
            {"conv": conv, "reason": reason, "macs_share": round(shares[conv], 5)}
            for conv, reason in self.float_convs.items()
        ]
        return {
            "method": settings.method,
            "compared": {name: each.to_json() for name, each in self.found.compared.items()},
            "steps_tried": [each.to_json() for each in self.found.tried],
            "weights": {
                "rounded_against_inputs": settings.rounded,
                "corrected_biases": settings.corrected,
            },
            "sensitivity": {
                "layers": [layer.to_json() for layer in self.layers],
                "kept_float": list(self.float_convs),
                "accuracy_clips": self.num_layer_clips,
            },
            "kept_float": kept,
            "budget": self.budget,
            "state_sqnr_db": {n: round(db, 2) for n, db in self.state_sqnr_db.items()},
            "state_kinds": self.state_kinds,
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
    cache_dir: Path | None = None,
    budget: float = BUDGET,
    worst_on: LabelledClips | None = None,
) -> Quantised:
    """Write the best INT8 step graph into a bundle's folder.

    Args:
        bundle: A bundle whose float step graph is in its folder.
        clips: Calibration clips.
        frames: Comparison steps, shape (S, H, W, 3), uint8; not among the clips.
        reset: 1 where a comparison step starts anew, shape (S,).
        advance: Called with the number of calibration clips that are done, see `record`.
        cache_dir: Where recordings are kept, see `record`.
        budget: Share of the multiplications that may stay in float, 0..1; 0 keeps all in INT8.
        worst_on: Measure what the ten most sensitive convolutions cost in accuracy on these.

    Raises:
        ExportError: The graph cannot be quantised.
        DataError: A clip cannot be used.
    """
    maker, recording = int8_maker(
        bundle, clips, frames, reset, advance=advance, cache_dir=cache_dir
    )
    found = search(maker, budget)
    made = maker.make(found.settings)
    write_int8(made, bundle.folder / STEP_INT8)
    layers = found.layers
    if worst_on is not None:
        alone = maker.alone(found.settings)
        states = bundle.graph("step").states
        layers = with_top1_loss(layers, alone, states, worst_on.pictures, worst_on.label)
    graph = GraphSpec(STEP_INT8, made.states)
    return Quantised(
        graph,
        found,
        made.placement,
        recording,
        layers,
        0 if worst_on is None else len(worst_on.label),
        budget,
        state_sqnr_db(bundle, graph, frames, reset),
        state_kinds(bundle),
    )


def int8_maker(
    bundle: Bundle,
    clips: Sequence[CalibrationClip],
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
    *,
    advance: Callable[[int], object] = no_news,
    cache_dir: Path | None = None,
) -> tuple[Int8Maker, Recording]:
    """Calibrate: what makes INT8 graphs, and what was recorded; arguments as in `quantise`."""
    states = bundle.graph("step").states
    observed = bundle.folder / "observed.onnx"
    try:
        observed_from_step(bundle.graph_path("step"), states, observed)
        recording = record(
            observed,
            states,
            clips,
            bundle.picture,
            bundle.sampling,
            advance=advance,
            cache_dir=cache_dir,
        )
    finally:
        observed.unlink(missing_ok=True)
    step = onnx.load(str(bundle.graph_path("step")))
    probe = _probe(step, bundle, clips)
    reference = steps_of(bundle, frames, reset)
    maker = Int8Maker(step, states, recording.histograms, probe, frames, reset, reference)
    return maker, recording


def state_kinds(bundle: Bundle) -> dict[str, str]:
    """What each state is of, by its input's name: `PEM`, `TM` (the temporal module), or both."""
    has_vectors = bundle.model.get("temporal") in ("mem", "tei")
    vectors = "PEM" if bundle.model.get("pem") else "TM"
    if has_vectors and vectors == "PEM":
        vectors = "PEM and TM"
    return {
        state.name_in: "TM" if len(state.shape) == MAP_RANK else vectors
        for state in bundle.graph("step").states
    }


def _probe(step: onnx.ModelProto, bundle: Bundle, clips: Sequence[CalibrationClip]) -> Probe:
    """Steps of the first clips that can be read; each starts from the zero state.

    Raises:
        DataError: None can be read.
    """
    pictures, reset = [], []
    num_read = 0
    for clip in clips:
        if num_read == PROBE_CLIPS:
            break
        try:
            found = clip_pictures(clip, bundle.picture, bundle.sampling)
        except (SourceError, DataError):
            continue  # `record` has counted it
        num_read += 1
        pictures += found
        reset += [1.0] + [0.0] * (len(found) - 1)
    if not pictures:
        raise DataError(
            f"none of {len(clips)} calibration clips can be read any more, e.g. {clips[0].path}; "
            "were they moved while the export ran?"
        )
    states = bundle.graph("step").states
    starts = np.array(reset, np.float32)
    return probe_of(step, states, np.stack(pictures), starts, every=PROBE_EVERY)


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
