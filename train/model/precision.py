"""Vectors of the temporal units: float32 at least, whatever autocast wants for the features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def vector_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for features in float64.

    >>> vector_dtype(torch.zeros(1, dtype=torch.bfloat16))
    torch.float32
    """
    return torch.promote_types(x.dtype, torch.float32)


def pooled(x: Tensor) -> Tensor:
    """Global average pooling: (N, C, H, W) to (N, C) in `vector_dtype`."""
    return x.mean((2, 3), dtype=vector_dtype(x))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """A region in which autocast leaves tensors on x's device alone."""
    if not torch.amp.is_autocast_available(x.device.type):  # the meta device knows none
        return nullcontext()
    region: AbstractContextManager[None] = torch.autocast(x.device.type, enabled=False)
    return region
