"""Small models, graphs and checkpoints of every kind: random, but with nothing left at rest.

A fresh model's gates are all 0.5 and its batch norms do nothing, so a fault in either would not
show. These have random gates, statistics and shifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from export.int8.placement import Placement
from export.to_int8 import int8_onnx_from_step, observed_from_step
from export.to_onnx import step_onnx_from_model
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.operating_point import OperatingPoint
from runtime.policy import Policy
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from runtime.sessions.base import Logits
from train.checkpoint import Facts
from train.data.arrow_of_time import LABELS, Sizes, build
from train.data.catalog import load_split
from train.data.clips import ArrayClipSet, ClipRule, VideoClipSet
from train.model.backbones.resnet import SIZES, ResNetSize
from train.model.backbones.table import BACKBONES
from train.model.pem import Pem
from train.model.tdrl import ModelConfig, Tdrl
from train.model.teinet import MotionEnhancement, TemporalInteraction
from train.model.unit import UnitConfig

# wider than high: mixed up axes show
PICTURE = PictureRule(height_px=32, width_px=40)
SQUARE = PictureRule(height_px=32, width_px=32)
NUM_CLASSES = 5
# the ResNets as they are, with an eighth of their channels
NARROW = {
    "narrow18": ResNetSize((2, 2, 2, 2), "basic", width=8),
    "narrow34": ResNetSize((3, 4, 6, 3), "basic", width=8),
    "narrow50": ResNetSize((3, 4, 6, 3), "bottleneck", width=8),
    "narrow101": ResNetSize((3, 4, 23, 3), "bottleneck", width=8),
}
UNITS = {
    "plain": UnitConfig(temporal="none", pem=False, shift_div=4),
    "pem": UnitConfig(temporal="none", pem=True, shift_div=4),
    "tsm": UnitConfig(temporal="tsm", pem=False, shift_div=4),
    "pem-tsm": UnitConfig(temporal="tsm", pem=True, shift_div=4),
    "tsm-pem": UnitConfig(temporal="tsm", pem=True, pem_first=False, shift_div=4),
}


@dataclass(frozen=True)
class Exported:
    """A model and its float step graph."""

    model: Tdrl
    path: Path
    states: tuple[StateSpec, ...]

    @property
    def proto(self) -> onnx.ModelProto:
        """The graph, the caller's own copy."""
        return onnx.load(self.path)


@cache
def small_model(
    backbone: str, unit: UnitConfig, num_classes: int = NUM_CLASSES, seed: int = 0
) -> Tdrl:
    """A model in evaluation mode in which every parameter matters."""
    torch.manual_seed(seed)
    names = (*BACKBONES, *NARROW)
    with patch.dict(SIZES, NARROW), patch("train.model.tdrl.BACKBONES", names):
        model = Tdrl(ModelConfig(backbone=backbone, num_classes=num_classes, unit=unit)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Pem):
                nn.init.normal_(module.attend.weight, 0, 2.0)
                nn.init.normal_(module.attend.bias, 0, 0.5)
            if isinstance(module, MotionEnhancement):
                nn.init.normal_(module.attend.weight, 0, 2.0)
            if isinstance(module, TemporalInteraction):
                nn.init.normal_(module.taps, 0, 0.5)
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                nn.init.uniform_(module.weight, 0.4, 0.9)
                nn.init.uniform_(module.bias, -0.2, 0.3)
                nn.init.uniform_(module.running_var, 0.8, 1.5)
        model.fc.weight.mul_(4)
    return model


@cache
def exported(folder: Path, backbone: str, kind: str) -> Exported:
    """A step graph, made once in a test run."""
    model = small_model(backbone, UNITS[kind])
    path = folder / f"{backbone}-{kind}.onnx"
    return Exported(model, path, step_onnx_from_model(model, PICTURE, path))


def moving_frames(steps: int, rule: PictureRule = PICTURE, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured blobs that wander over noise, shape (steps, H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : rule.height_px, 0 : rule.width_px]
    frames = rng.uniform(0, 50, (steps, rule.height_px, rule.width_px, 3))
    for colour in range(3):
        path = np.cumsum(rng.normal(0, 2.5, (steps, 2)), axis=0) + [y.mean(), x.mean()]
        for step, (row, column) in enumerate(path):
            distance = np.hypot(y - row % rule.height_px, x - column % rule.width_px)
            frames[step, ..., colour] += 200 * np.exp(-((distance / 6) ** 2))
    return np.clip(frames, 0, 255).astype(np.uint8)


def ort_session(graph: onnx.ModelProto | Path) -> ort.InferenceSession:
    """ONNX Runtime with optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def zero_states(states: Sequence[StateSpec], rows: int = 1) -> dict[str, NDArray[Any]]:
    """All states at zero."""
    return {s.name_in: np.zeros((rows, *s.shape[1:]), s.dtype) for s in states}


def run_step(
    session: ort.InferenceSession,
    frames: NDArray[np.uint8],
    reset: Sequence[float],
    carried: Mapping[str, NDArray[Any]],
) -> tuple[Logits, dict[str, NDArray[Any]]]:
    """One step with N rows: logits, and the states as the next inputs."""
    starts = np.asarray(reset, np.float32).reshape(-1, 1)
    names = [output.name for output in session.get_outputs()]
    feeds = {FRAME_INPUT: frames, RESET_INPUT: starts, **carried}
    found = dict(zip(names, session.run(names, feeds), strict=True))
    logits = found[LOGITS_OUTPUT]
    return logits, {n.replace("_out_", "_in_"): v for n, v in found.items() if "_out_" in n}


def run_steps(
    graph: onnx.ModelProto | Path,
    states: Sequence[StateSpec],
    frames: NDArray[np.uint8],
    reset_at: Sequence[int] = (0,),
) -> tuple[Logits, list[dict[str, NDArray[Any]]]]:
    """Unrolled steps of one row: logits (S, K), and the states after every step."""
    session, carried = ort_session(graph), zero_states(states)
    rows, after = [], []
    for step, frame in enumerate(frames):
        logits, carried = run_step(session, frame[np.newaxis], [float(step in reset_at)], carried)
        rows.append(logits[0])
        after.append(carried)
    return np.stack(rows), after


def stamped(graph: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """The graph with another batch size on its inputs, as a device stamps it before the build."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.graph.value_info[:]
    for info in (*copy.graph.input, *copy.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = rows
    onnx.checker.check_model(copy, full_check=True)
    return copy


def measured_thresholds(
    step: Exported, folder: Path, share: float = 0.8
) -> tuple[Placement, dict[str, float]]:
    """The placement, and a share of the largest magnitude of every placed tensor."""
    observed = folder / "observed.onnx"
    placement = observed_from_step(step.path, step.states, observed)
    session, carried = ort_session(observed), zero_states(step.states)
    names = [output.name for output in session.get_outputs()]
    largest = dict.fromkeys(placement.tensors, 0.0)
    for number, frame in enumerate(moving_frames(10, seed=5)):
        reset = np.full((1, 1), number == 0, np.float32)
        feeds = {FRAME_INPUT: frame[np.newaxis], RESET_INPUT: reset, **carried}
        found = dict(zip(names, session.run(names, feeds), strict=True))
        carried = {s.name_in: found[s.name_out] for s in step.states}
        largest = {n: max(v, float(np.abs(found[n]).max())) for n, v in largest.items()}
    return placement, {name: share * value for name, value in largest.items()}


def int8_of(step: Exported, folder: Path) -> tuple[Path, tuple[StateSpec, ...]]:
    """The INT8 graph of a step graph, and its states."""
    path = folder / "step.int8.onnx"
    _, thresholds = measured_thresholds(step, folder)
    return path, int8_onnx_from_step(step.path, step.states, thresholds, path)


def arrow_data(folder: Path) -> Path:
    """A data set of a few clips; what is there already is kept."""
    sizes = Sizes(
        train_scenes=16,
        frames_per_clip=12,
        picture_px=SQUARE.width_px,
        validation_clips=1,
        calibration_clips=1,
        tape_actions=6,
        tape_validation_actions=6,
    )
    build(folder, 0, sizes)
    return folder


def _learn(model: Tdrl, clips: ArrayClipSet | VideoClipSet, steps: int) -> None:
    """A few seconds of training: a random network says nearly the same about everything."""
    torch.manual_seed(0)
    items = [clips[i] for i in range(len(clips))]
    pictures, label = (torch.stack([torch.as_tensor(c[i]) for c in items]) for i in (0, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        chosen = torch.randperm(len(label))[:12]
        loss = functional.cross_entropy(model(pictures[chosen]).mean(1), label[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def write_checkpoint(path: Path, data: Path, unit: UnitConfig, *, steps: int = 40) -> Facts:
    """A checkpoint as `train.fit` leaves it, of a model that knows its few clips."""
    model = deepcopy(small_model("tiny", unit, len(LABELS)))
    facts = Facts(
        name="small",
        model=model.config,
        labels=LABELS,
        picture=SQUARE,
        sampling=SamplingContract(num_segments=8, window_s=2.0, consensus_len=4),
        operating=OperatingPoint(temperature=1.25, policy=Policy(enter=0.4, lag_s=0.5)),
    )
    rule = ClipRule(facts.sampling.num_segments, facts.sampling.spacing_s, "segments")
    _learn(model, load_split(data, "train", LABELS).clips(SQUARE, rule), steps)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "tdrl": facts.to_json()}, path)
    return facts
