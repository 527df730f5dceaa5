"""Temporal modules: they mix neighbouring frames inside a residual branch (TDRL's "TM")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model.pem import Form


class TemporalShift(nn.Module):
    """TSM, the Temporal Shift Module (arXiv:1811.08383): a part of the channels moves in time.

    Lookahead: the first C/div channels come from frame t-1, the next C/div from t+1.
    Causal: the first C/div channels come from frame t-1, nothing comes from the future.

    Args:
        channels: Channels C of the block's input.
        shift_div: C/shift_div channels move.
        form: `causal` streams, `lookahead` is for whole clips.

    Raises:
        ValueError: Fewer channels than `shift_div`.
    """

    def __init__(self, channels: int, *, shift_div: int = 8, form: Form = "causal") -> None:
        super().__init__()
        if channels < shift_div:
            raise ValueError(f"shift_div must be <= channels {channels}, got {shift_div}")
        self.fold = channels // shift_div
        self.form = form

    def zero_state(self, x: Tensor, rows: int) -> Tensor:
        """The state at a stream's start, shape (N, C/div, H, W), in x's dtype."""
        return x.new_zeros(rows, self.fold, x.shape[2], x.shape[3])

    def forward(self, x: Tensor, num_frames: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift whole clips.

        Args:
            x: Block input, shape (N·T, C, H, W), frames of a clip one after another.
            num_frames: T.
            state: State left by earlier frames, (N, C/div, H, W); None for a start. Causal only.

        Returns:
            The shifted input, same shape, and the next state (N, C/div, H, W).
        """
        clip = x.unflatten(0, (-1, num_frames))
        fold = self.fold
        before = self.zero_state(x, clip.shape[0]) if state is None else state.to(x.dtype)
        past = torch.cat((before[:, None], clip[:, :-1, :fold]), dim=1)
        if self.form == "lookahead":
            ahead = clip[:, 1:, fold : 2 * fold]
            future = torch.cat((ahead, torch.zeros_like(clip[:, :1, fold : 2 * fold])), dim=1)
            shifted = torch.cat((past, future, clip[:, :, 2 * fold :]), dim=2)
        else:
            shifted = torch.cat((past, clip[:, :, fold:]), dim=2)
        return shifted.flatten(0, 1), clip[:, -1, :fold]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Shift one frame: (N, C, H, W) and the state (N, C/div, H, W) to the same two."""
        return torch.cat((state, x[:, self.fold :]), dim=1), x[:, : self.fold]
