"""The whole chain, small: data → fit → bundle → live stream, and the equalities along it.

clip == steps == ONNX == INT8 (by decibels and agreement), on what a real training left; and the
runtime, as the command it is, decides on a tape what PyTorch decides.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from export.bundle import Built, build_bundle, clip_graph_logits
from export.int8.placement import placement_of
from export.int8.quantise import reference_session
from export.parity import compare, model_steps, session_steps
from export.stream.growth import growth_of
from runtime.selftest import run_self_test
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from tests.export.small import arrow_data
from tests.openvino_part import needs_openvino
from train.checkpoint import Facts, load_checkpoint
from train.data.catalog import load_tape
from train.evaluate import load_clips
from train.fit import fit
from train.live_evaluation import TorchSession, bundle_of, decide_tape
from train.model.tdrl import Tdrl
from train.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"epochs": "1", "batch_size": "4", "height_px": "32", "width_px": "32"}


class Chain(NamedTuple):
    data: Path
    built: Built
    model: Tdrl
    facts: Facts


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = arrow_data(tmp_path_factory.getbasetemp() / "arrow_of_time")
    run = tmp_path_factory.mktemp("first_law") / "run"
    best = fit(load_recipe("demo", RECIPE), data, run, name="first-law")
    built = build_bundle(best, data, run / "bundle", allowed_loss=1.0)
    yield Chain(data, built, *load_checkpoint(best))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def frames(chain):
    """64 pictures: held-out clips back to back, (64, H, W, 3)."""
    pictures = load_clips(chain.data, "validation", chain.facts).pictures[:8]
    return pictures.flatten(0, 1).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def reset():
    """A start in the middle of the second clip, and one long stream after it."""
    starts = np.zeros(64, np.float32)
    starts[[0, 12]] = 1
    return starts


def test_the_model_learnt_what_makes_its_parts_matter(chain, frames):
    """After training the past changes the logits: equalities below are about something."""
    steps = model_steps(chain.model, frames, np.array([1] + 63 * [0], np.float32))
    alone = model_steps(chain.model, frames, np.ones(64, np.float32))
    assert compare(alone, steps).sqnr_db < 15


def test_clip_equals_steps_in_pytorch_and_in_onnx(chain, frames):
    T = chain.facts.sampling.num_segments
    clips = frames.reshape(-1, T, *frames.shape[1:])
    starts = np.tile(np.array([1] + (T - 1) * [0], np.float32), len(clips))
    with torch.inference_mode():
        tensor = torch.from_numpy(clips.transpose(0, 1, 4, 2, 3).copy())
        forward = chain.model(tensor).flatten(0, 1).numpy()
    steps = model_steps(chain.model, frames, starts)
    with reference_session(chain.built.bundle) as session:
        onnx_steps = session_steps(session, frames, starts)
    onnx_clips = np.concatenate([clip_graph_logits(chain.built.bundle, clip) for clip in clips])
    for got in (steps, onnx_steps, onnx_clips):
        assert compare(got, forward).relative < 1e-4


def test_onnx_equals_pytorch_along_a_stream(chain, frames, reset):
    expected = model_steps(chain.model, frames, reset)
    for phases in (1, 2):
        with OrtStepSession(chain.built.bundle, "float32", phases) as session:
            parity = compare(session_steps(session, frames, reset), expected)
        assert parity.relative < 1e-4
        assert parity.same_top1 == 1


def test_int8_follows_float_by_decibels_and_agreement(chain, frames, reset):
    expected = model_steps(chain.model, frames, reset)
    with OrtStepSession(chain.built.bundle, "int8") as session:
        parity = compare(session_steps(session, frames, reset), expected)
    assert 24 < parity.sqnr_db < 60
    assert parity.same_top1 >= 0.9
    gate = chain.built.report["gate"]
    assert gate["agreement"] >= 0.9
    assert gate["sqnr_db"] > 24


@needs_openvino
def test_openvino_keeps_the_first_law(chain, frames, reset):
    expected = model_steps(chain.model, frames, reset)
    for phases in (1, 2):
        with OvStepSession(chain.built.bundle, "float32", phases) as session:
            parity = compare(session_steps(session, frames, reset), expected)
        assert parity.relative < 1e-4
        assert parity.same_top1 == 1


@needs_openvino
def test_openvino_computes_the_int8_graph_that_was_judged(chain, frames, reset):
    bundle = chain.built.bundle
    with reference_session(bundle, bundle.graph("step_int8")) as session:
        expected = session_steps(session, frames, reset)
    with OvStepSession(bundle, "int8") as session:
        parity = compare(session_steps(session, frames, reset), expected)
        assert run_self_test(bundle, session, "int8").sqnr_db > 30
    assert parity.sqnr_db > 30
    assert parity.same_top1 >= 0.95


def test_int8_does_not_drift_from_float(chain, frames):
    """The same pictures again and again, 512 steps without a reset: the distance stays."""
    stream, starts = np.tile(frames, (8, 1, 1, 1)), np.array([1] + 511 * [0], np.float32)
    with OrtStepSession(chain.built.bundle, "int8") as session:
        int8 = session_steps(session, stream, starts)
    with OrtStepSession(chain.built.bundle) as session:
        reference = session_steps(session, stream, starts)
    found = growth_of(np.abs(reference - int8).max(1).astype(np.float64)[64:])
    assert not found.grows
    assert found.growth == pytest.approx(1, abs=0.2)


def test_every_convolution_is_meant_to_run_on_int8(chain):
    import onnx

    bundle = chain.built.bundle
    graph = onnx.load(bundle.graph_path("step")).graph
    placement = placement_of(graph, bundle.graph("step").states)
    assert len(placement.convs) == 12
    assert chain.built.report["quantisation"]["int8_convolutions"] == 12


def live_decisions(chain, backend, precision, events):
    """What `python runtime/stream.py` decides on the tape, one line a tick."""
    video, _ = load_tape(chain.data, "tape", chain.facts.labels)
    command = [sys.executable, "runtime/stream.py", "--headless", "--source", str(video)]
    command += ["--bundle", str(chain.built.bundle.folder), "--events", str(events)]
    command += ["--backend", backend, "--precision", precision, "--phases", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "self-test passed" in done.stderr
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert (lines[0]["type"], lines[-1]["type"]) == ("start", "end")
    return [line for line in lines if line["type"] == "decision"]


@pytest.mark.parametrize(("precision", "least"), [("float32", 1.0), ("int8", 0.9)])
@pytest.mark.parametrize("backend", ["ort", pytest.param("openvino", marks=needs_openvino)])
def test_the_live_command_decides_what_pytorch_decides(chain, tmp_path, backend, precision, least):
    video, _ = load_tape(chain.data, "tape", chain.facts.labels)
    with TorchSession(chain.model) as session:
        expected = decide_tape(bundle_of(chain.facts), session, video)
    got = live_decisions(chain, backend, precision, tmp_path / "events.jsonl")
    assert len(got) == len(expected) > 40
    ticks = [(line["tick"], round(line["stream_time_s"], 6)) for line in got]
    assert ticks == [(each.tick, round(each.stream_time_s, 6)) for each in expected]
    same = [line["label"] == each.label for line, each in zip(got, expected, strict=True)]
    assert np.mean(same) >= least
    if precision == "float32":
        probs = [line["prob"] for line in got]
        np.testing.assert_allclose(probs, [each.prob for each in expected], atol=1e-4)


@pytest.mark.rtx
def test_nvidias_builder_runs_every_convolution_on_int8(chain):
    from export.engines.build_log import conv_node_names, nvidia_build_check

    bundle = chain.built.bundle
    path = bundle.graph_path("step_int8")
    check = nvidia_build_check(path, expected_int8=conv_node_names(path))
    assert len(check.int8_convs) == 12
    assert check.float_convs == ()
    plain = nvidia_build_check(bundle.graph_path("step"), expected_int8=0)
    assert len(plain.float_convs) == 12
