"""How a model's logits become decisions and actions: temperature and policy, fitted on a tape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.policy import Policy


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What training fitted on the validation tapes; without arguments nothing was fitted.

    Attributes:
        temperature: Divides the consensus logits before the softmax, > 0.
        policy: Which decisions make an action.
        measured: What this gave on the validation tapes, for people.
    """

    temperature: float = 1.0
    policy: Policy = field(default_factory=Policy)
    measured: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def stretched(self, factor: float) -> OperatingPoint:
        """The same for a window that is `factor` times as long: decisions lag as much more."""
        return replace(self, policy=replace(self.policy, lag_s=self.policy.lag_s * factor))

    def to_json(self) -> dict[str, Any]:
        """The operating point as bundles and checkpoints store it."""
        return {
            "temperature": self.temperature,
            "policy": self.policy.to_json(),
            "measured": dict(self.measured),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> OperatingPoint:
        """What `to_json` wrote; None, as in older bundles, is a model for which none was fitted.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another type.
            ValueError: Values out of range.
        """
        if data is None:
            return cls()
        return cls(
            temperature=float(data["temperature"]),
            policy=Policy.from_json(data["policy"]),
            measured=dict(data["measured"]),
        )
