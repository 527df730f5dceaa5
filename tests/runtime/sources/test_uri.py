from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sources.uri import parse_source, redact


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("0", "camera", "0"),
        ("/dev/video1", "camera", "/dev/video1"),
        ("v4l2:///dev/video2", "camera", "/dev/video2"),
        ("/dev/v4l/by-id/usb-cam-video-index0", "camera", "/dev/v4l/by-id/usb-cam-video-index0"),
        ("clips/a video.mp4", "file", "clips/a video.mp4"),
        ("file:///clips/a.mp4", "file", "/clips/a.mp4"),
        ("rtsp://cam/1", "network", "rtsp://cam/1"),
        ("HTTPS://cam/mjpeg", "network", "HTTPS://cam/mjpeg"),
    ],
)
def test_grammar(text, kind, target):
    uri = parse_source(text)
    assert (uri.kind, uri.target) == (kind, target)


@pytest.mark.parametrize("text", ["", "  ", "ftp://host/a.mp4", "csi://0", "v4l2://video0"])
def test_unknown_sources_are_refused_with_what_is_accepted(text):
    with pytest.raises(ValueError, match="accepted: a video file"):
        parse_source(text)


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4)


@given(user=WORDS, password=WORDS, scheme=st.sampled_from(["rtsp", "rtsps", "http", "https"]))
def test_a_password_is_never_in_the_name(user, password, scheme):
    secret = f"<{password}>"
    uri = parse_source(f"{scheme}://{user}:{secret}@10.0.0.7:554/h264")
    assert uri.target.count(secret)
    for text in (uri.name, repr(uri), str(uri), f"{uri}"):
        assert secret not in text
        assert "10.0.0.7:554/h264" in text


def test_redact_works_inside_a_sentence_and_on_queries():
    text = "rtsp://a:b@cam/1 timed out, http://cam/v?token=abc too"
    assert redact(text) == "rtsp://***@cam/1 timed out, http://cam/v?*** too"
