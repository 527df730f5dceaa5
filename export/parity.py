"""Does an exported graph compute what the model computes?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from export.decibels import bounded_db
from runtime.errors import ExportError
from runtime.sessions.base import Logits, StepSession
from train.model.tdrl import Tdrl

# of the logits' range, over 64 unrolled steps
LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far two runs over the same frames are apart.

    Attributes:
        steps: Steps compared.
        max_abs: Largest absolute difference of a logit.
        logits_range: Largest minus smallest logit of the reference.
        sqnr_db: Signal to noise ratio of all logits, decibels, in ±999; see `bounded_db`.
        same_top1: Share of steps with the same largest logit, 0..1.
    """

    steps: int
    max_abs: float
    logits_range: float
    sqnr_db: float
    same_top1: float

    @property
    def relative(self) -> float:
        """Largest difference as a share of the logits' range."""
        return self.max_abs / self.logits_range if self.logits_range > 0 else float("inf")

    def to_json(self) -> dict[str, Any]:
        """The numbers for the report."""
        return {**asdict(self), "relative": self.relative}


def compare(got: Logits, expected: Logits) -> Parity:
    """Compare logits of the same steps.

    Args:
        got: Shape (S, K).
        expected: The reference, shape (S, K).

    Raises:
        ValueError: Shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"logits must have one shape, got {got.shape} and {expected.shape}")
    return Parity(
        steps=len(got),
        max_abs=float(np.abs(got - expected).max()),
        logits_range=float(expected.max() - expected.min()),
        sqnr_db=bounded_db(got, expected),
        same_top1=float((got.argmax(1) == expected.argmax(1)).mean()),
    )


@torch.inference_mode()
def model_steps(model: Tdrl, frames: NDArray[np.uint8], reset: NDArray[np.float32]) -> Logits:
    """Unrolled steps of the PyTorch model.

    Args:
        model: A causal model in evaluation mode, on the CPU.
        frames: Shape (S, H, W, 3), uint8, RGB.
        reset: 1 where a step starts from the zero state, shape (S,), float32.

    Returns:
        Logits, shape (S, K), float32.
    """
    rows, state = [], None
    for frame, starts in zip(frames, reset, strict=True):
        picture = torch.from_numpy(frame.transpose(2, 0, 1)[np.newaxis].copy())
        logits, state = model.step(picture, None if starts > 0.5 else state)
        rows.append(logits[0].numpy())
    return np.stack(rows)


def starts_of(count: int) -> NDArray[np.float32]:
    """Resets (count,) of steps of which only the first starts from the zero state."""
    reset = np.zeros(count, np.float32)
    reset[0] = 1.0
    return reset


def session_steps(
    session: StepSession, frames: NDArray[np.uint8], reset: NDArray[np.float32]
) -> Logits:
    """Unrolled steps of a session with one stream; shapes as in `model_steps`."""
    rows = [
        session.step(0, frame[np.newaxis], np.full((1, 1), starts, np.float32))[0]
        for frame, starts in zip(frames, reset, strict=True)
    ]
    return np.stack(rows)


def session_clips(session: StepSession, clips: NDArray[np.uint8]) -> Logits:
    """Consensus logits of clips, each from the zero state.

    Args:
        session: A session with one stream.
        clips: Shape (B, T, H, W, 3), uint8, RGB.

    Returns:
        Mean logits over T, shape (B, K), float32.
    """
    first = starts_of(clips.shape[1])
    bar = tqdm(clips, desc=session.description, unit="clip", disable=None)
    return np.stack([session_steps(session, clip, first).mean(0) for clip in bar])


def require_equal(parity: Parity, what: str) -> None:
    """Fail where a float graph is not the model.

    Raises:
        ExportError: The difference is too large.
    """
    if not parity.relative <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"{what} differs from the model by {parity.relative:.1e} of the logits' range over "
            f"{parity.steps} steps, allowed {LARGEST_DIFFERENCE:.0e}; do not ship this graph"
        )
