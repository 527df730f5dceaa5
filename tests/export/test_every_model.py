"""Every preset, temporal module and backbone of the training room as step, clip and INT8 graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.checks.preflight import preflight
from export.step_graph import StepGraph
from export.to_onnx import clip_onnx_from_model, step_onnx_from_model
from runtime.errors import ExportError
from runtime.selftest import sqnr_db
from tests.export.small import (
    PICTURE,
    Exported,
    int8_of,
    moving_frames,
    ort_session,
    run_step,
    run_steps,
    small_model,
    stamped,
    zero_states,
)
from train.model.backbones.table import BACKBONES
from train.model.presets import PRESETS
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import TEMPORALS, UnitConfig

STREAMING = [name for name in TEMPORALS if name != "vsn"]
UNITS = {
    **{
        f"{name}{'+pem' if pem else ''}": UnitConfig(temporal=name, pem=pem, shift_div=4)
        for name in STREAMING
        for pem in (False, True)
    },
    "tim, then pem": UnitConfig(temporal="tim", pem=True, pem_first=False, shift_div=4),
    "tei, then pem": UnitConfig(temporal="tei", pem=True, pem_first=False, shift_div=4),
}
# one that is as it is, and the others with an eighth of their channels
SMALL = {
    "tiny": "tiny",
    "resnet18": "narrow18",
    "resnet34": "narrow34",
    "resnet50": "narrow50",
    "resnet101": "narrow101",
    "efficientnet_lite0": "efficientnet_lite0",
}
CASES = [
    *(("tiny", kind) for kind in UNITS),
    *((backbone, "tsm+pem") for backbone in BACKBONES if backbone != "tiny"),
    ("efficientnet_lite0", "tei"),
    ("resnet50", "tim"),
]
RESETS = (0, 3)
STEPS = 5
# States of whole frames are INT8 only where the frame itself is rounded: not behind a gate.
FLOAT_MAPS = ("tim+pem", "tei", "tei+pem", "tei, then pem")


@dataclass(frozen=True)
class Graphs:
    """A model, its float step graph, and what it should say about a short stream."""

    kind: str
    step: Exported
    folder: Path
    frames: np.ndarray
    expected: np.ndarray


@pytest.fixture(scope="module", params=CASES, ids=": ".join)
def graphs(request, tmp_path_factory):
    backbone, kind = request.param
    model = small_model(SMALL[backbone], UNITS[kind])
    folder = tmp_path_factory.mktemp("every")
    path = folder / "step.onnx"
    step = Exported(model, path, step_onnx_from_model(model, PICTURE, path))
    frames = moving_frames(STEPS)
    parts = [torch_clip(model, frames[: RESETS[1]]), torch_clip(model, frames[RESETS[1] :])]
    return Graphs(kind, step, folder, frames, np.concatenate(parts))


def torch_clip(model, frames):
    clip = torch.from_numpy(frames.transpose(0, 3, 1, 2)[np.newaxis].copy())
    with torch.inference_mode():
        return model(clip)[0].numpy()


def close(got, expected):
    """1e-4 of the logits' range, as the export itself asks."""
    assert np.abs(got - expected).max() <= 1e-4 * (expected.max() - expected.min())


def test_nothing_that_trains_is_left_out():
    assert set(SMALL) == set(BACKBONES)
    tried = {(unit.temporal, unit.pem) for unit in UNITS.values()}
    assert {(preset.temporal, preset.pem) for preset in PRESETS.values()} <= tried


def test_steps_of_the_graph_are_the_models_clips(graphs):
    step = graphs.step
    assert preflight(step.path, states=step.states, precision="float32") == []
    got, _ = run_steps(step.path, step.states, graphs.frames, RESETS)
    close(got, graphs.expected)
    if step.states:  # without the past it is another answer
        alone, _ = run_steps(step.path, step.states, graphs.frames, range(STEPS))
        assert np.abs(alone - got).max() > 0.005 * np.ptp(graphs.expected)


def test_the_clip_graph_is_the_models_clip(graphs):
    path, frames = graphs.folder / "clip.onnx", graphs.frames[: RESETS[1]]
    clip_onnx_from_model(graphs.step.model, PICTURE, RESETS[1], path)
    got = ort_session(path).run(None, {"clip": frames[np.newaxis]})[0][0]
    close(got, graphs.expected[: RESETS[1]])


def three_rows(proto, states, frames):
    """Logits (S, 3, K) of three streams in one graph; the second starts anew at step 1."""
    session, carried, rows = ort_session(stamped(proto, 3)), zero_states(states, 3), []
    for number, three in enumerate(frames):
        reset = [float(number == 0), float(number in (0, 1)), float(number == 0)]
        logits, carried = run_step(session, three, reset, carried)
        rows.append(logits)
    return np.stack(rows)


def test_three_streams_share_a_graph(graphs):
    step = graphs.step
    frames = moving_frames(9).reshape(3, 3, PICTURE.height_px, PICTURE.width_px, 3)
    got = three_rows(step.proto, step.states, frames)
    for row, reset_at in enumerate([(0,), (0, 1), (0,)]):
        close(got[:, row], run_steps(step.path, step.states, frames[:, row], reset_at)[0])


def test_the_int8_graph_passes_preflight_and_follows_float(graphs):
    step = graphs.step
    path, states = int8_of(step, graphs.folder)
    assert preflight(path, states=states, precision="int8") == []
    wanted = "float32" if graphs.kind in FLOAT_MAPS else "int8"
    assert {state.dtype for state in states if len(state.shape) == 4} <= {wanted}
    assert {state.dtype for state in states if len(state.shape) == 2} <= {"float32"}
    got, _ = run_steps(path, states, graphs.frames, RESETS)
    assert sqnr_db(got, graphs.expected) > 18
    frames = moving_frames(9).reshape(3, 3, PICTURE.height_px, PICTURE.width_px, 3)
    rows = three_rows(onnx.load(path), states, frames)
    for row, reset_at in enumerate([(0,), (0, 1), (0,)]):
        alone, _ = run_steps(path, states, frames[:, row], reset_at)
        assert sqnr_db(rows[:, row], alone) > 40


def test_int8_states_of_whole_frames_hold_the_rounded_frames_exactly(tmp_path):
    """Two steps after a reset TIM's state is frame 1, frame 0, on the grid of the block's input."""
    model, path = small_model("tiny", UNITS["tim"]), tmp_path / "step.onnx"
    step = Exported(model, path, step_onnx_from_model(model, PICTURE, path))
    int8, states = int8_of(step, tmp_path)
    _, after = run_steps(int8, states, moving_frames(4), reset_at=(0, 2))
    for state in states:
        first, second, third, fourth = (each[state.name_in] for each in after)
        channels = state.shape[1] // 2
        assert first.dtype == np.int8
        assert first[:, :channels].any()
        assert not first[:, channels:].any()
        assert np.array_equal(second[:, channels:], first[:, :channels])
        assert not third[:, channels:].any()  # a reset forgets
        assert np.array_equal(fourth[:, channels:], third[:, :channels])


PLAIN = UnitConfig(temporal="none", pem=False)
OFFLINE: dict[str, dict[str, Any]] = {
    "vsn": {"unit": UnitConfig(temporal="vsn", form="lookahead")},
    "lookahead": {"unit": UnitConfig(form="lookahead")},
    "gru": {"unit": PLAIN, "head": "gru"},
    "tconv": {"unit": PLAIN, "head": "tconv"},
}
REASON = {
    "vsn": "temporal vsn shuffles whole clips",
    "lookahead": "form 'lookahead' sees the next frame",
    "gru": "head gru is a baseline",
    "tconv": "head tconv is a baseline",
}


@pytest.mark.parametrize("kind", OFFLINE)
def test_what_cannot_stream_says_so_and_has_a_clip_graph(kind, tmp_path):
    torch.manual_seed(0)
    model = Tdrl(ModelConfig(backbone="tiny", num_classes=4, **OFFLINE[kind])).eval()
    with pytest.raises(ExportError, match=REASON[kind]):
        StepGraph(model)
    frames = moving_frames(4)
    clip_onnx_from_model(model, PICTURE, 4, tmp_path / "clip.onnx")
    got = ort_session(tmp_path / "clip.onnx").run(None, {"clip": frames[np.newaxis]})[0][0]
    close(got, torch_clip(model, frames))
