"""What was predicted, as the file that travels with the code and as tables for people.

Reading the file needs neither torch nor onnx: `make verify` shows a device what was expected of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

PREDICTED = Path(__file__).with_name("predicted.json")
NOTHING: Mapping[PredictedStep, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class PredictedStep:
    """The GPU time of one step with one stream, as it is expected.

    Attributes:
        backbone: Its name.
        size_px: Height and width of the picture.
        device: Name of the module.
        precision: `float16` or `int8`.
        kernels: Kernels of the step.
        ms: TDRL's step, milliseconds.
        launch_ms: Of these, fixed costs of launches.
        compute_ms: Of these, kernels that arithmetic limits.
        memory_ms: Of these, kernels that the memory limits.
        plain_ms: A step of the plain backbone.
        eight_ms: TDRL's step with eight streams.
    """

    backbone: str
    size_px: int
    device: str
    precision: str
    kernels: int
    ms: float
    launch_ms: float
    compute_ms: float
    memory_ms: float
    plain_ms: float
    eight_ms: float


@dataclass(frozen=True)
class Prediction:
    """All of it.

    Attributes:
        made: The day it was made, ISO 8601.
        constants: The fitted ones, by name.
        spread: The largest relative error on rows that were not fitted, 0..1.
        steps: A row for each backbone, size, device and precision.
    """

    made: str
    constants: Mapping[str, float]
    spread: float
    steps: tuple[PredictedStep, ...]

    def to_json(self) -> dict[str, Any]:
        """The prediction as `predicted.json` stores it."""
        return asdict(self)

    def step_of(
        self, model: Mapping[str, Any], size_px: tuple[int, int], board: str, precision: str
    ) -> PredictedStep | None:
        """What is expected of a bundle on a board; None where nothing was predicted.

        Args:
            model: The bundle's facts about its model.
            size_px: Height and width of its picture.
            board: The board's own name, as the device tree has it.
            precision: Which graph.
        """
        if (model.get("temporal"), model.get("pem")) != ("tsm", True):
            return None
        for step in self.steps:
            same_model = step.backbone == model.get("backbone") and step.precision == precision
            if same_model and (step.size_px, step.size_px) == size_px and step.device in board:
                return step
        return None


def read_prediction(path: Path = PREDICTED) -> Prediction:
    """The prediction that is stored with the code."""
    data = json.loads(path.read_text(encoding="utf-8"))
    steps = tuple(PredictedStep(**step) for step in data["steps"])
    return Prediction(data["made"], data["constants"], float(data["spread"]), steps)


def steps_as_markdown(
    steps: Sequence[PredictedStep], measured_ms: Mapping[PredictedStep, float] = NOTHING
) -> str:
    """One line a backbone and size: INT8 / FP16 by device, and what the temporal parts cost.

    Args:
        steps: What was predicted.
        measured_ms: What devices measured of it; each of these devices gets two columns more.
    """
    devices = list(dict.fromkeys(step.device for step in steps))
    judged = [name for name in devices if any(step.device == name for step in measured_ms)]
    header = [
        *("TDRL on", "size", "kernels"),
        *(f"{name}, ms" for name in devices),
        *("TDRL ÷ plain", "8 streams ÷ 8 steps"),
    ]
    for name in judged:
        header += [f"{name} measured, ms", "measured ÷ predicted"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    cases = dict.fromkeys((step.backbone, step.size_px) for step in steps)
    for backbone, size_px in cases:
        own = [step for step in steps if (step.backbone, step.size_px) == (backbone, size_px)]
        cells = [_pair(own, name, lambda step: f"{step.ms:.2f}") for name in devices]
        last = [
            _pair(own, devices[0], lambda step: f"{step.ms / step.plain_ms:.2f}"),
            _pair(own, devices[0], lambda step: f"{step.eight_ms / step.ms / 8:.2f}"),
        ]
        for name in judged:
            last += [
                _pair(own, name, lambda step: _if_known(measured_ms.get(step))),
                _pair(own, name, lambda step: _if_known(_ratio(measured_ms, step))),
            ]
        first = f"| {backbone} | {size_px} | {own[0].kernels} | "
        lines.append(first + " | ".join([*cells, *last]) + " |")
    return "\n".join(lines)


def _ratio(measured_ms: Mapping[PredictedStep, float], step: PredictedStep) -> float | None:
    """Measured ÷ predicted; None where nothing was measured."""
    return measured_ms[step] / step.ms if step in measured_ms else None


def _if_known(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"


def _pair(steps: Iterable[PredictedStep], device: str, text: Any) -> str:
    """INT8 / FP16."""
    by_precision = {step.precision: text(step) for step in steps if step.device == device}
    return " / ".join(by_precision[name] for name in ("int8", "float16"))
