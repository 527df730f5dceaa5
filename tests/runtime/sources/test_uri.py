from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.sources.redact import redact
from runtime.sources.uri import Wish, parse_source


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("0", "camera", "0"),
        ("/dev/video1", "camera", "/dev/video1"),
        ("v4l2:///dev/video2", "camera", "/dev/video2"),
        ("/dev/v4l/by-id/usb-cam-video-index0", "camera", "/dev/v4l/by-id/usb-cam-video-index0"),
        ("csi://1", "csi", "1"),
        ("clips/a video.mp4", "file", "clips/a video.mp4"),
        ("why?.mp4", "file", "why?.mp4"),
        ("a?fps=.mp4?b", "file", "a?fps=.mp4?b"),
        ("file:///clips/a%20b.mp4", "file", "/clips/a b.mp4"),
        ("C:\\clips\\a.mp4", "file", "C:\\clips\\a.mp4"),
        ("rtsp://cam/1", "network", "rtsp://cam/1"),
        ("rtsp://cam/1?width=3&x", "network", "rtsp://cam/1?width=3&x"),
        ("HTTPS://[::1]:8443/mjpeg", "network", "HTTPS://[::1]:8443/mjpeg"),
    ],
)
def test_grammar(text, kind, target):
    uri = parse_source(text)
    assert (uri.kind, uri.target, uri.wish) == (kind, target, Wish())


@pytest.mark.parametrize(
    ("text", "target", "wish"),
    [
        (
            "/dev/video0?width=1280&height=720&fps=30&format=mjpg",
            "/dev/video0",
            Wish(1280, 720, 30.0, "MJPG"),
        ),
        ("2?fps=29.97", "2", Wish(fps=29.97)),
        ("v4l2:///dev/video0?format=YUYV", "/dev/video0", Wish(fourcc="YUYV")),
        ("csi://0?width=640&height=360&flip=2", "0", Wish(640, 360, flip=2)),
        ("frames?fps=12", "frames", Wish(fps=12.0)),
    ],
)
def test_a_query_asks_for_a_format(text, target, wish):
    uri = parse_source(text)
    assert (uri.target, uri.wish) == (target, wish)
    assert uri.name in (target, f"camera {target}", f"csi://{target}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("ftp://host/a.mp4", "the kind ftp:// is not known; accepted: a video file"),
        ("v4l2://video0", "the kind v4l2:// is not known"),
        ("rtsp:/cam/1", "begins with rtsp:// and two slashes"),
        ("rtsp://", "needs a host"),
        ("rtsp://me:pass/word@cam/1", "needs a host.* write @ as %40"),
        ("rtsp://cam:99999/1", "needs a host and, if any, a port number"),
        ("http://[::1/x", "needs a host"),
        ("rtsp://cam/a b", "must not hold spaces"),
        ("rtsp://cam/a\r\nX-Header: b", "must not hold control characters"),
        ("a\0b.mp4", "must not hold control characters"),
        ("csi://front", "csi:// and its number"),
        ("0?width=640", "give width= and height= together"),
        ("0?colour=3", "takes width=, height=, fps=, format= each once, got 'colour=3'"),
        ("0?fps=5&fps=6", "each once"),
        ("0?width=1&height=720", r"must be in 16\.\.16384, got '1'"),
        ("csi://0?fps=0", r"fps must be in \(0, 1000\], got '0'"),
        ("csi://0?fps=1e3", "fps must be in"),
        ("csi://0?flip=8", r"flip must be in 0\.\.7"),
        ("0?format=x ! filesink", "format must be four letters"),
        ("gst:videotestsrc", "from the command line only"),
    ],
)
def test_what_is_refused_says_what_is_accepted(text, message):
    with pytest.raises(ValueError, match=message):
        parse_source(text)


def test_a_pipeline_is_for_the_command_line_and_shows_its_first_element_only():
    uri = parse_source("gst:rtspsrc location=rtsp://a:hunter2@cam ! x", allow_pipeline=True)
    assert (uri.kind, uri.name) == ("pipeline", "gst:rtspsrc…")
    assert uri.target == "rtspsrc location=rtsp://a:hunter2@cam ! x"
    assert parse_source("gst:pass=hunter2 ! x", allow_pipeline=True).name == "gst:…"
    with pytest.raises(ValueError, match="gst: needs a pipeline"):
        parse_source("gst: ", allow_pipeline=True)


# no '@' and no '*': a text that is a secret must be told from what stands for it
SECRETS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + "!$%&'()+,;=:~"), min_size=6
)
SHAPES = st.sampled_from(
    [
        "{scheme}://{user}:{secret}@{host}/h264",
        "{scheme}://{user}:{secret}@{host}:554/h264?{user}",
        "{scheme}:{user}:{secret}@{host}/h264",
        "{scheme}:/{user}:{secret}@{host}/h264",
        "{user}:{secret}@{host}/h264",
        "{scheme}://{host}/h264?user={user}&password={secret}",
        "{scheme}://{host}/h264#{secret}",
        "{scheme}://{host}/user={user}&password={secret}",
        "gst:rtspsrc location={scheme}://{user}:{secret}@{host} ! x",
        "gst:rtspsrc user-pw={secret} ! x",
    ]
)
SCHEMES = st.sampled_from(["rtsp", "rtsps", "http", "https", "RTSP", "ftp", "rtmp", "csi", "v4l2"])


def name_or_refusal(text, *, allow_pipeline=True):
    """Everything that parsing a source shows to people."""
    try:
        uri = parse_source(text, allow_pipeline=allow_pipeline)
    except ValueError as err:
        return str(err)
    return f"{uri} {uri!r} {uri.name}"


@given(SHAPES, SCHEMES, st.text(string.printable, max_size=8), SECRETS, st.text(max_size=12))
@example("{user}:{secret}@{host}/h264", "rtsp", "a b", "secret", "")
@example("{scheme}://{user}:{secret}@{host}/h264", "rtsp", "me", "&=pass", "cam")
def test_no_secret_is_ever_shown(shape, scheme, user, secret, host):
    secret = f"<{secret}>"
    text = shape.format(scheme=scheme, user=user, secret=secret, host=host)
    assert secret not in name_or_refusal(text)


@given(SECRETS, st.sampled_from(["rtsp", "rtsps", "http", "https"]))
def test_the_name_keeps_what_is_not_secret(password, scheme):
    uri = parse_source(f"{scheme}://me:{quote(password, safe='')}@10.0.0.7:554/h264")
    assert uri.name == f"{scheme}://***@10.0.0.7:554/h264"


@given(st.text(), st.booleans())
@example("\udcff.mp4", False)  # a name that is no UTF-8, as Python gets it from a shell
def test_any_text_is_a_source_or_refused(text, allow_pipeline):
    said = name_or_refusal(text, allow_pipeline=allow_pipeline)
    assert said
    said.encode()  # fit for any terminal and file
    assert "\n" not in said


@given(
    st.sampled_from(["0", "/dev/video0", "csi://0", "frames"]),
    st.lists(
        st.tuples(
            st.sampled_from(["width", "height", "fps", "format", "flip", "x", ""]),
            st.text(string.printable, max_size=8) | st.integers(-1, 20000).map(str),
        ),
        max_size=5,
    ),
)
def test_any_query_gives_numbers_in_range_or_is_refused(base, pairs):
    query = "&".join(f"{key}={value}" for key, value in pairs)
    try:
        wish = parse_source(f"{base}?{query}").wish
    except ValueError:
        return
    assert wish.width_px is None or 16 <= wish.width_px <= 16384
    assert (wish.width_px is None) == (wish.height_px is None)
    assert wish.fps is None or 0 < wish.fps <= 1000
    assert wish.fourcc is None or (len(wish.fourcc) == 4 and wish.fourcc.isalnum())
    assert 0 <= wish.flip <= 7


def test_redact_works_inside_a_sentence_and_on_queries():
    text = "rtsp://a:b@cam/1 timed out, http://cam/v?token=abc too"
    assert redact(text) == "rtsp://***@cam/1 timed out, http://cam/v?*** too"
    assert redact('rtspsrc user-pw="a b" ! x') == "rtspsrc user-pw=*** ! x"
