from __future__ import annotations

import re
import tracemalloc
from itertools import groupby
from pathlib import Path

import cv2
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
from runtime.errors import DataError
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
    starts = [0.15 * (i % 10) for i in range(count)]
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


def test_a_folder_of_pictures_is_read_at_its_rate_without_its_optical_flow(bundle, tmp_path):
    pictures = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(1, 21)]
    for number, picture in enumerate(pictures, start=1):
        cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), picture)
        cv2.imwrite(str(tmp_path / f"flow_x_{number:05d}.png"), 255 - picture)
    clip = CalibrationClip(str(tmp_path), 0.5, 1.5, "x", 10.0)
    got = clip_pictures(clip, bundle.picture, bundle.sampling)
    levels = [int(np.median(picture)) for picture in got]
    assert levels == [60, 80, 100, 120, 140, 160]  # every second from 0.5 s on


@pytest.fixture
def gone(tmp_path):
    return CalibrationClip(str(tmp_path / "gone.mp4"), 0.0, 1.0, "x", FPS)


@pytest.fixture
def cut(video, tmp_path):
    """A clip of a truncated file that goes on behind the cut."""
    path = tmp_path / "cut.mp4"
    data = video.read_bytes()
    path.write_bytes(data[: int(0.7 * len(data))])
    return CalibrationClip(str(path), 0.0, FRAMES / FPS, "x", FPS)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("hello")
    return CalibrationClip(str(path), 0.0, 1.0, "x", FPS)


@pytest.fixture
def late(video):
    return CalibrationClip(str(video), 90.0, 91.0, "x", FPS)


BROKEN = {
    "gone": r"gone\.mp4",
    "cut": r"cut\.mp4 is cut off",
    "text": r"text\.mp4",
    "late": r"bar\.mp4 holds no frame between 90.0 and 91.0 s",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_too_many_unreadable_clips_are_refused(bundle, observed, video, kind, request):
    """One of 19 is more than 5 %, one of 20 is not."""
    clips = [*clips_of(video, 18), request.getfixturevalue(kind)]
    with pytest.raises(DataError, match=rf"1 of 19 calibration clips .* 5% .*{BROKEN[kind]}"):
        recorded(bundle, observed, clips)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_few_unreadable_clips_are_left_out_and_listed(
    bundle, observed, video, kind, request, caplog
):
    good = clips_of(video, 19)
    # in a stream of eight: the next clip continues the stream
    clips = [*good[:13], request.getfixturevalue(kind), *good[13:]]
    assert not reset_flags(20)[13]
    calls: list[int] = []
    found = recorded(bundle, observed, clips, advance=calls.append)
    assert calls == [1] * 20
    assert (found.num_clips, found.num_done) == (19, 20)
    assert len(found.unreadable) == 1
    assert found.to_json() == {
        "clips": 19,
        "steps": found.num_steps,
        "resets": found.num_resets,
        "unreadable": 1,
    }
    assert re.search(BROKEN[kind], found.unreadable[0])
    (warning,) = caplog.messages
    assert warning.startswith("1 of 20 calibration clips cannot be read")
    assert found.unreadable[0] in warning
    rows = recorded_rows(bundle, observed, clips)
    flags = reset_flags(20)
    assert np.array_equal(rows, recorded_rows(bundle, observed, good, flags[:13] + flags[14:]))


def test_behind_an_unreadable_start_the_next_clip_starts(bundle, observed, video, gone):
    good = clips_of(video, 19)
    clips = [*good[:18], gone, good[18]]
    assert reset_flags(20)[18:] == [True, False]
    found = recorded(bundle, observed, clips)
    assert found.num_resets == sum(reset_flags(20))
    assert np.array_equal(
        recorded_rows(bundle, observed, clips),
        recorded_rows(bundle, observed, good, reset_flags(20)[:18] + [True]),
    )


def recorded_rows(bundle, observed, clips, flags=None):
    """The logits of every step, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calib.record, "Histogram", KeepingHistogram)
        if flags is not None:
            patch.setattr(calib.record, "reset_flags", lambda _: flags)
        return np.concatenate(recorded(bundle, observed, clips).histograms["row"].kept)


def test_a_clip_gives_no_more_than_eight_windows(bundle, tmp_path):
    path = write_video(tmp_path / "long.mp4", moving_bar(60 * FPS // 2), fps=FPS, front_header=True)
    whole = CalibrationClip(str(path), 0.5, 30.0, "x", FPS)
    first = CalibrationClip(str(path), 0.5, 0.5 + 8 * 1.6 - 0.01, "x", FPS)
    got = clip_pictures(whole, bundle.picture, bundle.sampling)
    assert len(got) == 8 * 8
    assert np.array_equal(got, clip_pictures(first, bundle.picture, bundle.sampling))


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
    many = peak_bytes(bundle, observed, clips_of(video, 40))
    assert many < 1.2 * few
    found = recorded(bundle, observed, clips_of(video, 2))
    assert all(type(each) is Histogram for each in found.histograms.values())
