"""Temporal modules: they mix neighbouring frames inside a residual branch (TDRL's "TM").

Here: what they have in common, and the TSM. TIM, MEM and TEI are in teinet.py, the video shuffle
in shuffle.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.model.pem import Form
from train.model.precision import vector_dtype


class TemporalState(NamedTuple):
    """What a temporal module keeps of earlier frames; None where it keeps nothing.

    Attributes:
        vector: Shape (N, vector_size), float32.
        map: Shape (N, map_channels, H, W), in the dtype of the features.
    """

    vector: Tensor | None = None
    map: Tensor | None = None


class TemporalModule(nn.Module):
    """What every temporal module offers to the unit.

    Attributes:
        vector_size: Numbers of vector state for one row of the batch.
        map_channels: Channels of the state that is a feature map.
    """

    vector_size: int = 0
    map_channels: int = 0

    def zero_state(self, x: Tensor, rows: int) -> TemporalState:
        """The state at a stream's start.

        Args:
            x: Any input of the module, shape (?, C, H, W).
            rows: N.
        """
        height, width = x.shape[2:]
        return TemporalState(
            x.new_zeros(rows, self.vector_size, dtype=vector_dtype(x))
            if self.vector_size
            else None,
            x.new_zeros(rows, self.map_channels, height, width) if self.map_channels else None,
        )

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """Mix the frames of whole clips.

        Args:
            x: Block input, shape (N·T, C, H, W), frames of a clip one after another.
            num_frames: T.
            state: State left by earlier frames; all None in the lookahead form.

        Returns:
            The mixed input, same shape, and the next state.
        """
        raise NotImplementedError

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """Mix one frame (N, C, H, W) with the state; causal form only."""
        raise NotImplementedError

    def restore(self, y: Tensor, num_frames: int) -> Tensor:
        """Undo, behind the block's first convolution, what must not outlast it; shape as given."""
        return y


class TemporalShift(TemporalModule):
    """TSM, the Temporal Shift Module (arXiv:1811.08383): a part of the channels moves in time.

    Lookahead: the first C/div channels come from frame t-1, the next C/div from t+1.
    Causal: the first C/div channels come from frame t-1, nothing comes from the future.

    Args:
        channels: Channels C of the block's input.
        shift_div: C/shift_div channels move.
        form: `causal` streams, `lookahead` is for whole clips.

    Raises:
        ValueError: `shift_div` does not fit the channels and the form.
    """

    def __init__(self, channels: int, *, shift_div: int = 8, form: Form = "causal") -> None:
        super().__init__()
        self.fold = fold_of(channels, shift_div, form)
        self.form = form
        self.map_channels = self.fold if form == "causal" else 0

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """See the base class; the state is the last frame's first C/div channels."""
        clip = x.unflatten(0, (-1, num_frames))
        fold = self.fold
        if self.form == "causal":
            before = given(state.map).to(x.dtype)
            past = torch.cat((before[:, None], clip[:, :-1, :fold]), dim=1)
            shifted = torch.cat((past, clip[:, :, fold:]), dim=2)
            return shifted.flatten(0, 1), TemporalState(map=clip[:, -1, :fold])
        nothing = torch.zeros_like(clip[:, :1, :fold])
        past = torch.cat((nothing, clip[:, :-1, :fold]), dim=1)
        future = torch.cat((clip[:, 1:, fold : 2 * fold], nothing), dim=1)
        shifted = torch.cat((past, future, clip[:, :, 2 * fold :]), dim=2)
        return shifted.flatten(0, 1), TemporalState()

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """See the base class."""
        shifted = torch.cat((given(state.map), x[:, self.fold :]), dim=1)
        return shifted, TemporalState(map=x[:, : self.fold])

    def step_gated(
        self, x: Tensor, gate: Tensor, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """`step(x * gate, state)` to the bit, but shifted first and multiplied then.

        The product is the last thing before the convolution: engines fuse it with what the
        convolution needs (a rounding, a layout), and slice and concatenation move plain inputs.

        Args:
            x: Block input, shape (N, C, H, W).
            gate: What a gate multiplies it with, shape (N, C, 1, 1).
            state: As for `step`: the past channels are gated already.
        """
        fold = self.fold
        shifted = torch.cat((given(state.map), x[:, fold:]), dim=1)
        # 1 for the past: it keeps its value
        present = functional.pad(gate[:, fold:], (0, 0, 0, 0, fold, 0), value=1.0)
        return shifted * present, TemporalState(map=x[:, :fold] * gate[:, :fold])


def given(part: Tensor | None) -> Tensor:
    """A part of the state that the causal form cannot do without.

    Raises:
        ValueError: It is None.
    """
    if part is None:
        raise ValueError("the state is missing; a stream starts from `zero_state`")
    return part


def fold_of(channels: int, shift_div: int, form: Form) -> int:
    """How many channels one direction of the shift moves.

    Raises:
        ValueError: `shift_div` does not fit the channels and the form.
    """
    least = 1 if form == "causal" else 2
    if not least <= shift_div <= channels:
        raise ValueError(
            f"shift_div must be {least}..{channels} for {channels} channels ({form}), "
            f"got {shift_div}"
        )
    return channels // shift_div
