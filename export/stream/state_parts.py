"""What each number of a step graph's states is: of which block, PEM's or the temporal module's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a finished bundle is measured without torch
    from train.model.tdrl import Tdrl

PEM = "PEM"


@dataclass(frozen=True)
class StatePart:
    """A stretch of one state tensor's axis 1.

    Attributes:
        state: Number of the state tensor.
        start: First index on axis 1.
        stop: Index behind the last.
        block: Number of the residual block, from 1.
        kind: `PEM`, or the temporal module in capitals.
    """

    state: int
    start: int
    stop: int
    block: int
    kind: str

    def to_json(self) -> dict[str, Any]:
        """The part as the report stores it."""
        return asdict(self)


def state_parts(model: Tdrl) -> tuple[StatePart, ...]:
    """The parts in the order of `Tdrl.pack_state`: all vectors in tensor 0, then the maps.

    Args:
        model: A causal model.
    """
    kind = model.config.unit.temporal.upper()
    units = [block.unit for block in model.backbone.blocks()]
    parts, place = [], 0
    for block, unit in enumerate(units, start=1):
        for what, size in zip((PEM, kind), unit.vector_sizes, strict=True):
            if size:
                parts.append(StatePart(0, place, place + size, block, what))
            place += size
    number = int(place > 0)
    for block, unit in enumerate(units, start=1):
        if unit.map_channels:
            parts.append(StatePart(number, 0, unit.map_channels, block, kind))
            number += 1
    return tuple(parts)


def parts_from_json(data: Sequence[dict[str, Any]]) -> tuple[StatePart, ...]:
    """The parts that `StatePart.to_json` wrote.

    Raises:
        TypeError: Other fields.
    """
    return tuple(StatePart(**part) for part in data)
