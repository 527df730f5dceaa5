"""The four published models that a recipe names with one word."""

from __future__ import annotations

from dataclasses import dataclass

from train.model.unit import Temporal


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a preset decides; every field is a recipe's field of the same name.

    Attributes:
        temporal: The temporal module.
        pem: Whether PEM is there.
        reduction: r of PEM and MEM.
        td_loss: λ of TDRL, eq. 6; 0 without TD loss.
    """

    temporal: Temporal
    pem: bool = False
    reduction: int = 16
    td_loss: float = 0.0


PRESETS: dict[str, Preset] = {
    "tsn": Preset(temporal="none"),
    "tsm": Preset(temporal="tsm"),
    "teinet": Preset(temporal="tei", reduction=8),
    "tdrl": Preset(temporal="tsm", pem=True, td_loss=2e-4),
}
