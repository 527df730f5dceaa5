"""INT8 weights that round with the least harm to what the convolution gives.

Rounding each weight to the nearest step is best for the weights, not for the output: errors that
fall on inputs which are large together add up. The output's squared error is e·M·eᵀ, with e an
output channel's rounding errors and M the second moments of its receptive field on real frames.
So the weights are rounded one by one, and each one's error is made up for by the weights that are
still free (E. Frantar and D. Alistarh, "Optimal Brain Compression", arXiv:2208.11580; for whole
matrices "GPTQ", arXiv:2210.17323, algorithm 1). The file and its speed stay what they are.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# INT8 weights, shape (C_out, ...), in [-127, 127], and scales, shape (C_out,), float32
Rounded: TypeAlias = tuple[NDArray[np.int8], NDArray[np.float32]]

LARGEST_INT8 = 127.0
SMALLEST_WEIGHT = 1e-30
DAMPING = 0.01
BLOCK = 64


def nearest(weight: NDArray[np.float32]) -> Rounded:
    """Each weight to its nearest step, scales by the largest weight.

    Args:
        weight: Shape (C_out, ...), float32.
    """
    rows = weight.reshape(len(weight), -1)
    scale = _largest_scale(rows)
    return _steps(rows, scale).reshape(weight.shape).astype(np.int8), scale


def least_error(weight: NDArray[np.float32], moments: NDArray[np.float64]) -> Rounded:
    """Steps with a small expected error of the convolution's output, scales as `nearest`.

    Args:
        weight: Shape (C_out, C_in/G, kh, kw), float32.
        moments: Second moments of the receptive field, shape (G, P, P) with P = C_in/G·kh·kw.
    """
    rows = weight.reshape(len(moments), -1, moments.shape[1]).astype(np.float64)
    diagonal = np.einsum("gpp->gp", moments)
    damped = moments + np.eye(moments.shape[1]) * (
        DAMPING * diagonal.mean(1)[:, None, None] + 1e-12
    )
    # a smaller scale that clips the largest weights gains nothing (docs/measurements/int8.md)
    scale = _largest_scale(rows)
    steps, carried = _steps(rows, scale), _carried(rows, scale, damped)
    is_better = _error(rows, carried, scale, damped) < _error(rows, steps, scale, damped)
    steps = np.where(is_better[..., None], carried, steps)
    return steps.reshape(weight.shape).astype(np.int8), scale.reshape(-1)


def _carried(
    rows: NDArray[np.float64], scale: NDArray[np.float32], moments: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Steps in which each weight's error is made up for by those behind it, shape (G, C, P)."""
    # the weights with the largest inputs first, while there are many left to make up for them
    order = np.argsort(-np.einsum("gpp->gp", moments), axis=1)
    sorted_moments = np.take_along_axis(
        np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2
    )
    inverse = np.linalg.inv(sorted_moments)
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    left = np.take_along_axis(rows, order[:, None, :], 2)
    steps = np.empty_like(left)
    for start in range(0, left.shape[2], BLOCK):
        end = min(start + BLOCK, left.shape[2])
        errors = np.empty_like(left[..., start:end])
        for at in range(start, end):
            steps[..., at] = _steps(left[..., at : at + 1], scale)[..., 0]
            error = (left[..., at] - steps[..., at] * scale) / upper[:, at, at, None]
            left[..., at + 1 : end] -= error[..., None] * upper[:, None, at, at + 1 : end]
            errors[..., at - start] = error
        # what is behind the block in one product instead of many
        left[..., end:] -= errors @ upper[:, start:end, end:]
    back = np.empty_like(steps)
    np.put_along_axis(back, np.broadcast_to(order[:, None, :], back.shape), steps, 2)
    return back


def _error(
    rows: NDArray[np.float64],
    steps: NDArray[np.float64],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Expected squared error of each channel's output, shape (G, C)."""
    errors = rows - steps * scale[..., None]
    return np.einsum("gcp,gcp->gc", errors @ moments, errors)


def _steps(rows: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.float64]:
    steps = np.rint(rows / scale[..., None].astype(np.float64))
    return np.clip(steps, -LARGEST_INT8, LARGEST_INT8)


def _largest_scale(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    largest = np.abs(rows).max(-1)
    # a dead channel: its scale would be 0, or too small for float32
    used = np.where(largest > SMALLEST_WEIGHT, largest, 1.0)
    return (used / LARGEST_INT8).astype(np.float32)
