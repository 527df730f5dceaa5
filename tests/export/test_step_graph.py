"""The step graph as a PyTorch module, before any exporter."""

from __future__ import annotations

import pytest
import torch

from export.step_graph import ClipGraph, StepGraph
from runtime.errors import ExportError
from tests.export.small import PICTURE, UNITS, moving_frames, small_model
from train.model.tdrl import ModelConfig, Tdrl
from train.model.unit import UnitConfig

ROWS = 3


@pytest.fixture(params=["pem", "tsm", "pem-tsm", "tsm-pem"])
def model(request):
    return small_model("tiny", UNITS[request.param])


def pictures(count):
    return torch.from_numpy(moving_frames(count))


@torch.inference_mode()
def test_only_the_rows_that_start_forget_and_nan_does_not_leak(model):
    graph, frames = StepGraph(model), pictures(ROWS)
    states = [
        torch.rand(s.shape) for s in model.zero_state(ROWS, PICTURE.height_px, PICTURE.width_px)
    ]
    for state in states:
        state[1] = torch.nan
    reset = torch.tensor([[0.0], [1.0], [1.0]])
    logits, *after = graph(frames, reset, *states)
    kept, _ = model.step(frames[:1].permute(0, 3, 1, 2), [state[:1] for state in states])
    fresh, _ = model.step(frames[1:].permute(0, 3, 1, 2), None)
    torch.testing.assert_close(logits[:1], kept)
    torch.testing.assert_close(logits[1:], fresh)
    assert all(torch.isfinite(each).all() for each in (logits, *after))


@torch.inference_mode()
def test_unrolled_steps_equal_the_clip(model):
    frames = pictures(6)
    graph = StepGraph(model)
    states = model.zero_state(1, PICTURE.height_px, PICTURE.width_px)
    rows = []
    for number in range(6):
        reset = torch.full((1, 1), float(number == 0))
        logits, *states = graph(frames[number : number + 1], reset, *states)
        rows.append(logits[0])
    clip = ClipGraph(model)(frames[None])[0]
    torch.testing.assert_close(torch.stack(rows), clip, rtol=1e-4, atol=1e-4)


def test_lookahead_is_refused_with_the_way_out():
    model = small_model("tiny", UnitConfig(form="lookahead", shift_div=4))
    with pytest.raises(ExportError, match="fine-tune the causal form"):
        StepGraph(model)


def test_a_head_over_time_is_refused():
    unit = UnitConfig(temporal="none", pem=False)
    config = ModelConfig(backbone="tiny", num_classes=4, unit=unit, head="gru")
    with pytest.raises(ExportError, match="head gru is a baseline of the ablation and does not"):
        StepGraph(Tdrl(config).eval())
