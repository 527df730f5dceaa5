"""The temporal unit at a residual branch's entry: PEM → TM → (TD-loss tap), and its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor, nn

from train.model.pem import Form, Pem, StartMotion
from train.model.temporal import TemporalShift

Temporal: TypeAlias = Literal["none", "tsm"]
TEMPORALS: tuple[Temporal, ...] = ("none", "tsm")


@dataclass(frozen=True, kw_only=True)
class UnitConfig:
    """What stands at the entry of every residual branch.

    Attributes:
        temporal: The temporal module.
        pem: Whether PEM is there.
        pem_first: PEM before the temporal module (the paper's figure) or after it.
        form: `causal` streams, `lookahead` is for whole clips.
        reduction: PEM's r.
        shift_div: TSM's share of moving channels.
        start_motion: PEM's m_0.
        tap_stages: Stages 1..4 (res2..res5) whose last block the TD loss reads.
    """

    temporal: Temporal = "tsm"
    pem: bool = True
    pem_first: bool = True
    form: Form = "causal"
    reduction: int = 16
    shift_div: int = 8
    start_motion: StartMotion = "zeros"
    tap_stages: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        # JSON knows lists only
        object.__setattr__(self, "tap_stages", tuple(self.tap_stages))
        if self.temporal not in TEMPORALS:
            raise ValueError(
                f"temporal must be one of {', '.join(TEMPORALS)}, got {self.temporal!r}"
            )
        if self.form not in ("causal", "lookahead"):
            raise ValueError(f"form must be causal or lookahead, got {self.form!r}")


@dataclass
class UnitState:
    """One block's state: PEM's vectors and the temporal module's feature map."""

    pem: Tensor | None = None
    shift: Tensor | None = None


@dataclass
class Pass:
    """One pass through the network: what the blocks take from it and leave in it.

    Attributes:
        num_frames: T of a clip, None for a single step.
        states_in: States of the blocks in order; None starts from zeros.
        states_out: Next states, filled by the blocks in order.
        taps: Temporal units' outputs that the TD loss reads, (N·T, C, H, W).
    """

    num_frames: int | None
    states_in: Sequence[UnitState] | None = None
    states_out: list[UnitState] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)

    def next_state(self) -> UnitState:
        """The state of the block that asks now."""
        if self.states_in is None:
            return UnitState()
        return self.states_in[len(self.states_out)]


class TemporalUnit(nn.Module):
    """PEM and the temporal module of one residual block.

    Args:
        channels: Channels of the block's input.
        config: What it is made of.
        tap: Leave the output for the TD loss.
    """

    def __init__(self, channels: int, config: UnitConfig, *, tap: bool = False) -> None:
        super().__init__()
        self.pem = (
            Pem(
                channels,
                reduction=config.reduction,
                form=config.form,
                start_motion=config.start_motion,
            )
            if config.pem
            else None
        )
        self.shift = (
            TemporalShift(channels, shift_div=config.shift_div, form=config.form)
            if config.temporal == "tsm"
            else None
        )
        self.pem_first = config.pem_first
        self.tap = tap

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The branch's input, gated and shifted; shape as given."""
        state, after = run.next_state(), UnitState()
        if self.pem_first:
            x = self._apply_shift(self._apply_pem(x, run, state, after), run, state, after)
        else:
            x = self._apply_pem(self._apply_shift(x, run, state, after), run, state, after)
        run.states_out.append(after)
        if self.tap:
            run.taps.append(x)
        return x

    def restore(self, y: Tensor, run: Pass) -> Tensor:
        """Undo, after the block's first convolution, what must not outlast it; shape as given."""
        return y

    def _apply_pem(self, x: Tensor, run: Pass, state: UnitState, after: UnitState) -> Tensor:
        if self.pem is None:
            return x
        if run.num_frames is not None:
            x, after.pem = self.pem(x, run.num_frames, state.pem)
            return x
        before = self.pem.zero_state(x.shape[0], x) if state.pem is None else state.pem
        x, after.pem = self.pem.step(x, before)
        return x

    def _apply_shift(self, x: Tensor, run: Pass, state: UnitState, after: UnitState) -> Tensor:
        if self.shift is None:
            return x
        if run.num_frames is not None:
            x, after.shift = self.shift(x, run.num_frames, state.shift)
            return x
        before = self.shift.zero_state(x, x.shape[0]) if state.shift is None else state.shift
        x, after.shift = self.shift.step(x, before)
        return x
