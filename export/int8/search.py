"""Which INT8 graph is nearest to float: each step that may help is tried, and stays if it does.

In this order: the threshold method, weights rounded against their inputs, corrected biases,
convolutions kept in float. All are measured on the same unrolled steps, of clips that calibration
has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from tqdm import tqdm

from calib.histogram import Histogram
from calib.thresholds import THRESHOLDS, choose_per_tensor
from export.int8.bias_correction import with_corrected_biases
from export.int8.conv_stats import ConvStats, conv_stats
from export.int8.placement import Placement, placement_of
from export.int8.probe import Probe, unrolled
from export.int8.round_weights import Rounded, least_error
from export.int8.sensitivity import AloneInInt8, LayerSensitivity, sensitivities
from export.parity import Parity, compare
from export.to_int8 import Int8Step, int8_step, scales_of
from runtime.bundle import StateSpec
from runtime.sessions.base import Logits

PER_TENSOR = "per-tensor"
METHODS = (*THRESHOLDS, PER_TENSOR)
# what a step must gain to stay; a convolution in float costs speed
LEAST_GAIN_DB = 0.1
LEAST_BIAS_GAIN_DB = 0.5  # less is chance, and biases moved at chance cost clips
LEAST_FLOAT_GAIN_DB = 0.5
# no convolution is kept in float beyond these
GOAL_DB = 25.0
GOAL_AGREEMENT = 0.99
BUDGET = 0.05
MOST_TRIALS = 8
# sensitivity runs the graph once for every convolution
SENSITIVITY_ROWS = 24


@dataclass(frozen=True)
class Settings:
    """How an INT8 graph is made.

    Attributes:
        method: The threshold method.
        rounded: Weights are rounded against their inputs.
        corrected: Biases are corrected.
        float_convs: Convolutions that stay in float.
    """

    method: str
    rounded: bool = False
    corrected: bool = False
    float_convs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """A step and what it measured.

    Attributes:
        name: What it is called.
        parity: Distance to float on the comparison steps.
        kept: Whether it stayed.
    """

    name: str
    parity: Parity
    kept: bool

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {
            "name": self.name,
            "sqnr_db": round(self.parity.sqnr_db, 2),
            "agreement": self.parity.same_top1,
            "kept": self.kept,
        }


class Maker(Protocol):
    """What the search asks: `Int8Maker`, and in its tests a stand-in with known gains."""

    def measure(self, settings: Settings) -> Parity:
        """Distance to float on the comparison steps."""

    def sensitivities(self, settings: Settings) -> list[LayerSensitivity]:
        """Each convolution alone in INT8, the most sensitive one first."""


@dataclass(frozen=True)
class Int8Maker:
    """Makes INT8 graphs of one float step graph and measures them.

    Attributes:
        step: The float step graph.
        states: Its states.
        histograms: What calibration recorded, by tensor.
        probe: Calibration frames with their states.
        frames: Comparison steps, shape (S, H, W, 3), uint8.
        reset: 1 where a comparison step starts anew, shape (S,).
        reference: The float graph's logits of the comparison steps, shape (S, K).
    """

    step: onnx.ModelProto
    states: tuple[StateSpec, ...]
    histograms: Mapping[str, Histogram]
    probe: Probe
    frames: NDArray[np.uint8]
    reset: NDArray[np.float32]
    reference: Logits
    _measured: dict[Settings, Parity] = field(default_factory=dict)

    def make(self, settings: Settings) -> Int8Step:
        """The INT8 graph."""
        made = int8_step(
            self.step,
            self.states,
            thresholds_of(settings.method, self.histograms, self.placement),
            rounded=self._rounded if settings.rounded else {},
            float_convs=settings.float_convs,
        )
        if not settings.corrected:
            return made
        proto = with_corrected_biases(made.proto, self._feeds(made), self._stats)
        return replace(made, proto=proto)

    def measure(self, settings: Settings) -> Parity:
        """Distance to float on the comparison steps."""
        if settings not in self._measured:
            made = self.make(settings)
            steps = unrolled(made.proto, made.states, self.frames, self.reset)
            got = np.concatenate([logits for _, logits in steps])
            self._measured[settings] = compare(got, self.reference)
        return self._measured[settings]

    def sensitivities(self, settings: Settings) -> list[LayerSensitivity]:
        """Each convolution alone in INT8, the most sensitive one first."""
        return sensitivities(self.alone(settings), self.probe.thinned(SENSITIVITY_ROWS))

    def alone(self, settings: Settings) -> AloneInInt8:
        """The graph whose convolutions become INT8 one at a time."""
        thresholds = thresholds_of(settings.method, self.histograms, self.placement)
        scales = scales_of(self.placement, thresholds)
        return AloneInInt8(self.step, scales, self._rounded if settings.rounded else {})

    @cached_property
    def placement(self) -> Placement:
        """Where pairs are if nothing stays in float."""
        return placement_of(self.step.graph, self.states)

    @cached_property
    def _stats(self) -> dict[str, ConvStats]:
        return conv_stats(self.step, self.probe)

    @cached_property
    def _rounded(self) -> dict[str, Rounded]:
        weights = {each.name: each for each in self.step.graph.initializer}
        found = {}
        for node in self.step.graph.node:
            moments = self._stats[node.name].moments if node.op_type == "Conv" else None
            if moments is not None:
                weight = numpy_helper.to_array(weights[node.input[1]])
                found[node.name] = least_error(weight, moments)
        return found

    def _feeds(self, made: Int8Step) -> dict[str, NDArray[Any]]:
        feeds = dict(self.probe.feeds)
        for name, scale in made.state_scales.items():
            feeds[name] = np.clip(np.rint(feeds[name] / scale), -128, 127).astype(np.int8)
        return feeds


def thresholds_of(
    method: str, histograms: Mapping[str, Histogram], placement: Placement
) -> dict[str, float]:
    """Every placed tensor's threshold by one of `METHODS`."""
    if method == PER_TENSOR:
        return choose_per_tensor(histograms, placement.tensors).thresholds
    choose = next(each for name, each in THRESHOLDS.items() if name == method)
    return {name: choose(histograms[name]) for name in placement.tensors}


@dataclass(frozen=True)
class Found:
    """The best INT8 graph's settings, and the way there.

    Attributes:
        settings: How it is made.
        parity: Its distance to float.
        compared: The threshold methods' distances to float.
        tried: All steps in order.
        layers: Each convolution's sensitivity, the most sensitive one first.
    """

    settings: Settings
    parity: Parity
    compared: dict[str, Parity]
    tried: tuple[Tried, ...]
    layers: tuple[LayerSensitivity, ...]


# steps, and the decibels that each has to gain
STEPS: tuple[tuple[str, Callable[[Settings], Settings], float], ...] = (
    ("weights rounded against their inputs", lambda now: replace(now, rounded=True), LEAST_GAIN_DB),
    ("corrected biases", lambda now: replace(now, corrected=True), LEAST_BIAS_GAIN_DB),
)


def search(maker: Maker, budget: float = BUDGET) -> Found:
    """Try everything, keep what helps.

    Args:
        maker: Makes and measures the graphs.
        budget: Share of the multiplications that may stay in float, 0..1.
    """
    with tqdm(desc="compare INT8", unit="graph", disable=None) as bar:
        compared: dict[str, Parity] = {}
        for method in METHODS:
            compared[method] = maker.measure(Settings(method))
            bar.update()
        best = Settings(max(METHODS, key=lambda method: compared[method].sqnr_db))
        tried = [Tried(n, each, n == best.method) for n, each in compared.items()]
        for name, step, least_gain_db in STEPS:
            parity = maker.measure(step(best))
            is_better = parity.sqnr_db > maker.measure(best).sqnr_db + least_gain_db
            best = step(best) if is_better else best
            tried.append(Tried(name, parity, is_better))
            bar.update()
        layers = maker.sensitivities(best)
        for settings, trial in _kept_in_float(maker, best, layers, budget):
            best = settings
            tried.append(trial)
            bar.update()
    return Found(best, maker.measure(best), compared, tuple(tried), tuple(layers))


def _kept_in_float(
    maker: Maker, best: Settings, layers: list[LayerSensitivity], budget: float
) -> Iterator[tuple[Settings, Tried]]:
    """One sensitive convolution after another, until the goal is met or the budget is spent."""
    left = budget
    affordable = [layer for layer in layers if layer.macs_share <= budget]
    for layer in affordable[:MOST_TRIALS]:
        now = maker.measure(best)
        if now.sqnr_db >= GOAL_DB and now.same_top1 >= GOAL_AGREEMENT:
            return
        if layer.macs_share > left:
            continue
        settings = replace(best, float_convs=(*best.float_convs, layer.conv))
        parity = maker.measure(settings)
        is_better = parity.sqnr_db > now.sqnr_db + LEAST_FLOAT_GAIN_DB
        if is_better:
            best, left = settings, left - layer.macs_share
        yield best, Tried(f"float: {layer.conv}", parity, is_better)
