"""How much the GPU check measures: the paper's sizes on a GPU, or the smallest ones on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Device: TypeAlias = Literal["cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Sizes and times.

    Attributes:
        device: Where PyTorch computes.
        backbones: What steps are proven and timed with.
        trained: Backbone of the training parts.
        size_px: Height and width of the pictures.
        num_segments: Frames T of a clip.
        batch: Clips of a training step; halved until they fit into the memory.
        streams: Rows N of a step.
        seconds: How long one thing is measured, after a warm-up.
        rounds: Fewest rounds of a measurement.
        updates: Updates of the parts that train to prove something.
        videos: Recordings that are made for the loader.
        compiler: The backend of torch.compile.
    """

    device: Device
    backbones: tuple[str, ...]
    trained: str
    size_px: int
    num_segments: int
    batch: int
    streams: tuple[int, ...]
    seconds: float
    rounds: int
    updates: int
    videos: int
    compiler: str


ON_GPU = Effort(
    device="cuda",
    backbones=("resnet18", "resnet50", "efficientnet_lite0"),
    trained="resnet50",
    size_px=224,
    num_segments=8,
    batch=16,
    streams=(1, 8, 32),
    seconds=2.0,
    rounds=10,
    updates=8,
    videos=8,
    compiler="inductor",
)
# runs all that a CPU can; its numbers say nothing about a GPU
ON_CPU = Effort(
    device="cpu",
    backbones=("tiny",),
    trained="tiny",
    size_px=32,
    num_segments=4,
    batch=4,
    streams=(1, 3),
    seconds=0.05,
    rounds=2,
    updates=4,
    videos=2,
    compiler="eager",  # inductor needs a C++ compiler and a minute
)
EFFORTS: dict[Device, Effort] = {"cuda": ON_GPU, "cpu": ON_CPU}
