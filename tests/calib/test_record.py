from __future__ import annotations

import dataclasses
import tracemalloc
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import calib.record
from calib.clip_list import CalibrationClip
from calib.histogram import Histogram
from calib.record import CLIPS_A_STREAM, clip_pictures, record, reset_flags
from runtime.bundle import Bundle
from runtime.errors import DataError, SourceError, SourceLostError
from runtime.live import Stream
from runtime.sessions.ort import OrtStepSession
from runtime.sources.file import FileSource
from runtime.sources.memory import MemorySource
from tests.mini_bundle import mini_model, reference_logits, write_mini_bundle
from tests.runtime.faults import RecordingSession
from tests.videos import moving_bar, write_video

FPS = 20
FRAMES = 40
OBSERVED = ("old_vector", "vector", "old_map", "row")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """T = 8 over 1.6 s: every fourth frame of a file."""
    folder = tmp_path_factory.mktemp("record") / "bundle"
    return write_mini_bundle(folder, num_segments=8, window_s=1.6)


@pytest.fixture(scope="module")
def observed(bundle, tmp_path_factory):
    proto = onnx.load(bundle.graph_path("step"))
    for name in OBSERVED:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    path = tmp_path_factory.mktemp("observed") / "observed.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "bar.mp4"
    pictures = np.maximum(moving_bar(FRAMES), 60)  # black nowhere: only states can be zero
    return write_video(path, pictures, fps=FPS, front_header=True)


def clips_of(video, count, length_s=0.5):
    starts = [0.15 * i for i in range(count)]
    return [CalibrationClip(str(video), s, s + length_s, "x", FPS) for s in starts]


def recorded(bundle, observed, clips, **options):
    states = bundle.graph("step").states
    return record(observed, states, clips, bundle.picture, bundle.sampling, **options)


class KeepingHistogram(Histogram):
    """Keeps the values too."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def add(self, values):
        super().add(values)
        self.kept.append(values)


@given(st.integers(1, 400))
def test_half_of_the_clips_start_and_the_others_are_streams_of_eight(num_clips):
    flags = reset_flags(num_clips)
    assert len(flags) == num_clips
    half = (num_clips + 1) // 2
    assert all(flags[:half])
    streams = [i for i in range(half, num_clips) if flags[i]]
    assert streams == list(range(half, num_clips, CLIPS_A_STREAM))
    assert CLIPS_A_STREAM == 8
    longest = max((len(list(run)) for on, run in groupby(flags) if not on), default=0)
    assert longest <= 7
    assert longest == 7 or num_clips < 16


def test_every_tensor_is_what_the_live_graph_holds(bundle, observed, video, monkeypatch):
    """Frames, their order, resets and fed-back states at once, against plain numpy."""
    monkeypatch.setattr(calib.record, "Histogram", KeepingHistogram)
    clips = clips_of(video, 6)
    calls: list[int] = []
    found = recorded(bundle, observed, clips, advance=calls.append)
    frames, reset = [], []
    for clip, starts in zip(clips, reset_flags(6), strict=True):
        pictures = clip_pictures(clip, bundle.picture, bundle.sampling)
        frames += pictures
        reset += [float(starts)] + [0.0] * (len(pictures) - 1)
    assert reset_flags(6) == [True, True, True, True, False, False]
    expected = reference_logits(mini_model(3), np.stack(frames), np.array(reset, np.float32))
    rows = np.concatenate(found.histograms["row"].kept)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-4)
    assert found.num_clips == 6
    assert found.num_steps == len(frames) == 6 * 3
    assert found.num_resets == 4
    assert calls == [1] * 6


def test_states_are_recorded_where_they_are_not_zero(bundle, observed, video):
    found = recorded(bundle, observed, clips_of(video, 6)).histograms
    assert set(found) == set(OBSERVED)
    for name in ("old_vector", "old_map"):
        assert found[name].largest > 0.1
        # zero at the four resets, and only there
        share = found[name].counts[1:].sum() / found[name].num_values
        assert share == pytest.approx(14 / 18, abs=0.01)
    fixed = {"logits", "state_out_00", "state_out_01"}
    assert not fixed & set(found)


def stream_pictures(bundle, source):
    """The pictures that a live stream gives to its session."""
    seen = []

    class Seeing(RecordingSession):
        def changed(self, phase, frames, reset):
            seen.append(frames[0].copy())
            return phase, frames, reset

    session = Seeing(OrtStepSession(bundle))
    with source, session:
        list(Stream(bundle, source, session))
    return seen


def test_pictures_are_those_of_the_live_stream(bundle, video):
    clip = CalibrationClip(str(video), 0.0, FRAMES / FPS, "x", FPS)
    got = clip_pictures(clip, bundle.picture, bundle.sampling)
    expected = stream_pictures(bundle, FileSource(video))
    assert len(got) == len(expected) == FRAMES // 4
    assert np.array_equal(got, expected)


def test_a_part_of_a_file_is_a_stream_that_starts_there(bundle, video):
    clip = CalibrationClip(str(video), 0.52, 1.3, "x", FPS)
    with FileSource(video) as source:
        part = [frame for frame in source if 0.52 <= frame.stream_time_s <= 1.3]
    assert (part[0].index, part[-1].index) == (11, 26)
    got = clip_pictures(clip, bundle.picture, bundle.sampling)
    expected = stream_pictures(bundle, MemorySource(part, fps=FPS))
    assert len(got) == 4
    assert np.array_equal(got, expected)


def test_a_missing_video(bundle, observed, tmp_path):
    clips = clips_of(tmp_path / "gone.mp4", 2)
    with pytest.raises(SourceError, match=r"gone\.mp4"):
        recorded(bundle, observed, clips)


def test_a_truncated_video(bundle, observed, video, tmp_path):
    cut = tmp_path / "cut.mp4"
    data = video.read_bytes()
    cut.write_bytes(data[: int(0.7 * len(data))])
    whole = CalibrationClip(str(cut), 0.0, FRAMES / FPS, "x", FPS)
    with pytest.raises(SourceLostError, match=r"cut\.mp4 is cut off"):
        recorded(bundle, observed, [whole])


def test_no_video_at_all(bundle, observed, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(SourceError, match=r"text\.mp4"):
        recorded(bundle, observed, clips_of(tmp_path / "text.mp4", 1))


def test_a_clip_behind_the_end_of_its_file(bundle, observed, video):
    late = CalibrationClip(str(video), 90.0, 91.0, "x", FPS)
    with pytest.raises(DataError, match=r"bar\.mp4 holds no frame between 90.0 and 91.0 s"):
        recorded(bundle, observed, [late])


def test_no_clips(bundle, observed):
    with pytest.raises(DataError, match="at least one clip"):
        recorded(bundle, observed, [])


def test_a_tensor_that_is_not_finite_is_named(bundle, observed, video, tmp_path):
    proto = onnx.load(observed)
    weights = next(each for each in proto.graph.initializer if each.name == "bias")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.array([1, np.nan, 1], np.float32), "bias"))
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(DataError, match="tensor row: .* not finite"):
        recorded(bundle, tmp_path / "bad.onnx", clips_of(video, 1))


def peak_bytes(bundle: Bundle, observed: Path, clips: list[CalibrationClip]) -> int:
    tracemalloc.start()
    recorded(bundle, observed, clips)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_bounded(bundle, observed, video):
    recorded(bundle, observed, clips_of(video, 1))  # whatever is loaded once
    few = peak_bytes(bundle, observed, clips_of(video, 2))
    many = peak_bytes(bundle, observed, clips_of(video, 10))
    assert many < 1.2 * few
    found = recorded(bundle, observed, clips_of(video, 2))
    assert all(type(each) is Histogram for each in found.histograms.values())
    assert len(dataclasses.fields(found)) == 4
