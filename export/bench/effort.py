"""How much is measured: all of it, what a quarter of an hour allows, or what a test needs."""

from __future__ import annotations

from dataclasses import dataclass

Case = tuple[str, int]

TINY: Case = ("tiny", 48)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Sizes of the bench.

    Attributes:
        cases: Backbones and sizes.
        rounds: Rounds of what takes milliseconds.
        few_rounds: Rounds of what takes a second.
        least_ms: What takes less, all of a round together, takes several turns in it.
        streams: Rows of a batch.
        phases: Interleaved phases.
        segments: Frames T of a clip.
        paced_s: Seconds of a source at its own pace.
        ticks: Ticks of the runtime's stages.
        video_s: Seconds of the video that is decoded.
        seconds: Seconds of it to decode, from the start again where it ends.
        starts: Processes started.
        clips: Clips of the training data.
        batches: Batches a round in training.
    """

    cases: tuple[Case, ...]
    rounds: int = 30
    few_rounds: int = 9
    least_ms: float = 200.0
    streams: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    phases: tuple[int, ...] = (1, 2, 4, 8)
    segments: tuple[int, ...] = (8, 16)
    paced_s: float = 20.0
    ticks: int = 200
    video_s: float = 4.0
    seconds: int = 12
    starts: int = 5
    clips: int = 128
    batches: int = 8


STANDARD = Effort(cases=(("resnet18", 224), ("resnet50", 224), ("efficientnet_lite0", 224)))
FULL = Effort(
    cases=(
        TINY,
        ("resnet18", 112),
        ("resnet18", 224),
        ("resnet34", 224),
        ("resnet50", 224),
        ("resnet101", 224),
        ("efficientnet_lite0", 112),
        ("efficientnet_lite0", 224),
    )
)
SMOKE = Effort(
    cases=(TINY,),
    rounds=4,
    few_rounds=2,
    least_ms=0.0,
    streams=(1, 8),
    phases=(1, 2),
    segments=(8,),
    paced_s=2.0,
    ticks=8,
    video_s=0.4,
    seconds=1,
    starts=1,
    clips=16,
    batches=1,
)
EFFORTS = {"standard": STANDARD, "full": FULL, "smoke": SMOKE}
