"""What a recording costs twice: nothing. What an interruption costs: at most a stream of clips."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import calib.cache
import calib.record
from calib.cache import RecordingFile, default_cache_dir, recording_key
from calib.clip_list import CalibrationClip
from calib.histogram import Histogram
from calib.record import record
from calib.recording import Recording, bytes_of, recording_of
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from tests.full_disk import full_disk
from tests.mini_bundle import write_mini_bundle
from tests.videos import moving_bar, write_video

ROOT = Path(__file__).resolve().parents[2]
FPS = 20
NUM_CLIPS = 30  # 15 streams of one clip, then 8 and 7
KEPT_AFTER = (8, 23, 30)  # clips: at an end of a stream, eight or more after the last time


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "bundle"
    return write_mini_bundle(folder, num_segments=8, window_s=1.6)


@pytest.fixture(scope="module")
def observed(bundle):
    proto = onnx.load(bundle.graph_path("step"))
    for name in ("old_vector", "vector", "old_map", "row"):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    path = bundle.folder.parent / "observed.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    video = tmp_path_factory.mktemp("video") / "bar.mp4"
    write_video(video, np.maximum(moving_bar(40), 60), fps=FPS, front_header=True)
    return [
        CalibrationClip(str(video), 0.1 * (i % 15), 0.1 * (i % 15) + 0.3, "x", FPS)
        for i in range(NUM_CLIPS)
    ]


def recorded(bundle, observed, clips, **options):
    states = bundle.graph("step").states
    return record(observed, states, clips, bundle.picture, bundle.sampling, **options)


@pytest.fixture(scope="module")
def whole(bundle, observed, clips):
    """What an uninterrupted run without a cache records."""
    return recorded(bundle, observed, clips)


def assert_same(found, expected):
    assert bytes_of(found) == bytes_of(expected)


def no_session(*_):
    raise AssertionError("nothing should be streamed")


# --- the file


def some_recording():
    histograms = {"a": Histogram(), "b / ü": Histogram(), "empty": Histogram()}
    histograms["a"].add(np.array([0.25, -3, 0.7], np.float32))
    histograms["b / ü"].add(np.zeros(5, np.float32))
    return Recording(histograms, 3, 24, 2, ("clip \udcff cannot be read", "nor this"))


def test_a_recording_comes_back_from_its_bytes():
    recording = some_recording()
    found = recording_of(bytes_of(recording))
    assert replace(found, histograms={}) == replace(recording, histograms={})
    assert list(found.histograms) == list(recording.histograms)
    for name, histogram in recording.histograms.items():
        other = found.histograms[name]
        assert np.array_equal(other.counts, histogram.counts)
        assert {**vars(other), "counts": None} == {**vars(histogram), "counts": None}
        assert [type(value) for value in vars(other).values()] == [float, np.ndarray, float, int]
    found.histograms["a"].add(np.array([9], np.float32))  # it can be counted on
    assert found.num_done == 5


def damaged(data, how):
    if how == "cut":
        return data[: len(data) // 2]
    if how == "flipped":
        return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]
    return {"empty": b"", "text": b"hello", "foreign": b"x" * 32 + data[32:]}[how]


DAMAGES = ("cut", "flipped", "empty", "text", "foreign")


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_bytes_are_refused(how):
    with pytest.raises(ValueError, match="checksum"):
        recording_of(damaged(bytes_of(some_recording()), how))


# --- the key


def test_the_key_holds_all_that_a_recording_depends_on(bundle, observed, clips, tmp_path):
    video = tmp_path / "own.mp4"
    video.write_bytes(Path(clips[0].path).read_bytes())
    os.utime(video, ns=(10**18, 10**18))
    own = replace(clips[0], path=str(video))
    base = (observed, bundle.graph("step").states, [own, clips[1]], bundle.picture, bundle.sampling)

    def key(**changed):
        names = ("observed", "states", "clips", "picture", "sampling")
        return recording_key(*{**dict(zip(names, base, strict=True)), **changed}.values())

    other_graph = tmp_path / "other.onnx"
    other_graph.write_bytes(observed.read_bytes() + b"\0")
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(observed.read_bytes())
    rule = PictureRule(height_px=bundle.picture.height_px + 1, width_px=bundle.picture.width_px)
    sampling = bundle.sampling
    keys = [
        key(),
        key(observed=other_graph),
        key(states=base[1][:1]),
        key(clips=[clips[1], own]),
        key(clips=[own]),
        key(clips=[replace(own, end_s=own.end_s + 0.01), clips[1]]),
        key(clips=[replace(own, path="gone.mp4"), clips[1]]),
        key(picture=rule),
        key(sampling=replace(sampling, window_s=sampling.window_s + 0.25)),
        key(sampling=replace(sampling, num_segments=sampling.num_segments + 1)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calib.cache, "_source_digest", lambda _: "newer code")
        keys.append(key())
    assert key() == keys[0] == key(observed=copy)
    assert key(sampling=replace(sampling, consensus_len=sampling.consensus_len + 1)) == keys[0]
    os.utime(video, ns=(10**18, 10**18 + 1))
    keys.append(key())
    video.write_bytes(video.read_bytes() + b"\0")
    os.utime(video, ns=(10**18, 10**18))
    keys.append(key())
    assert len(set(keys)) == len(keys) == 13


def test_the_default_folder_lies_beside_the_engines(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_cache_dir() == Path("/var/cache/me/tdrl-edge/calibration")


# --- a second run


def test_the_same_is_not_streamed_twice(bundle, observed, clips, whole, tmp_path, monkeypatch):
    folder = tmp_path / "made" / "here"
    first = recorded(bundle, observed, clips, cache_dir=folder)
    assert first.num_known == 0
    (file,) = folder.iterdir()
    monkeypatch.setattr(calib.record, "_session", no_session)
    monkeypatch.setattr(calib.record, "clip_pictures", no_session)
    calls: list[int] = []
    found = recorded(bundle, observed, clips, cache_dir=folder, advance=calls.append)
    assert_same(found, whole)
    assert_same(first, whole)
    assert found.num_known == NUM_CLIPS
    assert calls == [NUM_CLIPS]
    assert list(folder.iterdir()) == [file]
    with pytest.raises(AssertionError, match="nothing should be streamed"):
        recorded(bundle, observed, clips[1:], cache_dir=folder)


def test_unreadable_clips_are_told_again(bundle, observed, clips, tmp_path, caplog):
    some = [*clips, replace(clips[0], path=str(tmp_path / "gone.mp4"))]
    first = recorded(bundle, observed, some, cache_dir=tmp_path / "cache")
    again = recorded(bundle, observed, some, cache_dir=tmp_path / "cache")
    assert first.unreadable == again.unreadable
    assert (again.num_clips, again.num_known) == (NUM_CLIPS, NUM_CLIPS + 1)
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == caplog.messages[1]
    assert "gone.mp4" in caplog.messages[0]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_costs_one_warning(bundle, observed, clips, whole, tmp_path, caplog, how):
    recorded(bundle, observed, clips, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(damaged(good, how))
    assert_same(recorded(bundle, observed, clips, cache_dir=tmp_path), whole)
    (warning,) = caplog.messages
    assert str(file) in warning
    assert "recording anew" in warning
    assert file.read_bytes() == good
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_costs_one_warning(bundle, observed, clips, whole, tmp_path, caplog):
    with full_disk(20_000):  # of 66 kB
        found = recorded(bundle, observed, clips, cache_dir=tmp_path)
    assert_same(found, whole)
    (warning,) = caplog.messages
    assert "cannot be written" in warning
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_keeps_what_is_there(bundle, observed, clips, whole, tmp_path):
    interrupted(bundle, observed, clips, tmp_path, after=10)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    with full_disk(20_000):
        assert_same(recorded(bundle, observed, clips, cache_dir=tmp_path), whole)
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_made_costs_one_warning(
    bundle, observed, clips, whole, tmp_path, caplog
):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below"):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RecordingFile, "load", lambda _: None)
            found = recorded(bundle, observed, clips, cache_dir=tmp_path / name)
        assert_same(found, whole)
        assert len(caplog.messages) == 1
    assert (tmp_path / "file").read_text() == "mine"


# --- an interrupted run


def interrupted(bundle, observed, clips, folder, after):
    """Ctrl-C after so many clips."""
    left = [after]

    def advance(count):
        left[0] -= count
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(bundle, observed, clips, cache_dir=folder, advance=advance)


@pytest.mark.parametrize("after", [1, 7, 9, 15, 16, 22, 24, 29])
def test_a_run_after_ctrl_c_goes_on(bundle, observed, clips, whole, tmp_path, after):
    interrupted(bundle, observed, clips, tmp_path, after)
    calls: list[int] = []
    found = recorded(bundle, observed, clips, cache_dir=tmp_path, advance=calls.append)
    assert_same(found, whole)
    # the clip that was interrupted is not kept yet, even where it ends a stream
    known = max((number for number in KEPT_AFTER if number < after), default=0)
    assert found.num_known == known
    assert calls == ([known] if known else []) + [1] * (NUM_CLIPS - known)


def test_an_unreadable_clip_before_the_interruption_is_remembered(
    bundle, observed, clips, tmp_path
):
    some = [replace(clips[0], path=str(tmp_path / "gone.mp4")), *clips]
    expected = recorded(bundle, observed, some)
    interrupted(bundle, observed, some, tmp_path / "cache", after=20)
    found = recorded(bundle, observed, some, cache_dir=tmp_path / "cache")
    assert found.num_known > 0
    assert_same(found, expected)
    assert len(found.unreadable) == 1


CHILD = """
import hashlib, json, os, signal, sys
from pathlib import Path
from calib.clip_list import read_clip_list
from calib.record import record
from calib.recording import bytes_of
from runtime.bundle import load_bundle
folder, observed, clips, cache, kill_after = sys.argv[1:]
bundle, left = load_bundle(Path(folder)), int(kill_after)

def advance(count):
    global left
    left -= count
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

sys.stdin.read(1)  # all begin together
found = record(
    Path(observed), bundle.graph("step").states, read_clip_list(Path(clips)), bundle.picture,
    bundle.sampling, advance=advance, cache_dir=Path(cache),
)
print(hashlib.sha256(bytes_of(found)).hexdigest(), found.num_known)
"""


def child(bundle, observed, clips, folder, kill_after=-1):
    """A process that records as soon as it gets a byte."""
    listed = folder.parent / "clips.jsonl"
    calib.clip_list.write_clip_list(listed, clips)
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-c", CHILD, str(bundle.folder), str(observed)),
            *(str(listed), str(folder), str(kill_after)),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on(bundle, observed, clips, whole, tmp_path):
    for kill_after, kept in ((10, 8), (25, 23)):
        with child(bundle, observed, clips, tmp_path / "cache", kill_after) as process:
            process.communicate("x")
        assert process.returncode == -signal.SIGKILL
        (file,) = (tmp_path / "cache").glob("*.recording")
        assert recording_of(file.read_bytes()).num_done == kept
    found = recorded(bundle, observed, clips, cache_dir=tmp_path / "cache")
    assert found.num_known == 23
    assert_same(found, whole)


def test_two_processes_that_write_the_same_cache(bundle, observed, clips, whole, tmp_path):
    folder = tmp_path / "cache"
    processes = [child(bundle, observed, clips, folder) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [err for _, err in said] == ["", ""]
    assert len({out.split()[0] for out, _ in said}) == 1
    (file,) = folder.iterdir()
    assert_same(recording_of(file.read_bytes()), whole)


WRITER = """
import sys
from pathlib import Path
from calib.cache import RecordingFile
from calib.recording import recording_of
recording = recording_of(Path(sys.argv[1]).read_bytes())
file = RecordingFile(Path(sys.argv[2]), "0" * 64)
for _ in range(300):
    file.save(recording)
"""


def test_a_reader_never_sees_half_a_file(whole, tmp_path, caplog):
    source = tmp_path / "source"
    source.write_bytes(bytes_of(whole))
    command = [sys.executable, "-c", WRITER, str(source), str(tmp_path / "cache")]
    file, reads = RecordingFile(tmp_path / "cache", "0" * 64), 0
    writers = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        found = file.load()
        if found is not None:
            assert found.num_done == NUM_CLIPS
            reads += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert reads > 10
    assert caplog.messages == []


def test_without_a_cache_nothing_is_written(bundle, observed, clips, monkeypatch):
    def no_file(*_):
        raise AssertionError("nothing should be kept")

    monkeypatch.setattr(calib.record, "RecordingFile", no_file)
    assert recorded(bundle, observed, clips[:2]).num_known == 0


def test_a_longer_sampling_is_another_recording(bundle, observed, clips, tmp_path):
    recorded(bundle, observed, clips, cache_dir=tmp_path)
    other = SamplingContract(num_segments=8, window_s=3.2, consensus_len=8)
    states = bundle.graph("step").states
    found = record(observed, states, clips, bundle.picture, other, cache_dir=tmp_path)
    assert found.num_known == 0
    assert len(list(tmp_path.iterdir())) == 2
