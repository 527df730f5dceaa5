"""The half graph's gate, and the rounding that it is judged with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.half_check import (
    HalfCheck,
    half_check,
    require_half_pass,
    rounded_graph,
    rounded_session,
)
from export.parity import compare, model_steps, session_steps
from export.to_fp16 import fp16_onnx_from_model, half_model
from runtime.errors import GateError
from tests.export.small import PICTURE, UNITS, moving_frames, run_steps, small_model
from tests.mini_bundle import write_mini_bundle

GOOD = HalfCheck(count=13, changed=0, top1_float=0.9, top1_half=0.9, sqnr_db=60.0)


@pytest.mark.parametrize("backbone", ["tiny", "narrow18"])
def test_roundings_are_as_loud_as_pytorchs(backbone, tmp_path):
    """PyTorch rounds after every operator; sums inside one differ, so noise is compared."""
    model = small_model(backbone, UNITS["pem-tsm"])
    states = fp16_onnx_from_model(model, PICTURE, tmp_path / "half.onnx")
    frames, reset = moving_frames(24), np.zeros(24, np.float32)
    reset[0] = 1
    reference = model_steps(model, frames, reset)
    of_torch = compare(model_steps(half_model(model), frames, reset), reference).sqnr_db
    rounded = rounded_graph(onnx.load(tmp_path / "half.onnx"))
    of_graph = compare(run_steps(rounded, states, frames)[0], reference).sqnr_db
    assert of_graph == pytest.approx(of_torch, abs=3)


def test_only_the_rounded_graph_shows_a_range_that_is_left(tmp_path):
    """On a GPU the stem's 1e6 is infinity. ONNX Runtime's CPU computes halves in float32."""
    model = deepcopy(small_model("tiny", UNITS["plain"]))
    net: Any = model.backbone
    with torch.no_grad():
        net.bn1.weight.mul_(1e5)
        net.bn1.bias.mul_(1e5)
        block = net.layer1[0]
        block.bn2.weight.mul_(1e5)  # beside the shortcut's 1e5
        block.bn1.running_var.mul_(1e10)
        net.layer2[0].bn1.running_var.mul_(1e10)
        net.layer2[0].downsample[1].running_var.mul_(1e10)
    frames = moving_frames(2)
    states = fp16_onnx_from_model(model, PICTURE, tmp_path / "half.onnx")
    reference = model_steps(model, frames, np.ones(2, np.float32))
    assert np.isfinite(reference).all()
    hidden, _ = run_steps(tmp_path / "half.onnx", states, frames)
    assert np.isfinite(hidden).all()
    shown, _ = run_steps(rounded_graph(onnx.load(tmp_path / "half.onnx")), states, frames)
    assert not np.isfinite(shown).all()
    label = np.zeros(2, np.int64)
    require_half_pass(half_check(reference, hidden, label))
    with pytest.raises(GateError, match="may leave float16's range"):
        require_half_pass(half_check(reference, shown, label))


def test_a_session_leaves_no_file(tmp_path):
    bundle = write_mini_bundle(tmp_path, fp16=True)
    before = sorted(tmp_path.iterdir())
    frames, reset = moving_frames(3)[:, :32, :32].copy(), np.eye(1, 3, dtype=np.float32)[0]
    with rounded_session(bundle) as session:
        assert session_steps(session, frames, reset).shape == (3, 3)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(KeyboardInterrupt), rounded_session(bundle):
        raise KeyboardInterrupt
    assert sorted(tmp_path.iterdir()) == before


def test_half_check_counts_by_hand():
    reference = np.array([[3, 0], [0, 3], [2, 1], [0, 1]], np.float32)
    other = np.array([[2, 0], [0, 3], [1, 2], [0, 1]], np.float32)
    found = half_check(reference, other, np.array([0, 1, 1, 0]))
    assert (found.count, found.changed, found.agreement) == (4, 1, 0.75)
    assert (found.top1_float, found.top1_half) == (0.5, 0.75)
    assert found.sqnr_db == pytest.approx(10 * np.log10(24 / 3))
    assert found.to_json()["agreement"] == 0.75


@pytest.mark.parametrize("shape", [(0, 2), (3, 3), (4, 2)])
def test_other_clips_are_refused(shape):
    with pytest.raises(ValueError, match="want the same clips, at least one"):
        half_check(np.zeros(shape, np.float32), np.zeros((3, 2), np.float32), np.zeros(3, np.int64))


def test_no_clips_are_refused():
    nothing = np.zeros((0, 2), np.float32)
    with pytest.raises(ValueError, match="at least one"):
        half_check(nothing, nothing, np.zeros(0, np.int64))


@pytest.mark.parametrize(("changed", "count"), [(0, 13), (1, 13), (1, 100), (4, 400)])
def test_a_good_half_graph_passes(changed, count):
    require_half_pass(replace(GOOD, changed=changed, count=count))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"changed": 2}, "agrees with float on 84.62% of 13 clips, needed 99 %"),
        ({"changed": 5, "count": 400}, "98.75% of 400"),
        ({"sqnr_db": 29.9}, "SQNR 29.9 dB against float, needed 30"),
        ({"sqnr_db": -999.0}, "SQNR -999.0 dB"),
    ],
)
def test_a_bad_half_graph_fails(changes, match):
    with pytest.raises(GateError, match=match):
        require_half_pass(replace(GOOD, **changes))
