"""The temporal unit at a residual branch's entry: PEM → TM → (TD-loss tap), and its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor, nn

from train.model.pem import Form, Pem, StartMotion
from train.model.shuffle import VideoShuffle
from train.model.teinet import (
    MotionEnhancement,
    TemporalEnhancementInteraction,
    TemporalInteraction,
)
from train.model.temporal import TemporalModule, TemporalShift, TemporalState

Temporal: TypeAlias = Literal["none", "tsm", "tim", "mem", "tei", "vsn"]
TEMPORALS: tuple[Temporal, ...] = ("none", "tsm", "tim", "mem", "tei", "vsn")
STAGES = (1, 2, 3, 4)
VSN_IS_OFFLINE = "temporal vsn shuffles whole clips and has no causal form"


@dataclass(frozen=True, kw_only=True)
class UnitConfig:
    """What stands at the entry of every residual branch.

    Attributes:
        temporal: The temporal module.
        pem: Whether PEM is there.
        pem_first: PEM before the temporal module (the paper's figure) or after it.
        form: `causal` streams, `lookahead` is for whole clips.
        reduction: r of PEM and MEM.
        shift_div: TSM's share of moving channels, and that of a fresh TIM.
        start_motion: PEM's m_0.
        tap_stages: Stages 1..4 (res2..res5) whose last block the TD loss reads.
        tap_after: The TD loss reads the temporal module's output, or else its input. With PEM
            behind the module the output is the unit's: a gate does not change a cosine.
    """

    temporal: Temporal = "tsm"
    pem: bool = True
    pem_first: bool = True
    form: Form = "causal"
    reduction: int = 16
    shift_div: int = 8
    start_motion: StartMotion = "zeros"
    tap_stages: tuple[int, ...] = (2, 3, 4)
    tap_after: bool = True

    def __post_init__(self) -> None:
        # JSON knows lists only
        object.__setattr__(self, "tap_stages", tuple(self.tap_stages))
        self._check_choices()
        if self.temporal == "vsn" and self.form == "causal":
            raise ValueError(f"{VSN_IS_OFFLINE}; use form lookahead, or tsm, tim, mem or tei")
        if self.form == "causal" and self.start_motion != "zeros":
            raise ValueError(
                f"start_motion {self.start_motion} needs the end of the clip; "
                "use form lookahead or start_motion zeros"
            )
        for name in ("reduction", "shift_div"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        strangers = [stage for stage in self.tap_stages if stage not in STAGES]
        if strangers:
            raise ValueError(f"tap_stages must be in 1..4 (res2..res5), got {strangers[0]}")

    def _check_choices(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "temporal": TEMPORALS,
            "form": ("causal", "lookahead"),
            "start_motion": ("zeros", "last_difference"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @property
    def offline_reason(self) -> str | None:
        """Why such a model cannot stream, and what to do; None if it can."""
        if self.form == "causal":
            return None
        if self.temporal == "vsn":
            return f"{VSN_IS_OFFLINE}; train another temporal module to stream"
        return (
            "form 'lookahead' sees the next frame and cannot stream; fine-tune the causal form "
            "from this checkpoint (recipe field init)"
        )


@dataclass
class UnitState:
    """One block's state; None where it keeps nothing.

    Attributes:
        pem: PEM's vectors, shape (N, 2 C/r), float32.
        vector: The temporal module's vector, float32 (MEM: (N, C/r)).
        map: Its feature map, in the features' dtype (TSM: (N, C/div, H, W); TIM: (N, 2C, H, W)).
    """

    pem: Tensor | None = None
    vector: Tensor | None = None
    map: Tensor | None = None


@dataclass
class Pass:
    """One pass through the network: what the blocks take from it and leave in it.

    Attributes:
        num_frames: T of a clip, None for a single step.
        states_in: States of the blocks in order; None starts from zeros.
        states_out: Next states, filled by the blocks in order.
        taps: What the TD loss reads, (N·T, C, H, W) each.
    """

    num_frames: int | None
    states_in: Sequence[UnitState] | None = None
    states_out: list[UnitState] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)

    def next_state(self) -> UnitState | None:
        """The state of the block that asks now; None for a start."""
        return None if self.states_in is None else self.states_in[len(self.states_out)]


class TemporalUnit(nn.Module):
    """PEM and the temporal module of one residual block.

    Args:
        channels: Channels of the block's input.
        config: What it is made of.
        tap: Leave the temporal module's output (or input) for the TD loss.

    Raises:
        ValueError: The configuration does not fit the channels.
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
        self.temporal = _temporal_module(channels, config)
        self.pem_first = config.pem_first
        self.tap = tap
        self.tap_after = config.tap_after

    @property
    def vector_sizes(self) -> tuple[int, int]:
        """Numbers of vector state a row: PEM's, the temporal module's."""
        return (
            0 if self.pem is None else self.pem.state_size,
            0 if self.temporal is None else self.temporal.vector_size,
        )

    @property
    def map_channels(self) -> int:
        """Channels of the state that is a feature map."""
        return 0 if self.temporal is None else self.temporal.map_channels

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The branch's input, gated and mixed over time; shape as given."""
        state, after = run.next_state(), UnitState()
        if (shifted := self._shift_then_gate(x, run, state, after)) is not None:
            run.states_out.append(after)
            return shifted
        if self.pem_first:
            x = self._enhance(x, run, state, after)
        entry = x
        x = self._mix(x, run, state, after)
        if not self.pem_first:
            x = self._enhance(x, run, state, after)
        run.states_out.append(after)
        if self.tap:
            run.taps.append(x if self.tap_after else entry)
        return x

    def restore(self, y: Tensor, run: Pass) -> Tensor:
        """Undo, behind the block's first convolution, what must not outlast it; shape as given."""
        if self.temporal is None or run.num_frames is None:
            return y
        return self.temporal.restore(y, run.num_frames)

    def _enhance(self, x: Tensor, run: Pass, state: UnitState | None, after: UnitState) -> Tensor:
        if self.pem is None:
            return x
        before = None if state is None else state.pem
        if run.num_frames is not None:
            x, after.pem = self.pem(x, run.num_frames, before)
            return x
        before = self.pem.zero_state(x.shape[0], x) if before is None else before
        x, after.pem = self.pem.step(x, before)
        return x

    def _shift_then_gate(
        self, x: Tensor, run: Pass, state: UnitState | None, after: UnitState
    ) -> Tensor | None:
        """A step of PEM before the shift, in the order that engines fuse; None for any other.

        To the bit what `_enhance` and `_mix` give; a step leaves no tap.
        """
        pem, shift = self.pem, self.temporal
        if run.num_frames is not None or not self.pem_first:
            return None
        if pem is None or not isinstance(shift, TemporalShift):
            return None
        if state is None or state.pem is None:
            vectors, past = pem.zero_state(x.shape[0], x), shift.zero_state(x, x.shape[0])
        else:
            vectors, past = state.pem, TemporalState(map=state.map)
        gate, after.pem = pem.step_gate(x, vectors)
        x, (_, after.map) = shift.step_gated(x, gate, past)
        return x

    def _mix(self, x: Tensor, run: Pass, state: UnitState | None, after: UnitState) -> Tensor:
        if self.temporal is None:
            return x
        if state is None:
            before = self.temporal.zero_state(x, x.shape[0] // (run.num_frames or 1))
        else:
            before = TemporalState(state.vector, state.map)
        if run.num_frames is None:
            x, (after.vector, after.map) = self.temporal.step(x, before)
        else:
            x, (after.vector, after.map) = self.temporal(x, run.num_frames, before)
        return x


def _temporal_module(channels: int, config: UnitConfig) -> TemporalModule | None:
    form, shift_div, reduction = config.form, config.shift_div, config.reduction
    match config.temporal:
        case "none":
            return None
        case "tsm":
            return TemporalShift(channels, shift_div=shift_div, form=form)
        case "tim":
            return TemporalInteraction(channels, shift_div=shift_div, form=form)
        case "mem":
            return MotionEnhancement(channels, reduction=reduction, form=form)
        case "tei":
            return TemporalEnhancementInteraction(
                channels, reduction=reduction, shift_div=shift_div, form=form
            )
        case "vsn":
            return VideoShuffle()
