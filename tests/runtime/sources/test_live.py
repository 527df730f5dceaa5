from __future__ import annotations

import itertools
import logging
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from runtime.errors import SourceError, SourceLostError, SourceRefusedError
from runtime.sources import capture, live
from runtime.sources.choose import open_source
from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.uri import SourceUri, parse_source
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.runtime.faults import BrokenCapture, Opener
from tests.videos import bikes_path

FAST = ReconnectRule(first_wait_s=0.01, last_wait_s=0.02)
CAMERA = SourceUri("camera", "0", "camera 0")
RTSP = parse_source("rtsp://admin:hunter2@cam/1")


def wait_until(condition):
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.01)


def first_of_connection(number, source):
    """The first frame after so many reconnects; fails if none comes in time."""
    deadline = threading.Timer(10, source.stop)
    deadline.start()
    try:
        return next(frame for frame in source if frame.connection == number)
    finally:
        deadline.cancel()


def test_a_slow_consumer_gets_the_newest_frame_and_the_rest_is_counted():
    with mjpeg_camera(free_port()) as url, open_source(url) as source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.5)
        second = next(frames)
        age_s = (time.monotonic_ns() - second.grabbed_ns) / 1e9
        counts = source.counts
    assert source.is_live
    assert second.index > first.index + 5
    assert counts.dropped >= second.index - first.index - 1
    assert age_s < 0.2
    # stream time of a camera without timestamps is grab time
    grabbed_s = (second.grabbed_ns - first.grabbed_ns) / 1e9
    assert second.stream_time_s - first.stream_time_s == pytest.approx(grabbed_s)


def test_a_camera_that_comes_back_is_read_on(caplog):
    port = free_port()
    with mjpeg_camera(port) as url:
        source = LiveSource(parse_source(url), reconnect=FAST)
        frames = iter(source)
        before = next(frames)
    with source, mjpeg_camera(port):
        after = first_of_connection(1, source)
        assert source.counts.reconnects == 1
    assert before.connection == 0
    assert after.index > before.index
    assert after.stream_time_s > before.stream_time_s
    assert "was lost" in caplog.text
    assert "is back after" in caplog.text


def test_what_is_not_there_is_refused_at_once(capfd):
    port = free_port()
    with pytest.raises(SourceError, match=rf"rtsp://\*\*\*@127.0.0.1:{port}/v cannot be opened"):
        open_source(f"rtsp://user:hunter2@127.0.0.1:{port}/v")
    with pytest.raises(SourceError, match=r"camera 99 .*no such camera \(/dev/video99\)"):
        open_source("99")
    assert capfd.readouterr() == ("", "")  # FFmpeg would print the password


def test_a_source_without_a_first_frame_is_refused():
    capture = BrokenCapture(0)
    with pytest.raises(SourceError, match="camera 0 opened but gave no frame"):
        LiveSource(CAMERA, opener=Opener(capture))
    assert capture.released


def test_a_source_lost_for_good_says_so_without_its_password(caplog):
    caplog.set_level(logging.DEBUG)
    opener = Opener(BrokenCapture(5))
    rule = ReconnectRule(first_wait_s=0.01, last_wait_s=0.01, give_up_after_s=0.1)
    with LiveSource(RTSP, reconnect=rule, opener=opener) as source:
        with pytest.raises(SourceLostError, match=r"rtsp://\*\*\*@cam/1 was lost and did not"):
            list(source)
        assert opener.attempts > 2
    assert "hunter2" not in caplog.text


def test_a_connection_that_opens_and_gives_nothing_is_tried_again():
    first, empty, third = BrokenCapture(3), BrokenCapture(0), BrokenCapture(1)
    opener = Opener(first, None, empty, third)
    with LiveSource(CAMERA, reconnect=FAST, opener=opener) as source:
        frame = first_of_connection(1, source)
        assert frame.index == 3
    assert frame.connection == source.counts.reconnects == 1
    assert first.released
    assert empty.released
    assert third.released


def test_rtsp_times_are_the_streams_own():
    with LiveSource(RTSP, opener=Opener(BrokenCapture(3, first_msec=80.0))) as source:
        times = [frame.stream_time_s for _, frame in zip(range(3), source, strict=False)]
    assert times == pytest.approx([0.08, 0.12, 0.16])


def test_what_an_rtsp_stream_held_ready_is_given_frame_by_frame_and_the_newest_wins_after():
    camera = BrokenCapture(200)
    camera.held_ready = 30
    with LiveSource(RTSP, opener=Opener(camera)) as source:
        time.sleep(0.2)  # who asks late misses nothing yet
        frames = iter(source)
        assert [next(frames).index for _ in range(30)] == list(range(30))
        assert source.counts.dropped == 0
        time.sleep(0.5)
        next(frames)
        assert next(frames).index > 35
        assert source.counts.dropped > 3


def test_who_stays_behind_a_new_connection_gets_the_newest(monkeypatch):
    monkeypatch.setattr(live, "CATCH_UP_S", 0.3)
    camera = BrokenCapture(200)
    camera.held_ready = 150
    with LiveSource(RTSP, opener=Opener(camera)) as source:
        time.sleep(0.6)
        next(iter(source))
        assert source.counts.dropped > 100


def test_a_camera_holds_nothing_ready_that_has_a_time():
    camera = BrokenCapture(200)
    camera.held_ready = 20
    with LiveSource(CAMERA, opener=Opener(camera)) as source:
        time.sleep(0.3)
        assert next(iter(source)).index >= 20


def test_stop_ends_a_waiting_consumer():
    rule = ReconnectRule(first_wait_s=30)
    with LiveSource(CAMERA, reconnect=rule, opener=Opener(BrokenCapture(1))) as source:
        threading.Timer(0.2, source.stop).start()
        started_s = time.monotonic()
        assert len(list(source)) == 1
        assert time.monotonic() - started_s < 2
    assert not any(thread.name == "read camera 0" for thread in threading.enumerate())


def test_a_source_that_is_not_there_yet_is_waited_for(caplog):
    opener = Opener(None, None, BrokenCapture(3), BrokenCapture(100))
    with LiveSource(CAMERA, reconnect=FAST, wait=True, opener=opener) as source:
        frame = next(iter(source))
        assert (frame.index, frame.connection) == (frame.index, 0)
        assert first_of_connection(1, source).connection == source.counts.reconnects == 1
    assert "camera 0 is there after" in caplog.text
    assert caplog.text.count("camera 0 cannot be opened; trying on") == 1  # not at every attempt


def test_waiting_can_be_stopped_before_the_first_frame():
    with LiveSource(CAMERA, reconnect=FAST, wait=True, opener=Opener()) as source:
        threading.Timer(0.2, source.stop).start()
        assert list(source) == []
        assert source.counts.captured == 0
        assert source.counts.attempts > 2


def test_a_refused_password_is_not_tried_again_at_once():
    attempts: list[float] = []

    def refuse(uri: SourceUri) -> BrokenCapture:
        attempts.append(time.monotonic())
        raise SourceRefusedError("cam refuses this user and password")

    rule = ReconnectRule(first_wait_s=0.01, last_wait_s=0.01, refused_wait_s=0.4)
    with LiveSource(CAMERA, reconnect=rule, wait=True, opener=refuse) as source:
        threading.Timer(0.7, source.stop).start()
        assert list(source) == []
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= 0.4


def test_a_camera_that_falls_silent_is_connected_again(monkeypatch):
    monkeypatch.setattr(capture, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr("runtime.sources.live.READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 1.0)
    flows = threading.Event()
    flows.set()
    with mjpeg_camera(free_port(), flows=flows) as url:
        with LiveSource(parse_source(url), reconnect=FAST) as source:
            next(iter(source))
            flows.clear()
            began_s = time.monotonic()
            while source.counts.attempts < 2:
                time.sleep(0.02)
                assert time.monotonic() - began_s < 8
            flows.set()
            assert first_of_connection(1, source).image_rgb.shape == (48, 64, 3)
        assert not any(thread.name.startswith("read ") for thread in threading.enumerate())


def test_pictures_that_are_none_do_no_more_than_cost_frames():
    served = itertools.count()

    def every_fifth_is_garbage(jpeg: bytes) -> bytes:
        return bytes(range(256)) if next(served) % 5 == 4 else jpeg

    camera = mjpeg_camera(free_port(), spoil=every_fifth_is_garbage)
    with camera as url, LiveSource(parse_source(url), reconnect=FAST) as source:
        deadline = threading.Timer(10, source.stop)
        deadline.start()
        levels = [int(f.image_rgb[0, 0, 0]) for _, f in zip(range(40), source, strict=False)]
        deadline.cancel()
    assert len(levels) == 40
    assert len(set(levels)) == 40
    assert not {level % 5 for level in levels} & {4}
    assert source.counts.reconnects == 0


def test_waits_double_to_a_limit_with_jitter():
    rule = ReconnectRule(first_wait_s=1.0, last_wait_s=8.0)
    for attempt, longest_s in enumerate((1, 2, 4, 8, 8, 8)):
        waits_s = {rule.wait_s(attempt) for _ in range(50)}
        assert len(waits_s) > 1
        assert all(longest_s / 2 <= wait_s <= longest_s for wait_s in waits_s)
    assert rule.wait_s(10**6) <= 8


@pytest.mark.namespaces
def test_a_camera_whose_device_appears_later_is_found(monkeypatch, caplog):
    """A real device file that is not there, is there and is no camera, and is one at last."""
    device = Path(f"/dev/tdrl-test-{os.getpid()}")
    is_camera = threading.Event()
    opens = capture._video_capture
    video = SourceUri("file", str(bikes_path()), "video")

    def opened(uri):  # there is no driver to ask
        return opens(video if is_camera.is_set() else uri)

    monkeypatch.setattr(capture, "_video_capture", opened)
    with LiveSource(parse_source(str(device)), reconnect=FAST, wait=True) as source:
        wait_until(lambda: "no such camera" in caplog.text)
        try:
            os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except OSError as err:
            pytest.skip(f"device files need root: {err.strerror}")
        try:
            wait_until(lambda: "is another program using it?" in caplog.text)
            is_camera.set()
            assert next(iter(source)).connection == 0
        finally:
            device.unlink()
    assert caplog.text.count("no such camera") == 1
    assert "is there after" in caplog.text


def test_what_only_a_new_process_mends_ends_the_source():
    captures = [BrokenCapture(3)]

    def open_once(uri: SourceUri) -> BrokenCapture:
        if not captures:
            raise SourceLostError("cam is given up")
        return captures.pop()

    with LiveSource(CAMERA, reconnect=FAST, opener=open_once) as source:
        deadline = threading.Timer(10, source.stop)
        deadline.start()
        with pytest.raises(SourceLostError, match="cam is given up"):
            list(source)
        deadline.cancel()
    assert source.counts.attempts == 1
