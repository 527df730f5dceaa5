"""The first law on the device: unrolled steps equal the clip, without TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from export.gpu.effort import Effort
from export.gpu.models import fresh_model, noise_clips, trained_like
from export.gpu.row import CheckFailed, Row

LIMIT = 1e-4
ROWS = 2


def law_rows(effort: Effort) -> Iterator[Row]:
    """For each backbone, the largest difference of a logit, as a share of their range.

    Raises:
        CheckFailed: It exceeds 1e-4.
    """
    for backbone in effort.backbones:
        found = law_difference(backbone, effort)
        what = f"{backbone}: clip against {effort.num_segments} steps, share of the logits' range"
        yield Row(what=what, value=found, note=f"must be ≤ {LIMIT:g}, float32, TF32 off")
        if not found <= LIMIT:
            raise CheckFailed(f"{backbone}: steps differ from the clip by {found:.1e} of the range")


@torch.no_grad()
def law_difference(backbone: str, effort: Effort) -> float:
    """Largest difference between a clip's logits and its steps' ÷ the range of the logits."""
    model = trained_like(fresh_model(backbone).to(effort.device), effort)
    clip = noise_clips(ROWS, effort, seed=1).to(effort.device)
    with without_tf32():
        logits = model(clip)
        state = None
        steps = []
        for frame in clip.unbind(1):
            step, state = model.step(frame, state)
            steps.append(step)
    unrolled = torch.stack(steps, dim=1)
    return float((unrolled - logits).abs().max() / (logits.max() - logits.min()))


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products of float32 with all their bits, as the CPU computes them."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
