"""PEM, the Progressive Enhancement Module: a recurrent channel gate (TDRL, eq. 1-4).

For frame t with pooled features x_t = GAP(X_t):

    d_t = f2(x_{t+1}) - f1(x_t)                     lookahead, the paper's eq. 2
    d_t = f2(x_t) - f1(x_{t-1})                     causal, what streams
    g_t = sigmoid(W_g [m_{t-1}, d_t])
    m_t = (1 - g_t) m_{t-1} + g_t d_t               eq. 3
    a_t = sigmoid(W_a m_t),  U_t = X_t * a_t        eq. 4 and 1

Both forms share their parameters. The causal state of one block is [m_t, f1(x_t)].
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from train.model.precision import no_autocast, pooled, vector_dtype

Form: TypeAlias = Literal["causal", "lookahead"]
StartMotion: TypeAlias = Literal["zeros", "last_difference"]

MIN_HIDDEN = 8


class Pem(nn.Module):
    """Progressive Enhancement Module.

    Args:
        channels: Channels C of the block's input.
        reduction: C/r channels of the motion vector, never under 8.
        form: `causal` streams, `lookahead` is the paper's model for whole clips.
        start_motion: m_0: `zeros`, or `last_difference` (d_{T-1}, lookahead only).

    Raises:
        ValueError: `last_difference` with the causal form.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        form: Form = "causal",
        start_motion: StartMotion = "zeros",
    ) -> None:
        super().__init__()
        if form == "causal" and start_motion != "zeros":
            raise ValueError(
                f"start_motion {start_motion!r} needs the end of the clip; "
                "use form='lookahead' or start_motion='zeros'"
            )
        self.hidden = max(MIN_HIDDEN, channels // reduction)
        self.form = form
        self.start_motion = start_motion
        # f1 and f2 read the same vector: one matrix product, f1 first.
        self.f = nn.Linear(channels, 2 * self.hidden)
        self.gate = nn.Linear(2 * self.hidden, self.hidden)
        self.attend = nn.Linear(self.hidden, channels)
        # a = 0.5 everywhere at the start; the following convolution's weight is doubled (tdrl.py)
        nn.init.zeros_(self.attend.weight)
        nn.init.zeros_(self.attend.bias)

    @property
    def state_size(self) -> int:
        """Numbers of state for one row of the batch: m and f1(x); 0 in the lookahead form."""
        return 2 * self.hidden if self.form == "causal" else 0

    def zero_state(self, rows: int, like: Tensor) -> Tensor:
        """The state at a stream's start, shape (N, 2 C/r), float32."""
        return like.new_zeros(rows, self.state_size, dtype=vector_dtype(like))

    def forward(
        self, x: Tensor, num_frames: int, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gate whole clips.

        Args:
            x: Block input, shape (N·T, C, H, W), frames of a clip one after another.
            num_frames: T.
            state: State left by earlier frames, (N, 2 C/r); None for a start. Causal form only.

        Returns:
            The gated input, same shape, and the next state (N, 2 C/r); None when looking ahead.
        """
        with no_autocast(x):
            frames = pooled(x).unflatten(0, (-1, num_frames))
            if self.form == "lookahead":
                motion, state = self._lookahead_motion(frames), None
            else:
                start = self.zero_state(frames.shape[0], frames) if state is None else state
                motion, state = self._causal_motion(frames, start)
            attention = self._attention(motion).flatten(0, 1)
        return x * attention[:, :, None, None].to(x.dtype), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Gate one frame.

        Args:
            x: Block input, shape (N, C, H, W).
            state: State of the frame before, (N, 2 C/r), float32.

        Returns:
            The gated input, same shape, and the next state.
        """
        gate, state = self.step_gate(x, state)
        return x * gate, state

    def step_gate(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What `step` multiplies one frame with; arguments as there.

        Returns:
            The gate a_t, shape (N, C, 1, 1), in the dtype of x, and the next state.
        """
        with no_autocast(x):
            f1, f2 = self.f(pooled(x)).split(self.hidden, dim=1)
            motion, past = state.split(self.hidden, dim=1)
            motion = self._advance(motion, f2 - past)
            attention = self._attention(motion)
        return attention[:, :, None, None].to(x.dtype), torch.cat((motion, f1), dim=1)

    def _causal_motion(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        f1, f2 = self.f(frames).split(self.hidden, dim=2)
        motion, past = state.split(self.hidden, dim=1)
        past = torch.cat((past[:, None], f1[:, :-1]), dim=1)
        differences = f2 - past
        motions = []
        for t in range(frames.shape[1]):
            motion = self._advance(motion, differences[:, t])
            motions.append(motion)
        return torch.stack(motions, dim=1), torch.cat((motion, f1[:, -1]), dim=1)

    def _lookahead_motion(self, frames: Tensor) -> Tensor:
        f1, f2 = self.f(frames).split(self.hidden, dim=2)
        # The paper's figure draws the constant 1 for the last frame, which has no successor.
        differences = torch.cat((f2[:, 1:] - f1[:, :-1], torch.ones_like(f1[:, :1])), dim=1)
        motion = torch.zeros_like(f1[:, 0])
        if self.start_motion == "last_difference" and frames.shape[1] > 1:
            motion = differences[:, -2]
        motions = []
        for t in range(frames.shape[1]):
            motion = self._advance(motion, differences[:, t])
            motions.append(motion)
        return torch.stack(motions, dim=1)

    def _advance(self, motion: Tensor, difference: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat((motion, difference), dim=1)))
        return motion + gate * (difference - motion)

    def _attention(self, motion: Tensor) -> Tensor:
        return torch.sigmoid(self.attend(motion))
