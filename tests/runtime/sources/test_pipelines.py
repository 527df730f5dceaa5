from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SourceError
from runtime.sources.gstreamer import GstCapture
from runtime.sources.pipelines import (
    Pipeline,
    csi_pipeline,
    rtsp_pipeline,
    usb_pipeline,
    user_pipeline,
)
from runtime.sources.uri import Wish, parse_source
from tests.gobject import need_gstreamer

CSI = (
    "nvarguscamerasrc sensor-id=1 ! "
    "video/x-raw(memory:NVMM),width=640,height=360,format=NV12,framerate=15/2 ! "
    "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)
USB = (
    "v4l2src name=source io-mode=2 ! image/jpeg,width=1280,height=720,framerate=30/1 ! "
    "nvv4l2decoder mjpeg=1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)
RTSP_JETSON = (
    "rtspsrc name=source protocols=tcp latency=100 buffer-mode=none tcp-timeout=5000000 ! "
    "application/x-rtp,media=video ! decodebin ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)


def test_a_csi_camera():
    assert csi_pipeline(1, Wish(640, 360, 7.5, flip=2)).text == CSI
    assert "width=1280,height=720,format=NV12,framerate=30/1 !" in csi_pipeline(0, Wish()).text
    assert "framerate=2997/100 !" in csi_pipeline(0, Wish(fps=29.97)).text


def test_a_usb_cameras_motion_jpeg():
    pipeline = usb_pipeline("/dev/v4l/by-id/a ! b", Wish(1280, 720, 30.0, "MJPG"))
    assert pipeline.text == USB
    assert pipeline.properties == {"source": {"device": "/dev/v4l/by-id/a ! b"}}
    text = usb_pipeline("/dev/video0", Wish(fourcc="MJPG")).text
    assert "! image/jpeg,width=640,height=480,framerate=(fraction)[1/1,30/1] !" in text


def test_rtsp_sets_url_and_password_as_properties():
    url = "rtsp://me:p%40ss%20w@cam:554/1?a=b#c"
    pipeline = rtsp_pipeline(url, hardware=True)
    assert pipeline.text == RTSP_JETSON
    assert pipeline.properties == {
        "source": {"location": "rtsp://cam:554/1?a=b#c", "user-id": "me", "user-pw": "p@ss w"}
    }
    assert pipeline.kinds == {"nvv4l2decoder": {"enable-max-performance": True}}
    assert rtsp_pipeline(url, hardware=False).kinds == {}
    assert "p@ss" not in repr(pipeline)
    assert rtsp_pipeline("rtsp://cam/1", hardware=False).properties["source"] == {
        "location": "rtsp://cam/1"
    }


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_nothing_of_a_url_gets_into_the_text(path):
    url = f"rtsp://cam/1{path}"
    assert rtsp_pipeline(url, hardware=True).text == RTSP_JETSON
    assert (
        rtsp_pipeline(url, hardware=True)
        .properties["source"]["location"]
        .startswith("rtsp://cam/1")
    )


def test_a_users_pipeline_gets_a_sink_where_it_has_none():
    assert user_pipeline("videotestsrc").text == (
        "videotestsrc ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
    assert user_pipeline("videotestsrc ! appsink").text == "videotestsrc ! appsink"


def with_stand_ins(text, *stand_ins):
    """The text with a Jetson's elements, each there once, replaced."""
    for jetsons, stand_in in stand_ins:
        assert text.count(jetsons) == 1
        text = text.replace(jetsons, stand_in)
    return text


@pytest.mark.rtsp
def test_the_csi_text_runs_with_stand_ins_for_a_jetsons_elements():
    need_gstreamer("videotestsrc", "videoconvert")
    text = with_stand_ins(
        csi_pipeline(0, parse_source("csi://0?width=322&height=180&fps=59.94").wish).text,
        ("nvarguscamerasrc sensor-id=0", "videotestsrc is-live=true"),
        ("(memory:NVMM)", ""),
        ("nvvidconv flip-method=0", "videoconvert"),
    )
    capture = GstCapture(Pipeline(text), "csi", open_timeout_s=5, read_timeout_s=2)
    assert capture.grab()
    assert capture.retrieve()[1].shape == (180, 322, 3)
    assert capture.get(cv2.CAP_PROP_FPS) == 59.94
    capture.release()


JPEG_STAND_INS = (("nvv4l2decoder mjpeg=1", "jpegdec"), ("nvvidconv", "videoconvert"))


@pytest.mark.rtsp
@pytest.mark.parametrize(
    ("query", "shape", "fps"),
    [("&width=322&height=180&fps=12.5", (180, 322, 3), 12.5), ("", (480, 640, 3), 30)],
)
def test_the_usb_text_runs_with_stand_ins_for_camera_and_decoder(query, shape, fps):
    need_gstreamer("videotestsrc", "videoconvert", "jpegenc", "jpegdec")
    text = with_stand_ins(
        usb_pipeline("/dev/video0", parse_source(f"0?format=MJPG{query}").wish).text,
        ("v4l2src name=source io-mode=2", "videotestsrc is-live=true pattern=red ! jpegenc"),
        *JPEG_STAND_INS,
    )
    capture = GstCapture(Pipeline(text), "usb", open_timeout_s=5, read_timeout_s=2)
    assert capture.grab()
    picture = capture.retrieve()[1]
    assert picture.shape == shape
    assert capture.get(cv2.CAP_PROP_FPS) == fps
    blue, green, red = np.median(picture, axis=(0, 1))
    assert max(blue, green) < 32 < 223 < red
    capture.release()


@pytest.mark.rtsp
def test_the_usb_device_reaches_v4l2src():
    need_gstreamer("v4l2src", "videoconvert", "jpegdec")
    pipeline = usb_pipeline("/dev/null", Wish())
    text = with_stand_ins(pipeline.text, *JPEG_STAND_INS)
    with pytest.raises(SourceError, match="usb cannot be opened: .*'/dev/null'"):
        GstCapture(Pipeline(text, pipeline.properties), "usb", open_timeout_s=5, read_timeout_s=2)
