"""TDRL: a backbone with PEM and a temporal module, in two equal forms.

`forward(clip)` sees T frames at once, `step(frame, state)` one. Unrolled steps from the zero
state equal the causal forward: the project's first law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from train.model.backbones.table import BACKBONES, build_backbone
from train.model.head import HEADS, Head, build_head
from train.model.unit import Pass, UnitConfig, UnitState


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to build the network again.

    Attributes:
        backbone: Name in `BACKBONES`.
        num_classes: Classes K.
        unit: What stands at the entry of every residual branch.
        dropout: Dropout before the classifier, 0..1.
        head: What reads the pooled features over time, before the classifier: a baseline of the
            ablation that does not stream.
    """

    backbone: str
    num_classes: int
    unit: UnitConfig = field(default_factory=UnitConfig)
    dropout: float = 0.0
    head: Head = "none"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}"
            )
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {self.num_classes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")

    @property
    def offline_reason(self) -> str | None:
        """Why the model cannot stream, and what to do; None if it can."""
        if self.head != "none":
            return (
                f"head {self.head} is a baseline of the ablation and does not stream; "
                "train with head none to stream"
            )
        return self.unit.offline_reason

    def to_json(self) -> dict[str, Any]:
        """The configuration as checkpoints store it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """The configuration that `to_json` wrote.

        Raises:
            TypeError: Unknown or missing fields.
            ValueError: Values out of range.
        """
        return cls(**{**data, "unit": UnitConfig(**data["unit"])})


class Tdrl(nn.Module):
    """TDRL over a backbone.

    Pictures come in as 0..255 RGB of any dtype: normalisation is part of the model.

    Args:
        config: What to build.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.unit)
        self.dropout = nn.Dropout(config.dropout)
        num_features = self.backbone.num_features
        self.head = build_head(config.head, num_features)
        if self.head is not None:
            num_features = self.head.num_features
        self.fc = nn.Linear(num_features, config.num_classes)
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean_rgb).view(3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(self.backbone.std_rgb).view(3, 1, 1), persistent=False
        )
        if config.unit.pem:
            self.double_gated_convolutions()

    def double_gated_convolutions(self) -> None:
        """Make up for PEM's initial gate of 0.5: the convolution behind it gets twice its weight.

        A fresh TDRL then computes what the plain backbone computes. Called once at construction
        and again after ImageNet weights are loaded.
        """
        with torch.no_grad():
            for block in self.backbone.blocks():
                block.gated_convolution.weight.mul_(2)

    def forward(self, clip: Tensor) -> Tensor:
        """Per-frame logits of whole clips, from the zero state.

        Args:
            clip: Pictures, shape (N, T, 3, H, W), 0..255 RGB.

        Returns:
            Logits, shape (N, T, K); the clip's logits are their mean over T (segment consensus).
        """
        logits, _ = self.run_clip(clip)
        return logits

    def run_clip(self, clip: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, Pass]:
        """Per-frame logits of whole clips, and what the pass left behind.

        Args:
            clip: Pictures, shape (N, T, 3, H, W), 0..255 RGB.
            state: State left by earlier frames (`pack_state`); None starts from zeros.

        Returns:
            Logits (N, T, K), and the pass with the blocks' states and the TD-loss taps.

        Raises:
            ValueError: The model takes no such state.
        """
        if state is not None and self.head is not None:
            raise ValueError(f"head {self.config.head} takes no state: it begins with its clip")
        num_frames = clip.shape[1]
        states = None if state is None else self.unpack_state(state)
        run = Pass(num_frames, states)
        features = self.backbone(self._normalise(clip.flatten(0, 1)), run)
        if self.head is not None:
            features = self.head(features.unflatten(0, (-1, num_frames))).flatten(0, 1)
        return self.fc(self.dropout(features)).unflatten(0, (-1, num_frames)), run

    def step(
        self, frame: Tensor, state: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits of one frame, and the next state.

        Args:
            frame: Pictures, shape (N, 3, H, W), 0..255 RGB.
            state: What the step before returned; None starts from zeros.

        Returns:
            Logits (N, K), and the state: the vectors of all blocks in one tensor (N, V), then
            one feature map (N, M, H, W) a block whose temporal module keeps one.

        Raises:
            ValueError: The model cannot stream.
        """
        self._require_streaming()
        run = Pass(None, None if state is None else self.unpack_state(state))
        logits = self.fc(self.backbone(self._normalise(frame), run))
        return logits, self.pack_state(run.states_out)

    def pack_state(self, states: Sequence[UnitState]) -> list[Tensor]:
        """Blocks' states as few tensors: all vectors in one, then the maps."""
        vectors = [v for state in states for v in (state.pem, state.vector) if v is not None]
        maps = [state.map for state in states if state.map is not None]
        return ([torch.cat(vectors, dim=1)] if vectors else []) + maps

    def unpack_state(self, state: Sequence[Tensor]) -> list[UnitState]:
        """The reverse of `pack_state`.

        Raises:
            ValueError: Another number of tensors than the model has.
        """
        units = [block.unit for block in self.backbone.blocks()]
        sizes = [size for unit in units for size in unit.vector_sizes]
        has_map = [unit.map_channels > 0 for unit in units]
        wanted = (sum(sizes) > 0) + sum(has_map)
        if len(state) != wanted:
            raise ValueError(f"state must hold {wanted} tensors, got {len(state)}")
        maps = iter(state[1:] if sum(sizes) else state)
        vectors = iter(
            state[0].split([size for size in sizes if size], dim=1) if sum(sizes) else ()
        )
        return [
            UnitState(
                pem=next(vectors) if unit.vector_sizes[0] else None,
                vector=next(vectors) if unit.vector_sizes[1] else None,
                map=next(maps) if unit.map_channels else None,
            )
            for unit in units
        ]

    def zero_state(self, rows: int, height_px: int, width_px: int) -> list[Tensor]:
        """The state at a stream's start, for pictures of the given size.

        Raises:
            ValueError: The model cannot stream.
        """
        self._require_streaming()
        frame = torch.zeros(1, 3, height_px, width_px, device=self.mean.device)
        training = self.training
        self.eval()
        with torch.no_grad():
            _, state = self.step(frame)
        self.train(training)
        return [tensor.new_zeros(rows, *tensor.shape[1:]) for tensor in state]

    def _require_streaming(self) -> None:
        reason = self.config.offline_reason
        if reason is not None:
            raise ValueError(reason)

    def _normalise(self, pictures: Tensor) -> Tensor:
        return (pictures.to(self.mean.dtype) - self.mean) / self.std
