from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

import calib.record
import export.quantise
from calib.clip_list import read_clip_list
from calib.thresholds import THRESHOLDS, threshold_minmax
from export.parity import compare
from export.preflight import preflight
from export.quantise import quantise, steps_of, with_graph
from runtime.bundle import Bundle, load_golden
from runtime.errors import DataError, SourceError
from runtime.sessions.ort import OrtStepSession


@pytest.fixture(scope="module")
def clips(built):
    return read_clip_list(built.bundle.folder.parent / "clips.jsonl")[:4]


@pytest.fixture
def bundle(built, tmp_path) -> Bundle:
    """The bundle before it was quantised."""
    folder = tmp_path / "bundle"
    shutil.copytree(built.bundle.folder, folder)
    (folder / "step.int8.onnx").unlink()
    graphs = {k: v for k, v in built.bundle.graphs.items() if k != "step_int8"}
    return replace(built.bundle, folder=folder, graphs=graphs)


@pytest.fixture(scope="module")
def stream(built):
    golden = load_golden(built.bundle)
    return golden.frames, golden.reset


def test_four_methods_are_compared_and_the_best_is_kept(bundle, clips, stream):
    before = {path.name for path in bundle.folder.iterdir()}
    calls: list[int] = []
    found = quantise(bundle, clips, *stream, advance=calls.append)
    assert set(found.compared) == {"minmax", "percentile", "entropy", "mse"} == set(THRESHOLDS)
    assert found.compared[found.method].sqnr_db == max(p.sqnr_db for p in found.compared.values())
    assert len({parity.sqnr_db for parity in found.compared.values()}) > 1
    assert calls == [1] * len(clips)
    report = found.to_json()
    assert report["method"] == found.method
    assert report["calibration_clips"] == 4
    assert report["calibration_resets"] == 3
    assert report["calibration_steps"] > 4 * 4
    assert report["int8_convolutions"] == 12
    assert report["int8_states"] == 4
    # nothing but the INT8 graph is new
    assert {path.name for path in bundle.folder.iterdir()} - before == {"step.int8.onnx"}
    assert not [name for name in before if "observed" in name]
    path = bundle.folder / found.graph.file
    assert preflight(path, states=found.graph.states, quantised=True) == []


def test_the_file_is_the_best_methods_and_not_the_last_ones(bundle, clips, stream, monkeypatch):
    methods = {
        "minmax": lambda histogram: 300 * histogram.largest,
        "percentile": threshold_minmax,
        "mse": lambda histogram: histogram.largest / 300,
    }
    monkeypatch.setattr(export.quantise, "THRESHOLDS", methods)
    found = quantise(bundle, clips, *stream)
    assert found.method == "percentile"
    assert found.compared["percentile"].sqnr_db > 10 + found.compared["minmax"].sqnr_db
    again = compare(steps_of(bundle, *stream, int8=found.graph), steps_of(bundle, *stream))
    assert again == found.compared["percentile"]


def test_int8_runs_as_a_session_of_the_bundle(bundle, clips, stream):
    found = quantise(bundle, clips, *stream)
    frames, reset = stream
    reference = steps_of(bundle, *stream, int8=found.graph)
    with OrtStepSession(with_graph(bundle, found.graph), "int8") as session:
        rows = [
            session.step(0, frame[np.newaxis], np.full((1, 1), starts, np.float32))[0]
            for frame, starts in zip(frames, reset, strict=True)
        ]
    assert compare(np.stack(rows), reference).sqnr_db > 25


def test_scales_come_from_the_clips(bundle, clips, stream, monkeypatch):
    """Calibrating on darker clips gives smaller scales: the recording is used."""
    monkeypatch.setattr(export.quantise, "THRESHOLDS", {"minmax": threshold_minmax})
    real = calib.record.record

    def scales(found):
        graph = onnx.load(bundle.folder / found.graph.file).graph
        return {
            each.name: float(onnx.numpy_helper.to_array(each))
            for each in graph.initializer
            if each.name.endswith("_scale") and not each.dims
        }

    bright = scales(quantise(bundle, clips, *stream))

    def dimmed(*given, **options):
        recording = real(*given, **options)
        for histogram in recording.histograms.values():
            histogram.largest /= 2
        return recording

    monkeypatch.setattr(export.quantise, "record", dimmed)
    dark = scales(quantise(bundle, clips, *stream))
    assert len(bright) > 12
    assert all(dark[name] == pytest.approx(bright[name] / 2) for name in bright)


def test_a_failure_leaves_no_observed_graph(bundle, clips, stream):
    gone = [replace(clips[0], path="gone.mp4")]
    before = sorted(bundle.folder.iterdir())
    with pytest.raises(SourceError, match=r"gone\.mp4"):
        quantise(bundle, gone, *stream)
    with pytest.raises(DataError, match="at least one clip"):
        quantise(bundle, [], *stream)
    assert sorted(bundle.folder.iterdir()) == before
