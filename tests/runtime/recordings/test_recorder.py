"""A recorder fed by hand: what a camera, a disk and a schedule do to it."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from runtime.actions import Action
from runtime.events import Event
from runtime.recordings import recorder as recorder_module
from runtime.recordings import writer
from runtime.recordings.manifest import read_manifest
from runtime.recordings.recorder import Recorder, RecordSpan
from runtime.recordings.store import RecordingStore
from runtime.segments import Tick
from runtime.sources.frame import Frame
from runtime.stepper import Moment
from tests.full_disk import full_disk
from tests.mini_bundle import write_mini_bundle

FPS = 20
EVERY = 5  # a tick each quarter second, of one phase


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)


class Camera:
    """Shows a recorder frames as a stream would."""

    def __init__(self, recorder, *, noise=False):
        self._recorder = recorder
        self._number = 0
        self._start = 0
        self._shift_s = 0.0
        self._rng = np.random.default_rng(0) if noise else None

    @property
    def now_s(self):
        return self._number / FPS + self._shift_s

    def run(self, seconds):
        for _ in range(round(seconds * FPS)):
            self.show()

    def show(self, *events):
        since = self._number - self._start
        tick = None
        if since % EVERY == 0:
            index = since // EVERY
            # the camera is half a frame behind its ticks
            tick = Tick(index, 0, self.now_s - 0.025, 0, index == 0, is_gap=False)
        image = np.full((32, 32, 3), self._number % 256, np.uint8)
        if self._rng is not None:
            image = self._rng.integers(0, 256, (64, 64, 3), np.uint8)
        frame = Frame(image, self._number, self.now_s, 0)
        self._recorder.see(Moment(frame, None, events, tick))
        self._number += 1

    def restart(self, reason, *, at_s):
        """The next frame is the first of a new schedule."""
        self._start = self._number
        self._shift_s = at_s - self._number / FPS
        event = Event(
            kind="reset",
            source="camera",
            stream_time_s=at_s,
            monotonic_ns=0,
            utc="",
            details={"reason": reason},
        )
        self.show(event)

    def act(self, seconds, label="a"):
        """An action of some seconds, starting now."""
        start_s = self.now_s
        action = Action(label, 0, start_s, None, 0.5, 1, start_s)
        self._recorder.report(action)
        self.run(seconds)
        ended = replace(action, end_s=self.now_s, peak_prob=0.8, reported_s=self.now_s)
        self._recorder.report(ended)


def open_recorder(store, bundle, *, before_s=1.5, after_s=0.5, waits=True):
    span = RecordSpan(before_s, after_s)
    return Recorder(store, bundle, span, source="camera", is_live=True, waits=waits, phases=1)


def kept_in(root):
    folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return [read_manifest(folder) for folder in folders]


def test_a_recording_spans_before_and_after(bundle, tmp_path):
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder)
            camera.run(5.1)
            camera.act(1.0)
            camera.run(5.0)
        (kept,) = kept_in(tmp_path)
    assert (kept.label, kept.start_s, kept.end_s, kept.peak_prob) == ("a", 5.1, 6.1, 0.8)
    assert kept.times_s[0] == pytest.approx(3.475), "the tick's time, not the frame's"
    assert kept.times_s[1] == pytest.approx(3.6), "the model did not use every frame"
    assert kept.times_s[-1] == pytest.approx(6.6)
    assert kept.lost_frames == 0


def test_two_actions_in_a_row_are_two_recordings_with_common_frames(bundle, tmp_path):
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder)
            camera.run(4.0)
            camera.act(1.0)
            camera.act(1.0, "b")
        first, second = kept_in(tmp_path)
    assert (first.label, second.label) == ("a", "b")
    assert first.times_s[-1] == pytest.approx(5.5)
    assert second.times_s[0] == pytest.approx(3.475)
    assert second.end_s == second.times_s[-1] + 0.05, "the stream ended with the action"


@pytest.mark.parametrize("reason", ["reconnect", "time_went_back", "scene_cut"])
def test_a_restart_ends_a_recording_and_what_was_before_is_forgotten(bundle, tmp_path, reason):
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder)
            camera.run(3.0)
            camera.act(1.0)
            camera.restart(reason, at_s=0.5)
            camera.run(1.0)
            camera.act(0.5, "b")
            camera.run(2)
        first, second = kept_in(tmp_path)
    assert first.times_s[-1] == pytest.approx(3.95)
    assert list(first.times_s) == sorted(first.times_s)
    assert second.times_s[0] == pytest.approx(0.475)


def test_a_long_action_is_cut(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LONGEST_S", 4.0)
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder)
            camera.run(3.0)
            camera.act(60.0)
            camera.act(1.0, "b")
        first, second = kept_in(tmp_path)
    assert first.end_s is None
    assert first.times_s[-1] - first.times_s[0] == pytest.approx(4.0, abs=0.11)
    assert second.end_s is not None


def test_one_that_leaves_no_room_is_cut(bundle, tmp_path):
    with RecordingStore(tmp_path, max_bytes=200_000) as store:
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder, noise=True)
            camera.run(3.0)
            camera.act(20.0)
        (kept,) = kept_in(tmp_path)
    assert kept.end_s is None
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")) <= 50_000


def test_a_slow_disk_costs_frames_and_not_the_loop(bundle, tmp_path, monkeypatch, caplog):
    gate = threading.Event()
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *given: gate.wait(20) and encode(*given))
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        with open_recorder(store, bundle, waits=False) as recorder:
            recorder._inbox._max_bytes = 20 * 32 * 32 * 3
            camera = Camera(recorder)
            camera.run(3.0)  # 37 are to be kept, nobody takes them, and 20 fit
            gate.set()
            while recorder._inbox._items:
                pass
            camera.act(1.0)
        lost = recorder.lost_frames
        (kept,) = kept_in(tmp_path)
    assert 15 <= lost <= 17
    assert kept.lost_frames == lost
    assert recorder.counts()["record_frames_lost"] == lost
    said = [record for record in caplog.records if "slower than the camera" in record.message]
    assert len(said) == 1


def test_a_full_disk_and_a_lost_folder_are_got_over(bundle, tmp_path, caplog):
    root = tmp_path / "recordings"
    with RecordingStore(root, max_bytes=10**8) as store, caplog.at_level(logging.INFO):
        with open_recorder(store, bundle) as recorder:
            camera = Camera(recorder, noise=True)
            camera.run(3.0)
            with full_disk(1000):
                for _ in range(3):
                    camera.act(0.5)
                camera.run(1.0)
                while recorder._inbox._items:
                    pass
            camera.act(0.5)
            camera.run(1.0)
            while store.counts.written < 1:
                pass
            shutil.rmtree(root)
            camera.act(0.5)
            camera.run(1.0)
            while store.counts.lost < 4:
                pass
            root.mkdir()
            camera.act(0.5, "b")
        counts = store.counts
        assert [kept.label for kept in kept_in(root)] == ["b"]
    assert (counts.written, counts.lost) == (2, 4)
    said = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert [line.split(": ", 1)[1][:20] for line in said] == [
        "no recording can be ",
        "written again, 3 rec",
        "no recording can be ",
        "written again, 1 rec",
    ]


@pytest.mark.parametrize("gets_room", [False, True])
def test_a_run_without_any_of_its_recordings_has_failed(bundle, tmp_path, gets_room):
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        recorder = open_recorder(store, bundle)
        camera = Camera(recorder, noise=True)
        camera.run(3.0)
        with full_disk(1000):
            camera.act(0.5)
            camera.run(1.0)
            while store.counts.lost < 1:
                pass
        if gets_room:
            camera.act(0.5)
            camera.run(1.0)
        recorder.close()
    told = r"all recordings of .* are lost: File too large; make room there, or give --record"
    assert bool(re.search(told, str(recorder.failure))) != gets_room
    assert (recorder.failure is None) == gets_room


def test_a_thread_that_died_does_not_stop_a_file(bundle, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(writer.RecordingWriter, "take", broken)
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        recorder = open_recorder(store, bundle)
        recorder._inbox._max_bytes = 10 * 32 * 32 * 3
        Camera(recorder).run(5.0)
        recorder.close()
    assert recorder.lost_frames > 0


def test_a_disk_that_hangs_at_the_end_is_waited_for_a_while(bundle, tmp_path, monkeypatch, caplog):
    gate = threading.Event()
    monkeypatch.setattr(recorder_module, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(writer.RecordingWriter, "finish", lambda _: gate.wait(20))
    with RecordingStore(tmp_path, max_bytes=10**8) as store:
        recorder = open_recorder(store, bundle)
        recorder.close()
    gate.set()
    assert "the last recordings were not written within 0.1 s" in caplog.text


def test_what_the_model_used_keeps_its_colours(monkeypatch):
    """Neighbours of two colours and one brightness: what halved colour loses."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, ::2], picture[:, 1::2] = (200, 60, 60), (60, 131, 60)

    def error(**how):
        image = cv2.imdecode(np.frombuffer(writer._jpeg_of(picture, **how), np.uint8), 1)
        assert image is not None
        return np.abs(image[..., ::-1].astype(int) - picture).mean()

    assert error(is_used=True) < 5 < 30 < error(is_used=False)
    monkeypatch.delattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR")  # OpenCV 4.6
    assert error(is_used=True) > 30


def test_spans_are_checked():
    with pytest.raises(ValueError, match="before_s must be >= 0, got -1"):
        RecordSpan(-1)
    with pytest.raises(ValueError, match="after_s must be >= 0, got nan"):
        RecordSpan(1, float("nan"))
