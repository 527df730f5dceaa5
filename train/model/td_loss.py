"""TD loss, the Temporal Diversity Loss: frames of a clip shall not look alike (TDRL, eq. 5-6)."""

from __future__ import annotations

import torch
from torch import Tensor

from train.model.precision import no_autocast, vector_dtype

SHORTEST = 1e-6  # a frame's channel that is shorter counts as all zero


def temporal_diversity_loss(features: Tensor, *, ratio: float = 0.5) -> Tensor:
    """Mean cosine similarity over all pairs of frames, summed over channels (TDRL, eq. 5).

    Uses Σ_{i≠j} cos(z_i, z_j) = ‖Σ_t ẑ_t‖² - Σ_t ‖ẑ_t‖², linear in T. A frame whose channel is
    all zero contributes 0, to the gradient too.

    Args:
        features: The tap, shape (N, T, C, H, W), T >= 2.
        ratio: Share of the channels, the first ⌊C·ratio⌋ (the source does not say which).

    Returns:
        Scalar, float32, mean over the batch.

    Raises:
        ValueError: `ratio` outside (0, 1] or fewer than two frames.
    """
    num_frames = features.shape[1]
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    if num_frames < 2:
        raise ValueError(f"TD loss compares frames, it needs T >= 2, got {num_frames}")
    channels = max(1, int(features.shape[2] * ratio))
    with no_autocast(features):
        z = features[:, :, :channels].to(vector_dtype(features)).flatten(3)
        length = torch.linalg.vector_norm(z, dim=3, keepdim=True)
        # not `normalize`: its gradient at a channel of zeros is 1 / eps
        unit = torch.where(length > SHORTEST, z / length.clamp_min(SHORTEST), 0.0)
        together = unit.sum(1).square().sum(2)
        alone = unit.square().sum((1, 3))
        # both orders of a pair were summed, eq. 5's mean is over T(T-1)/2 pairs
        pairs = num_frames * (num_frames - 1)
        return ((together - alone) / pairs).sum(1).mean()
