"""The gate: INT8 ships only if it loses no more accuracy than allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.decibels import bounded_db
from runtime.decision import softmax
from runtime.errors import GateError
from runtime.sessions.base import Logits

ALLOWED_LOSS = 0.005
ENOUGH_CLIPS = 400
ONE_SIDED_95 = 1.645


@dataclass(frozen=True)
class PairedLoss:
    """What INT8 loses on the same examples.

    Attributes:
        count: Examples n.
        top1_float: Accuracy of the float graph, 0..1.
        top1_int8: Accuracy of the INT8 graph, 0..1.
        lost: Examples that float has right and INT8 wrong.
        gained: The reverse.
        bound: One-sided 95 % upper bound of the loss, 0..1.
    """

    count: int
    top1_float: float
    top1_int8: float
    lost: int
    gained: int
    bound: float

    @property
    def loss(self) -> float:
        """Accuracy lost, 0..1; negative where INT8 is better."""
        return (self.lost - self.gained) / self.count

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {**asdict(self), "loss": self.loss, "enough_examples": self.count >= ENOUGH_CLIPS}


def paired_loss(right_float: NDArray[np.bool_], right_int8: NDArray[np.bool_]) -> PairedLoss:
    """Compare two graphs on the same examples, pair by pair.

    The bound is that of the difference of paired proportions (Wald). It is far tighter than
    comparing two accuracies, because the examples both get right or wrong cancel out.

    Args:
        right_float: Whether the float graph is right, shape (n,).
        right_int8: Whether the INT8 graph is right, shape (n,).

    Raises:
        ValueError: No examples, or shapes differ.
    """
    if right_float.shape != right_int8.shape or right_float.size == 0:
        raise ValueError(
            f"want the same examples, at least one, got {right_float.shape}, {right_int8.shape}"
        )
    n = right_float.size
    lost = int((right_float & ~right_int8).sum())
    gained = int((~right_float & right_int8).sum())
    spread = math.sqrt(max(0.0, lost + gained - (lost - gained) ** 2 / n)) / n
    return PairedLoss(
        count=n,
        top1_float=float(right_float.mean()),
        top1_int8=float(right_int8.mean()),
        lost=lost,
        gained=gained,
        bound=(lost - gained) / n + ONE_SIDED_95 * spread,
    )


@dataclass(frozen=True)
class GateResult:
    """All that the gate looks at.

    Attributes:
        clips: Loss on held-out clips.
        live: Loss on the validation tape's actions; None without a tape.
        agreement: Share of clips with the same top-1, 0..1.
        sqnr_db: SQNR of the clips' logits, decibels.
        divergence: Mean Kullback-Leibler divergence of the probabilities, nats.
    """

    clips: PairedLoss
    live: PairedLoss | None
    agreement: float
    sqnr_db: float
    divergence: float

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {
            "clips": self.clips.to_json(),
            "live": None if self.live is None else self.live.to_json(),
            "agreement": self.agreement,
            "sqnr_db": self.sqnr_db,
            "divergence": self.divergence,
        }


def clip_gate(
    logits_float: Logits,
    logits_int8: Logits,
    label: NDArray[np.int64],
    live: PairedLoss | None,
) -> GateResult:
    """Collect what the gate looks at.

    Args:
        logits_float: Consensus logits of held-out clips, shape (B, K).
        logits_int8: The INT8 graph's, same shape.
        label: Classes, shape (B,).
        live: Loss on live actions, if measured.
    """
    pairs = zip(logits_float, logits_int8, strict=True)
    return GateResult(
        clips=paired_loss(logits_float.argmax(1) == label, logits_int8.argmax(1) == label),
        live=live,
        agreement=float((logits_float.argmax(1) == logits_int8.argmax(1)).mean()),
        sqnr_db=bounded_db(logits_int8, logits_float),
        divergence=float(np.mean([_divergence(a, b) for a, b in pairs])),
    )


def require_pass(result: GateResult, *, allowed_loss: float = ALLOWED_LOSS) -> list[str]:
    """Fail where INT8 is not good enough to ship.

    Args:
        result: What was measured.
        allowed_loss: Accuracy that may be lost, 0..1.

    Returns:
        Remarks for people: what the numbers cannot say.

    Raises:
        GateError: Clip or live accuracy is over its limit.
    """
    clips, live = result.clips, result.live
    remarks = []
    if clips.bound > allowed_loss:
        raise GateError(
            f"INT8 may lose {clips.bound:.2%} of clip top-1 (95 % bound; {clips.lost} lost, "
            f"{clips.gained} gained of {clips.count}), allowed {allowed_loss:.2%}; calibrate on "
            "more clips, or raise --allowed-loss"
        )
    if clips.count < ENOUGH_CLIPS:
        remarks.append(
            f"{clips.count} clips are too few to prove a loss under {allowed_loss:.2%}: look at "
            f"SQNR {result.sqnr_db:.1f} dB and divergence {result.divergence:.4f} too"
        )
    if live is not None:
        # one action of a short tape is more than the allowed share
        if live.loss > max(allowed_loss, 1 / live.count):
            raise GateError(
                f"INT8 loses {live.loss:.2%} of live top-1 ({live.lost} lost, {live.gained} gained "
                f"of {live.count} actions), allowed {allowed_loss:.2%}; calibrate on more clips"
            )
        if live.count < ENOUGH_CLIPS:
            remarks.append(f"{live.count} live actions: one of them is {1 / live.count:.1%}")
    return remarks


def _divergence(reference: Logits, other: Logits) -> float:
    p = softmax(reference).astype(np.float64)
    q = np.maximum(softmax(other).astype(np.float64), 1e-12)
    used = p > 1e-12
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
