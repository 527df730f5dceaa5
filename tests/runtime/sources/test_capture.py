from __future__ import annotations

import os

import cv2
import pytest

from runtime.errors import SourceError, SourceLostError
from runtime.sources import capture
from runtime.sources.capture import ask_for, explain_unusable, open_capture
from runtime.sources.choose import open_source
from runtime.sources.gstreamer import warn_once
from runtime.sources.pipelines import usb_pipeline
from runtime.sources.uri import Wish, parse_source
from tests.gobject import need_gstreamer

MJPG = cv2.VideoWriter.fourcc(*"MJPG")


class Camera:
    """What cv2 shows of a V4L2 camera: it takes what it can and keeps the rest as it was."""

    def __init__(self, **cannot: float) -> None:
        self.asked: list[tuple[int, float]] = []
        self._cannot = {getattr(cv2, f"CAP_PROP_{name.upper()}"): v for name, v in cannot.items()}

    def set(self, key: int, value: float) -> bool:
        self.asked.append((key, value))
        return key not in self._cannot

    def get(self, key: int) -> float:
        return self._cannot.get(key, dict(self.asked).get(key, 0.0))


def test_the_format_is_asked_for_before_size_and_rate(caplog):
    camera = Camera()
    ask_for(camera, Wish(1280, 720, 30.0, "MJPG"), "cam")  # type: ignore[arg-type]
    assert camera.asked == [
        (cv2.CAP_PROP_BUFFERSIZE, 2),
        (cv2.CAP_PROP_FOURCC, MJPG),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30.0),
    ]
    assert caplog.text == ""


def test_without_a_wish_a_camera_keeps_its_format():
    camera = Camera()
    ask_for(camera, Wish(), "cam")  # type: ignore[arg-type]
    assert camera.asked == [(cv2.CAP_PROP_BUFFERSIZE, 2)]


def test_what_a_camera_gives_instead_is_said(caplog):
    camera = Camera(fourcc=0.0, frame_height=480.0, fps=29.97)
    ask_for(camera, Wish(640, 720, 30.0, "MJPG"), "cam")  # type: ignore[arg-type]
    assert "cam gives height 480 instead of 720, another format than MJPG" in caplog.text


def test_a_pipe_would_block_for_ever_and_is_refused(tmp_path):
    os.mkfifo(tmp_path / "video.mp4")
    with pytest.raises(SourceError, match="is no regular file"):
        open_source(str(tmp_path / "video.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/dev/no-camera", r"no such camera \(/dev/no-camera\); cameras here: .*--list-cameras"),
        ("/dev/shm", "is no camera device"),
        ("a" * 300, "File name too long"),
        ("file.mp4/inside", "cannot be opened: "),
        ("me:hunter2@cam/1", r"\*\*\*@cam/1 cannot be opened: no such file \(\*\*\*@cam/1\)"),
    ],
)  # fmt: skip
def test_what_can_be_seen_without_opening(text, message):
    with pytest.raises(SourceError, match=message) as caught:
        explain_unusable(parse_source(text))
    assert "hunter2" not in str(caught.value)


def test_a_rate_is_for_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"\?fps= is for a folder of pictures"):
        open_source(f"{tmp_path}/a.mp4?fps=5")


def test_v4l2_waits_no_longer_than_other_sources(monkeypatch):
    monkeypatch.delenv("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", raising=False)
    with pytest.raises(SourceError):
        open_capture(parse_source("99"))
    assert os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] == "2"


@pytest.mark.parametrize("own", [None, "rtsp_transport;udp"])
def test_only_network_cameras_change_how_ffmpeg_opens(monkeypatch, tmp_path, own):
    variable = capture.FFMPEG_OPTIONS_VARIABLE
    monkeypatch.delenv(variable, raising=False)
    if own is not None:
        monkeypatch.setenv(variable, own)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError):
        open_capture(parse_source(str(tmp_path / "a.mp4")))
    assert os.environ.get(variable) == own
    monkeypatch.setattr(capture, "check_address", lambda *_: None)
    with pytest.raises(SourceError):
        open_capture(parse_source("rtsp://127.0.0.1:1/live"))
    assert os.environ[variable] == (own or capture.NETWORK_OPTIONS)


JPEG_CAMERA = "2?width=1280&height=720&fps=30&format=MJPG"


@pytest.fixture
def jpeg_decoder(monkeypatch):
    monkeypatch.setattr(capture, "has_jetson_jpeg_decoder", lambda: True)
    warn_once.cache_clear()


@pytest.mark.parametrize("where", ["2", "/dev/video2"])
def test_a_jetson_decodes_a_cameras_motion_jpeg_in_hardware(jpeg_decoder, where):
    uri = parse_source(JPEG_CAMERA.replace("2", where, 1))
    pipeline = capture._pipeline(uri, software_decode=False)
    assert pipeline == usb_pipeline("/dev/video2", Wish(1280, 720, 30.0, "MJPG"))


def test_opencv_reads_every_other_camera(jpeg_decoder, monkeypatch):
    for text in ("2", "2?format=YUYV", "2?width=1280&height=720"):
        assert capture._pipeline(parse_source(text), software_decode=False) is None
    assert capture._pipeline(parse_source(JPEG_CAMERA), software_decode=True) is None
    monkeypatch.setattr(capture, "has_jetson_jpeg_decoder", lambda: False)
    assert capture._pipeline(parse_source(JPEG_CAMERA), software_decode=False) is None


@pytest.mark.rtsp
def test_a_camera_whose_pipeline_fails_is_read_by_opencv(jpeg_decoder, caplog):
    need_gstreamer("v4l2src")
    for _ in range(2):
        with pytest.raises(SourceError, match="/dev/null cannot be opened; is another program"):
            open_capture(parse_source("/dev/null?format=MJPG"))  # it is no camera for either
    assert caplog.text.count('no element "nvv4l2decoder"') == 1
    assert "OpenCV reads it, on the CPU" in caplog.text


@pytest.mark.parametrize("text", ["/dev/null?format=MJPG", "rtsp://127.0.0.1/1"])
def test_nothing_else_is_tried_where_only_a_new_process_helps(jpeg_decoder, monkeypatch, text):
    def give_up(*_, **__):
        raise SourceLostError("cam is given up")

    monkeypatch.setattr(capture, "GstCapture", give_up)
    monkeypatch.setattr(capture, "has_jetson_decoder", lambda: True)
    monkeypatch.setattr(capture, "check_address", lambda *_: None)
    with pytest.raises(SourceLostError, match="cam is given up"):
        open_capture(parse_source(text))
