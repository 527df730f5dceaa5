from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import onnx
import pytest

import calib.record
import export.int8.quantise
import export.int8.search
from calib.clip_list import read_clip_list
from export.checks.preflight import preflight
from export.int8.quantise import (
    Int8Options,
    LabelledClips,
    Quantised,
    quantise,
    steps_of,
    with_graph,
)
from export.parity import compare
from runtime.bundle import Bundle, load_golden
from runtime.errors import DataError
from runtime.files import sha256_of
from runtime.sessions.ort import OrtStepSession


@pytest.fixture(scope="module")
def clips(built):
    return read_clip_list(built.bundle.folder.parent / "clips.jsonl")[:4]


def without_int8(bundle: Bundle, folder: Path) -> Bundle:
    """A copy as it was before it was quantised."""
    shutil.copytree(bundle.folder, folder)
    (folder / "step.int8.onnx").unlink()
    graphs = dict(bundle.graphs)
    del graphs["step_int8"]
    return replace(bundle, folder=folder, graphs=graphs)


@pytest.fixture
def bundle(built, tmp_path) -> Bundle:
    return without_int8(built.bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def stream(built):
    golden = load_golden(built.bundle)
    return golden.frames, golden.reset


@dataclass(frozen=True)
class Run:
    bundle: Bundle
    found: Quantised
    calls: list[int]
    new_files: set[str]


@pytest.fixture(scope="module")
def run(built, clips, stream, tmp_path_factory) -> Run:
    """One quantisation as it is by default."""
    bundle = without_int8(built.bundle, tmp_path_factory.mktemp("run") / "bundle")
    before = {path.name for path in bundle.folder.iterdir()}
    calls: list[int] = []
    found = quantise(bundle, clips, *stream, advance=calls.append)
    after = {path.name for path in bundle.folder.iterdir()}
    return Run(bundle, found, calls, after - before)


def test_five_methods_are_compared_and_what_helps_is_kept(run, clips, stream):
    compared = run.found.found.compared
    assert set(compared) == {"minmax", "percentile", "entropy", "mse", "per-tensor"}
    assert len({parity.sqnr_db for parity in compared.values()}) > 1
    best = run.found.found.parity
    assert best.sqnr_db >= max(p.sqnr_db for p in compared.values())
    again = compare(
        steps_of(run.bundle, *stream, int8=run.found.graph), steps_of(run.bundle, *stream)
    )
    assert again == best  # the file is the best one, not the last one
    assert run.calls == [1] * len(clips)
    assert run.new_files == {"step.int8.onnx"}


def test_a_busy_machine_finds_the_same_graph(run, built, clips, stream, tmp_path):
    """All is recorded, rounded, corrected and searched anew while other threads want the cores."""
    bundle = without_int8(built.bundle, tmp_path / "bundle")
    done = Event()
    busy = [Thread(target=multiply_until, args=(done,), daemon=True) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        found = quantise(bundle, clips, *stream)
    finally:
        done.set()
        for thread in busy:
            thread.join()
    assert found.to_json() == run.found.to_json()
    first, second = (each.folder / found.graph.file for each in (run.bundle, bundle))
    assert sha256_of(first) == sha256_of(second)


def multiply_until(done: Event) -> None:
    matrix = np.ones((256, 256), np.float32)
    while not done.is_set():
        matrix @ matrix


def test_the_report_says_what_was_done(run):
    found, report = run.found, run.found.to_json()
    json.dumps(report)
    assert report["method"] == found.found.settings.method
    assert report["calibration_clips"] == 4
    assert report["calibration_resets"] == 3
    assert report["calibration_steps"] > 4 * 4
    assert report["int8_convolutions"] == 12 - len(report["kept_float"])
    tried = {each["name"]: each for each in report["steps_tried"]}
    assert {"weights rounded against their inputs", "corrected biases", "minmax"} <= set(tried)
    layers = report["sensitivity"]["layers"]
    assert len(layers) == 12
    assert [layer["sqnr_db"] for layer in layers] == sorted(layer["sqnr_db"] for layer in layers)
    assert {layer["top1_loss"] for layer in layers} == {None}
    assert report["sensitivity"]["accuracy_clips"] == 0
    states = [state.name_in for state in found.graph.states]
    assert list(report["state_sqnr_db"]) == states == list(report["state_kinds"])
    assert [*report["state_kinds"].values()] == ["PEM"] + ["TM"] * 4
    assert all(15 < db < 70 for db in report["state_sqnr_db"].values())


def test_convolutions_stay_float_within_the_budget(bundle, clips, stream, monkeypatch):
    monkeypatch.setattr(export.int8.search, "GOAL_DB", 100.0)
    monkeypatch.setattr(export.int8.search, "LEAST_FLOAT_GAIN_DB", 0.0)
    found = quantise(bundle, clips, *stream, budget=0.1)
    kept = found.to_json()["kept_float"]
    assert kept
    assert sum(each["macs_share"] for each in kept) <= 0.1
    assert {each["conv"] for each in kept} == set(found.placement.float_convs)
    graph = bundle.folder / found.graph.file
    listed = tuple(found.float_convs)
    assert preflight(graph, states=found.graph.states, float_convs=listed) == []
    none = quantise(bundle, clips, *stream, budget=0.0)
    assert none.to_json()["kept_float"] == []
    assert len(none.placement.convs) == 12
    assert none.found.parity.sqnr_db < found.found.parity.sqnr_db


def test_accuracy_of_the_worst_layers_where_asked(bundle, clips, stream):
    frames, _ = stream
    pictures = np.stack([frames[:4], frames[4:8]])
    found = quantise(bundle, clips, *stream, worst_on=LabelledClips(pictures, np.array([0, 1])))
    losses = [layer.top1_loss for layer in found.layers]
    assert None not in losses[:10]
    assert losses[10:] == [None, None]
    assert found.to_json()["sensitivity"]["accuracy_clips"] == 2


@pytest.mark.parametrize("budget", [5, -0.1, float("nan")])
def test_a_budget_is_a_share(budget):
    with pytest.raises(ValueError, match=r"float_budget must be in 0..1, got"):
        Int8Options(float_budget=budget)


def test_int8_runs_as_a_session_of_the_bundle(run, stream):
    frames, reset = stream
    reference = steps_of(run.bundle, *stream, int8=run.found.graph)
    with OrtStepSession(with_graph(run.bundle, run.found.graph), "int8") as session:
        rows = [
            session.step(0, frame[np.newaxis], np.full((1, 1), starts, np.float32))[0]
            for frame, starts in zip(frames, reset, strict=True)
        ]
    assert compare(np.stack(rows), reference).sqnr_db > 25


def test_scales_come_from_the_clips(bundle, clips, stream, monkeypatch):
    """Calibrating on darker clips gives smaller scales: the recording is used."""
    monkeypatch.setattr(export.int8.search, "METHODS", ("minmax",))
    real = calib.record.record

    def scales(found):
        graph = onnx.load(bundle.folder / found.graph.file).graph
        return {
            each.name: float(onnx.numpy_helper.to_array(each))
            for each in graph.initializer
            if each.name.endswith("_scale") and not each.dims
        }

    bright = scales(quantise(bundle, clips, *stream, budget=0))

    def dimmed(*given, **options):
        recording = real(*given, **options)
        for histogram in recording.histograms.values():
            histogram.largest /= 2
        return recording

    monkeypatch.setattr(export.int8.quantise, "record", dimmed)
    dark = scales(quantise(bundle, clips, *stream, budget=0))
    assert len(bright) > 12
    assert all(dark[name] == pytest.approx(bright[name] / 2) for name in bright)


def test_a_failure_leaves_no_observed_graph(bundle, clips, stream):
    gone = [replace(clips[0], path="gone.mp4")]
    before = sorted(bundle.folder.iterdir())
    with pytest.raises(DataError, match=r"1 of 1 calibration clips .*gone\.mp4"):
        quantise(bundle, gone, *stream)
    with pytest.raises(DataError, match="at least one clip"):
        quantise(bundle, [], *stream)
    assert sorted(bundle.folder.iterdir()) == before


def test_the_probe_goes_on_where_the_first_clips_cannot_be_read(bundle, clips, monkeypatch):
    gone = [replace(clips[0], path=f"gone{i}.mp4") for i in range(20)]
    step = onnx.load(bundle.graph_path("step"))
    read = []

    def counted(clip, *rest):
        found = calib.record.clip_pictures(clip, *rest)
        read.append(clip)
        return found

    monkeypatch.setattr(export.int8.quantise, "clip_pictures", counted)
    expected = export.int8.quantise._probe(step, bundle, clips)
    found = export.int8.quantise._probe(step, bundle, [*gone, *clips])
    assert np.array_equal(found.logits, expected.logits)
    read.clear()
    export.int8.quantise._probe(step, bundle, [*gone, *(20 * [clips[0]])])
    assert len(read) == 16
    with pytest.raises(DataError, match=r"none of 20 calibration clips can be read.*gone0\.mp4"):
        export.int8.quantise._probe(step, bundle, gone)
