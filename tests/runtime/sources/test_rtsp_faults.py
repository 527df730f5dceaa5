"""What a network camera does to a runtime, by a real RTSP server and a connection in between."""

from __future__ import annotations

import signal
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from runtime.errors import SourceError, SourceRefusedError
from runtime.sources import capture
from runtime.sources import live as live_module
from runtime.sources.capture import open_capture
from runtime.sources.choose import open_source
from runtime.sources.gstreamer import GstCapture
from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.pipelines import rtsp_pipeline
from runtime.sources.uri import parse_source
from tests.gobject import need_gstreamer
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.tcp_proxy import tcp_proxy
from tests.videos import Coding, bikes_path, drifting_pattern, encode

pytestmark = [pytest.mark.rtsp, pytest.mark.slow]
FAST = ReconnectRule(first_wait_s=0.05, last_wait_s=0.2, refused_wait_s=0.2)
HELD_READY = 50  # FFmpeg has at most so many when it has opened the stream
LOGIN = "admin:p@ss/w:rd"
GOOD, WRONG = "admin:p%40ss%2Fw%3Ard", "admin:hunter2"


@pytest.fixture(scope="module", autouse=True)
def server_parts():
    need_rtsp_server()


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 1.5)
    monkeypatch.setattr(capture, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(live_module, "READ_TIMEOUT_S", 1.0)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("read ")]
    assert not left


def live(port):
    return LiveSource(parse_source(f"rtsp://127.0.0.1:{port}/video"), reconnect=FAST)


def test_a_slow_camera_is_open_after_a_few_frames(tmp_path, monkeypatch):
    """FFmpeg counts 20 frames to guess a rate if it may: more than 5 s of this camera."""
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 10.0)
    coding = Coding("slow.mp4", "libx264", fps=5, options={"tune": "zerolatency", "g": "5"})
    video, port = encode(tmp_path, drifting_pattern(100), coding), free_port()
    with rtsp_server(video, port):
        before_s = time.monotonic()
        opened = open_capture(parse_source(f"rtsp://127.0.0.1:{port}/video"))
        took_s = time.monotonic() - before_s
        grabbed = opened.grab()
        opened.release()
    assert grabbed
    assert took_s < 3.5


def first(source, condition, timeout_s=15.0):
    """The first frame of which the condition holds; fails if none comes in time."""
    until_s = time.monotonic() + timeout_s
    for frame in source:
        if condition(frame):
            return frame
        assert time.monotonic() < until_s, "no such frame in time"
    raise AssertionError("the source ended")


def ages_s(source, number):
    """How old each of so many frames is when it is given."""
    frames = zip(range(number), source, strict=False)
    return [(time.monotonic_ns() - frame.grabbed_ns) / 1e9 for _, frame in frames]


def test_a_server_that_is_stopped_for_a_while():
    port = free_port()
    with rtsp_server(bikes_path(), port) as server, live(port) as source:
        assert first(source, lambda frame: frame.index > HELD_READY).connection == 0
        server.send_signal(signal.SIGSTOP)
        lost_s = time.monotonic()
        while source.counts.attempts < 1:
            time.sleep(0.02)
        # one time limit, and not one for each picture that the decoder still had
        assert time.monotonic() - lost_s < 1.7
        server.send_signal(signal.SIGCONT)
        assert first(source, lambda frame: frame.connection == 1).image_rgb.shape == (272, 640, 3)


def test_a_source_that_waits_for_a_stopped_server_can_be_closed():
    port = free_port()
    with rtsp_server(bikes_path(), port) as server:
        with live(port) as source:
            first(source, lambda frame: frame.index > 2)
            server.send_signal(signal.SIGSTOP)
            while source.counts.attempts < 1:
                time.sleep(0.02)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 8


def test_a_connection_that_falls_silent_is_made_anew():
    port = free_port()
    with rtsp_server(bikes_path(), port), tcp_proxy(port) as proxy, live(proxy.port) as source:
        first(source, lambda frame: frame.index > 5)
        proxy.flows.clear()
        while source.counts.attempts < 1:
            time.sleep(0.02)
        proxy.flows.set()
        assert first(source, lambda frame: frame.connection >= 1)
        assert proxy.connections >= 2


def test_corrupt_packets_do_no_more_than_cost_frames():
    port = free_port()
    with rtsp_server(bikes_path(), port), tcp_proxy(port) as proxy, live(proxy.port) as source:
        first(source, lambda frame: frame.index > 5)
        proxy.spoilt_share = 0.002
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s:
            time.sleep(0.05)
        proxy.spoilt_share = 0.0
        seen = source.counts.captured
        frame = first(source, lambda frame: frame.index > seen + 20)
        assert frame.image_rgb.shape == (272, 640, 3)


def test_a_slow_link_keeps_the_connection_and_its_frames_are_new():
    port = free_port()
    with rtsp_server(bikes_path(), port), tcp_proxy(port) as proxy, live(proxy.port) as source:
        first(source, lambda frame: frame.index > 2)
        proxy.pause_s = 0.1  # 40 KiB a second
        assert max(ages_s(source, 10)) < 0.3
        assert source.counts.reconnects == 0


def two_sizes(path):
    """An H.264 stream whose pictures change their size after a second, as MPEG-TS."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets = []
        for part, (height_px, width_px) in enumerate([(64, 96), (96, 160)]):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
            encoder.options = {"tune": "zerolatency", "g": "5"}
            for number, picture in enumerate(drifting_pattern(25, height_px, width_px)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = 25 * part + number
                packets += encoder.encode(frame)
            packets += encoder.encode(None)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    return path


def test_a_size_that_changes_within_the_stream(tmp_path):
    path, port = two_sizes(tmp_path / "sizes.ts"), free_port()
    with open_source(str(path)) as source:
        frames = list(source)
    # OpenCV scales what follows to the size of the first picture
    assert (len(frames), {frame.image_rgb.shape for frame in frames}) == (50, {(64, 96, 3)})
    np.testing.assert_allclose([f.stream_time_s for f in frames], np.arange(50) / 25, atol=1e-6)
    with rtsp_server(path, port), live(port) as source:
        frame = first(source, lambda frame: frame.index > 35)
        assert (frame.connection, frame.image_rgb.shape) == (0, (64, 96, 3))
    with rtsp_server(path, port):
        captured = opened_by_gstreamer(port)
        shapes = []
        while captured.grab():
            shapes.append(captured.retrieve()[1].shape)
        captured.release()
    assert set(shapes) == {(64, 96, 3), (96, 160, 3)}


def test_another_codec_after_a_restart(tmp_path):
    pictures = drifting_pattern(50, 64, 96)
    path, port = tmp_path / "jpeg.avi", free_port()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 64))
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()
    with rtsp_server(bikes_path(), port):
        source = live(port)
        first(source, lambda frame: frame.index > 2)
    with source, rtsp_server(path, port):
        frame = first(source, lambda frame: frame.connection == 1)
        assert frame.image_rgb.shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("login", "path", "kind", "message"),
    [
        ("", "video", SourceRefusedError, "wants user and password"),
        (f"{WRONG}@", "video", SourceRefusedError, "refuses this user and password"),
        (f"{GOOD}@", "other", SourceError, "answers 404; check the path"),
    ],
)
def test_a_refused_password_is_said_and_not_shown(login, path, kind, message, capfd):
    port = free_port()
    with rtsp_server(bikes_path(), port, LOGIN):
        with pytest.raises(kind, match=message) as caught:
            open_source(f"rtsp://{login}127.0.0.1:{port}/{path}")
        with open_source(f"rtsp://{GOOD}@127.0.0.1:{port}/video") as source:
            assert next(iter(source)).image_rgb.shape == (272, 640, 3)
    for secret in ("hunter2", "p%40ss", "p@ss"):
        assert secret not in str(caught.value) + "".join(capfd.readouterr())


def test_a_jetson_that_cannot_decode_says_what_can(monkeypatch):
    need_gstreamer("rtspsrc")
    monkeypatch.setattr(capture, "has_jetson_decoder", lambda: True)
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/video"
    with pytest.raises(SourceError, match="nobody listens"):
        open_source(url)
    with rtsp_server(bikes_path(), port):
        with pytest.raises(SourceError, match='no element "nvvidconv".*; --software-decode takes'):
            open_source(url)
        with open_source(url, software_decode=True) as source:
            assert next(iter(source)).image_rgb.shape == (272, 640, 3)


def opened_by_gstreamer(port, login="", path="video"):
    need_gstreamer("rtspsrc", "decodebin", "avdec_h264")
    pipeline = rtsp_pipeline(f"rtsp://{login}127.0.0.1:{port}/{path}", hardware=False)
    return GstCapture(pipeline, "cam", open_timeout_s=5, read_timeout_s=1)


def test_gstreamer_reads_the_same_pictures_with_the_streams_own_times():
    port = free_port()
    with rtsp_server(bikes_path(), port, LOGIN):
        captured = opened_by_gstreamer(port, f"{GOOD}@")
        stamps = []
        for _ in range(10):
            assert captured.grab()
            stamps.append(captured.get(cv2.CAP_PROP_POS_MSEC))
        picture = captured.retrieve()[1].astype(int)
        captured.release()
    steps = np.diff(stamps) / 40  # frames that nobody took in time are left out
    assert steps.min() > 0.9
    np.testing.assert_allclose(steps, np.round(steps), atol=0.02)
    video = open_capture(parse_source(str(bikes_path())))
    distances = []
    while video.grab():
        distances.append(np.abs(video.retrieve()[1].astype(int) - picture).mean())
    assert min(distances) < 2  # another decoder's and another conversion's rounding
    assert np.median(distances) > 10


@pytest.mark.parametrize(
    ("login", "path", "kind", "message"),
    [
        ("", "video", SourceRefusedError, "refuses this user and password"),
        (f"{WRONG}@", "video", SourceRefusedError, "refuses this user and password"),
        (f"{GOOD}@", "other", SourceError, "cannot be opened"),
    ],
)
def test_gstreamer_says_why_it_cannot_open(login, path, kind, message, capfd):
    port = free_port()
    with rtsp_server(bikes_path(), port, LOGIN), pytest.raises(kind, match=message) as caught:
        opened_by_gstreamer(port, login, path)
    assert "hunter2" not in str(caught.value) + "".join(capfd.readouterr())


def test_gstreamer_gives_up_on_a_stopped_and_on_a_dead_server():
    port = free_port()
    with rtsp_server(bikes_path(), port) as server:
        stopped = opened_by_gstreamer(port)
        assert stopped.grab()
        server.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        while stopped.grab():
            assert time.monotonic() - began_s < 5
        stopped.release()
        server.send_signal(signal.SIGCONT)
        dying = opened_by_gstreamer(port)
        assert dying.grab()
    began_s = time.monotonic()
    while dying.grab():
        assert time.monotonic() - began_s < 5
    # a server that dies this early locks rtspsrc up more often than not
    began_s = time.monotonic()
    dying.release()
    assert time.monotonic() - began_s < 3


def test_the_gstreamer_lane_reconnects_as_the_other_does():
    port = free_port()
    uri = parse_source(f"rtsp://127.0.0.1:{port}/video")
    with rtsp_server(bikes_path(), port):
        source = LiveSource(uri, reconnect=FAST, opener=lambda uri: opened_by_gstreamer(port))
        before = first(source, lambda frame: frame.index > 5)
    with source, rtsp_server(bikes_path(), port):
        after = first(source, lambda frame: frame.connection == 1)
    assert after.index > before.index
