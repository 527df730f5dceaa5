"""Small models with lively gates and batch norms, and both of their forms."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from train.checkpoint import ENTRY, Facts
from train.model.pem import Pem
from train.model.tdrl import ModelConfig, Tdrl
from train.model.teinet import MotionEnhancement, TemporalInteraction
from train.model.unit import UnitConfig

NUM_CLASSES = 4

# every make of a temporal unit: temporal module, PEM, PEM's place
UNITS = {
    "plain": UnitConfig(temporal="none", pem=False),
    "tsm": UnitConfig(temporal="tsm", pem=False),
    "pem": UnitConfig(temporal="none"),
    "pem-tsm": UnitConfig(temporal="tsm"),
    "tsm-pem": UnitConfig(temporal="tsm", pem_first=False),
    "pem-tsm-4": UnitConfig(temporal="tsm", shift_div=4, reduction=2),
    "tim": UnitConfig(temporal="tim", pem=False, shift_div=4),
    "mem": UnitConfig(temporal="mem", pem=False),
    "tei": UnitConfig(temporal="tei", pem=False, shift_div=4),
    "pem-tim": UnitConfig(temporal="tim"),
    "pem-mem": UnitConfig(temporal="mem"),
    "pem-tei": UnitConfig(temporal="tei"),
    "tei-pem": UnitConfig(temporal="tei", pem_first=False),
}


# built anew each time: one of every make would fill gigabytes
LARGE = ("resnet34", "resnet50", "resnet101")


def lively_model(backbone: str, unit: UnitConfig, picture_px: int = 32) -> Tdrl:
    """In evaluation mode, gates and taps as if trained, running statistics of real activations.

    Shared between tests: do not change it.
    """
    make = _built if backbone in LARGE else _kept
    return make(backbone, unit, picture_px)


@cache
def _kept(backbone: str, unit: UnitConfig, picture_px: int) -> Tdrl:
    return _built(backbone, unit, picture_px)


def _built(backbone: str, unit: UnitConfig, picture_px: int) -> Tdrl:
    torch.manual_seed(1)
    model = Tdrl(ModelConfig(backbone=backbone, num_classes=NUM_CLASSES, unit=unit))
    enliven(model, picture_px)
    return model


def precise_model(backbone: str, unit: UnitConfig, picture_px: int = 32) -> Tdrl:
    """The same in float64: what differs by more than 1e-9 is no rounding."""
    return deepcopy(lively_model(backbone, unit, picture_px)).double()


def enliven(model: Tdrl, picture_px: int = 32) -> None:
    gates = sum(isinstance(module, Pem | MotionEnhancement) for module in model.modules())
    # dozens of wild gates in a row make a chaotic net, in which rounding grows 100 000-fold
    liveliness = min(1.0, 8 / max(gates, 1))
    for module in model.modules():
        if isinstance(module, Pem | MotionEnhancement):
            nn.init.normal_(module.attend.weight, std=liveliness)
            nn.init.normal_(module.attend.bias, std=0.5 * liveliness)
        if isinstance(module, TemporalInteraction):
            with torch.no_grad():
                module.taps.add_(torch.empty_like(module.taps).uniform_(-0.4, 0.4))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.3, 0.7)  # deep nets stay well-conditioned
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None  # the mean of what was seen
    with torch.no_grad():
        model.train()(pictures(4, 4, picture_px, seed=99))
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def pictures(rows: int, num_frames: int, picture_px: int = 32, *, seed: int = 0) -> Tensor:
    """Clips (N, T, 3, h, w), uint8, of patches that change from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(rows * num_frames, 3, 4, 4, generator=generator) * 255
    fine = nn.functional.interpolate(coarse, size=(picture_px, picture_px), mode="bilinear")
    return fine.to(torch.uint8).unflatten(0, (rows, num_frames))


@torch.no_grad()
def unrolled(
    model: Tdrl, clip: Tensor, state: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Per-frame logits (N, T, K) of single steps, and the last state."""
    logits = []
    for t in range(clip.shape[1]):
        frame_logits, state = model.step(clip[:, t], state)
        logits.append(frame_logits)
    assert state is not None
    return torch.stack(logits, dim=1), state


def assert_equal(actual: Tensor, expected: Tensor, *, relative: float = 1e-5) -> None:
    """Equal up to rounding: the largest difference against the largest value."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    distance = (actual - expected).abs().max().item()
    assert distance <= relative * max(1.0, expected.abs().max().item()), distance


def facts_of_model(model: ModelConfig, **changes: Any) -> Facts:
    """What a checkpoint of such a model says, for 32 px pictures and 4 segments in 2 seconds."""
    facts = Facts(
        name="test",
        model=model,
        labels=tuple(f"class {i}" for i in range(model.num_classes)),
        picture=PictureRule(height_px=32, width_px=32),
        sampling=SamplingContract(num_segments=4, window_s=2.0, consensus_len=4),
    )
    return replace(facts, **changes)


def write_checkpoint(path: Path, model: Tdrl, facts: Facts) -> Path:
    """A checkpoint as `train.fit` leaves it, without its optimiser."""
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights, ENTRY: facts.to_json()}, path)
    return path
