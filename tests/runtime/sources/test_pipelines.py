from __future__ import annotations

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sources.gstreamer import GstCapture
from runtime.sources.pipelines import Pipeline, csi_pipeline, rtsp_pipeline, user_pipeline
from runtime.sources.uri import Wish, parse_source
from tests.gobject import need_gstreamer

CSI = (
    "nvarguscamerasrc sensor-id=1 ! "
    "video/x-raw(memory:NVMM),width=640,height=360,format=NV12,framerate=15/2 ! "
    "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
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


def test_rtsp_sets_url_and_password_as_properties():
    url = "rtsp://me:p%40ss%20w@cam:554/1?a=b#c"
    pipeline = rtsp_pipeline(url, hardware=True)
    assert pipeline.text == RTSP_JETSON
    assert pipeline.properties == {
        "source": {"location": "rtsp://cam:554/1?a=b#c", "user-id": "me", "user-pw": "p@ss w"}
    }
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


@pytest.mark.rtsp
def test_the_csi_text_runs_with_stand_ins_for_a_jetsons_elements():
    need_gstreamer("videotestsrc", "videoconvert")
    text = csi_pipeline(0, parse_source("csi://0?width=322&height=180&fps=59.94").wish).text
    for jetsons, stand_in in (
        ("nvarguscamerasrc sensor-id=0", "videotestsrc is-live=true"),
        ("(memory:NVMM)", ""),
        ("nvvidconv flip-method=0", "videoconvert"),
    ):
        assert text.count(jetsons) == 1
        text = text.replace(jetsons, stand_in)
    capture = GstCapture(Pipeline(text), "csi", open_timeout_s=5, read_timeout_s=2)
    assert capture.grab()
    assert capture.retrieve()[1].shape == (180, 322, 3)
    assert capture.get(cv2.CAP_PROP_FPS) == 59.94
    capture.release()
