"""TEINet's temporal modules (arXiv:1911.09435): MEM, TIM, and TEI, which is MEM then TIM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model.pem import MIN_HIDDEN, Form
from train.model.precision import no_autocast, pooled
from train.model.temporal import TemporalModule, TemporalState, fold_of, given


class TemporalInteraction(TemporalModule):
    """TIM: a convolution over time, three taps a channel.

    `taps[0]` weighs frame t-1 and `taps[1]` frame t in both forms. `taps[2]` weighs t+1 in the
    lookahead form and t-2 in the causal one: a lookahead checkpoint keeps the meaning of two taps
    of three. Before a clip's start and behind its end stand zeros.

    Initialised to the shift: a fresh TIM is the TSM of the same form, to the bit.

    Args:
        channels: Channels C of the block's input.
        shift_div: C/shift_div channels move at the start.
        form: `causal` streams, `lookahead` is for whole clips.

    Raises:
        ValueError: `shift_div` does not fit the channels and the form.
    """

    def __init__(self, channels: int, *, shift_div: int = 8, form: Form = "causal") -> None:
        super().__init__()
        self.channels = channels
        self.form = form
        self.map_channels = 2 * channels if form == "causal" else 0
        fold = fold_of(channels, shift_div, form)
        source = torch.ones(channels, dtype=torch.long)  # the tap that is 1
        source[:fold] = 0
        if form == "lookahead":
            source[fold : 2 * fold] = 2
        self.taps = nn.Parameter(torch.zeros(3, channels))
        with torch.no_grad():
            self.taps.scatter_(0, source[None], 1.0)

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """See the base class; the state is the frames t-1 and t-2, in this order of channels."""
        clip = x.unflatten(0, (-1, num_frames))
        if self.form == "causal":
            newest, oldest = given(state.map).to(x.dtype).split(self.channels, dim=1)
            frames = torch.cat((oldest[:, None], newest[:, None], clip), dim=1)
            mixed = self._mix(frames[:, 1:-1], clip, frames[:, :-2])
            after = TemporalState(map=torch.cat((frames[:, -1], frames[:, -2]), dim=1))
        else:
            nothing = torch.zeros_like(clip[:, :1])
            before = torch.cat((nothing, clip[:, :-1]), dim=1)
            behind = torch.cat((clip[:, 1:], nothing), dim=1)
            mixed, after = self._mix(before, clip, behind), TemporalState()
        return mixed.flatten(0, 1), after

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """See the base class."""
        newest, oldest = given(state.map).split(self.channels, dim=1)
        return self._mix(newest, x, oldest), TemporalState(map=torch.cat((x, newest), dim=1))

    def _mix(self, before: Tensor, present: Tensor, third: Tensor) -> Tensor:
        taps = self.taps.to(present.dtype)[:, :, None, None]
        return present * taps[1] + before * taps[0] + third * taps[2]


class MotionEnhancement(TemporalModule):
    """MEM: a gate a channel, from the difference of two neighbouring frames.

        s_t = f2(x_{t+1}) - f1(x_t)         lookahead, TEINet's
        s_t = f2(x_t) - f1(x_{t-1})         causal, f1 of the frame before the first is 0
        U_t = X_t · 2σ(W s_t)               x_t = GAP(X_t)

    The last frame of a lookahead clip has no successor and passes as it is, as in TEINet. TEINet's
    gate is σ; the 2 lets a fresh one (W = 0) pass every frame as it is, so that a pretrained
    backbone keeps its predictions, and the next convolution could as well hold it.

    Args:
        channels: Channels C of the block's input.
        reduction: C/r channels of the difference, never under 8.
        form: `causal` streams, `lookahead` is for whole clips.
    """

    def __init__(self, channels: int, *, reduction: int = 8, form: Form = "causal") -> None:
        super().__init__()
        self.hidden = max(MIN_HIDDEN, channels // reduction)
        self.form = form
        self.vector_size = self.hidden if form == "causal" else 0
        # f1 and f2 read the same vector: one matrix product, f1 first
        self.f = nn.Linear(channels, 2 * self.hidden)
        self.attend = nn.Linear(self.hidden, channels)
        nn.init.zeros_(self.attend.weight)
        nn.init.zeros_(self.attend.bias)

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """See the base class; the state is f1 of the last frame."""
        with no_autocast(x):
            f1, f2 = self._projected(x)
            f1, f2 = (f.unflatten(0, (-1, num_frames)) for f in (f1, f2))
            if self.form == "causal":
                past = torch.cat((given(state.vector)[:, None], f1[:, :-1]), dim=1)
                gate, after = self._gate(f2 - past), TemporalState(vector=f1[:, -1])
            else:
                moving = self._gate(f2[:, 1:] - f1[:, :-1])
                passing = torch.ones_like(x[::num_frames, :, 0, 0], dtype=f1.dtype)
                gate, after = torch.cat((moving, passing[:, None]), dim=1), TemporalState()
        return x * gate.flatten(0, 1)[:, :, None, None].to(x.dtype), after

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """See the base class."""
        with no_autocast(x):
            f1, f2 = self._projected(x)
            gate = self._gate(f2 - given(state.vector))
        return x * gate[:, :, None, None].to(x.dtype), TemporalState(vector=f1)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f1, f2 = self.f(pooled(x)).split(self.hidden, dim=1)
        return f1, f2

    def _gate(self, difference: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.attend(difference))


class TemporalEnhancementInteraction(TemporalModule):
    """TEI, TEINet's whole module: MEM, then TIM on what MEM lets through.

    Args:
        channels: Channels C of the block's input.
        reduction: MEM's r.
        shift_div: C/shift_div channels move in a fresh TIM.
        form: `causal` streams, `lookahead` is for whole clips.

    Raises:
        ValueError: `shift_div` does not fit the channels and the form.
    """

    def __init__(
        self, channels: int, *, reduction: int = 8, shift_div: int = 8, form: Form = "causal"
    ) -> None:
        super().__init__()
        self.mem = MotionEnhancement(channels, reduction=reduction, form=form)
        self.tim = TemporalInteraction(channels, shift_div=shift_div, form=form)
        self.vector_size = self.mem.vector_size
        self.map_channels = self.tim.map_channels

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """See the base class; the state is MEM's vector and TIM's map."""
        x, enhanced = self.mem(x, num_frames, state)
        x, mixed = self.tim(x, num_frames, state)
        return x, TemporalState(enhanced.vector, mixed.map)

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """See the base class."""
        x, enhanced = self.mem.step(x, state)
        x, mixed = self.tim.step(x, state)
        return x, TemporalState(enhanced.vector, mixed.map)
