"""Real pipelines; a Jetson's own elements are not here, everything around them is."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.errors import SourceError, SourceLostError
from runtime.sources import capture as capture_module
from runtime.sources.capture import open_capture
from runtime.sources.choose import open_source
from runtime.sources.gstreamer import (
    HOW_TO_MEND,
    GstCapture,
    _gstreamer,
    has_jetson_decoder,
    has_jetson_jpeg_decoder,
    stuck_pipelines,
    warn_once,
)
from runtime.sources.pipelines import Pipeline, user_pipeline
from runtime.sources.uri import parse_source
from tests.gobject import gi_folder, need_gstreamer
from tests.mini_bundle import write_mini_bundle
from tests.runtime.test_stream import STREAM, counts_of
from tests.videos import bikes_path

ROOT = Path(__file__).resolve().parents[3]
ORIN = b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"
THOR = b"nvidia,p3971-0080+p3834-0008\0nvidia,tegra264\0"
LIVE = "gst:videotestsrc is-live=true pattern={} ! video/x-raw,width={},height=48,framerate=50/1"


@pytest.fixture
def gst():
    need_gstreamer("videotestsrc", "videoconvert", "fakesink", "uridecodebin", "avdec_h264")


def opened(text, *, open_timeout_s=5.0, read_timeout_s=2.0):
    return GstCapture(
        user_pipeline(text), "cam", open_timeout_s=open_timeout_s, read_timeout_s=read_timeout_s
    )


@pytest.mark.rtsp
@pytest.mark.parametrize("width_px", [64, 62, 61])  # rows are padded to four bytes
def test_pictures_have_their_colour_and_shape(gst, width_px):
    with open_source(LIVE.format("red", width_px), allow_pipeline=True) as source:
        frames = [frame for frame, _ in zip(source, range(5), strict=False)]
    assert {frame.image_rgb.shape for frame in frames} == {(48, width_px, 3)}
    assert (frames[-1].image_rgb == (255, 0, 0)).all()
    assert source.is_live
    assert source.fps == 50


@pytest.mark.rtsp
def test_the_newest_picture_wins(gst):
    with open_source(LIVE.format("ball", 64), allow_pipeline=True) as source:
        frames = iter(source)
        next(frames)
        time.sleep(0.5)
        frame = next(frames)
        assert time.monotonic_ns() - frame.grabbed_ns < 0.2e9
    assert source.counts.dropped > 10


@pytest.mark.rtsp
def test_a_file_in_a_pipeline_plays_at_its_pace(gst):
    capture = opened(f'uridecodebin uri="{bikes_path().as_uri()}" ! videoconvert')
    began_s = time.monotonic()
    stamps: list[float] = []
    while len(stamps) < 25:
        assert capture.grab()
        stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    # on a busy machine the first ones are late and the next catch up; unpaced takes a tenth
    assert time.monotonic() - began_s > 0.5 * (stamps[-1] - stamps[0]) / 1000
    assert np.diff(stamps).min() >= 39
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    assert capture.retrieve()[1].shape == (272, 640, 3)
    capture.release()
    assert not capture.isOpened()
    assert not capture.grab()


@pytest.mark.rtsp
def test_a_pipeline_that_stops_giving_pictures_ends_within_its_time(gst):
    # a valve that closes: the pipeline stays up and silent, as a dead camera does
    capture = opened(
        "videotestsrc is-live=true ! valve name=v ! video/x-raw,framerate=50/1", read_timeout_s=0.5
    )
    assert capture.grab()
    capture._pipeline.get_by_name("v").set_property("drop", True)
    while capture.grab():
        pass
    began_s = time.monotonic()
    assert not capture.grab()
    assert time.monotonic() - began_s == pytest.approx(0.5, abs=0.2)
    capture.release()


@pytest.mark.rtsp
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuchelement", 'no element "nosuchelement"'),
        ("videotestsrc !", "cannot be opened: "),
        ("videotestsrc ! fakesink", "cannot be opened: "),
        ("filesrc location=/no/such/file ! decodebin", "cannot be opened: .*[Rr]esource not found"),
        ("videotestsrc num-buffers=0", "it ended before its first picture"),
        ("videotestsrc ! video/x-raw,format=NONSENSE", "cannot be opened: "),
        ("videotestsrc ! valve drop=true", r"no picture within 1 s"),
        ("rtspsrc location=rtsp://me:hunter2@127.0.0.1:1/x ! decodebin", "cannot be opened: "),
        ("rtspsrc nothing=hunter2 user-pw=hunter2", "cannot be opened: "),
        ("rtspsrc latency=rtsp://me:hunter2@cam", r"cannot be opened: .*rtsp://\*\*\*@cam"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pipeline_is_said(gst, text, message, capfd):
    with pytest.raises(SourceError, match=message) as caught:
        opened(text, open_timeout_s=1.0)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.rtsp
def test_properties_are_data_and_never_syntax(gst, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'x" ! filesink location=evil ! y'
    (tmp_path / name).symlink_to(bikes_path())
    pipeline = Pipeline(
        "filesrc name=file ! decodebin ! videoconvert ! appsink", {"file": {"location": name}}
    )
    capture = GstCapture(pipeline, "cam", open_timeout_s=5, read_timeout_s=1)
    assert capture.grab()
    assert capture.retrieve()[1].shape == (272, 640, 3)
    capture.release()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.rtsp
def test_an_element_that_decodebin_chose_gets_its_kinds_properties(gst):
    pipeline = Pipeline(
        "filesrc name=file ! decodebin ! videoconvert ! appsink",
        {"file": {"location": str(bikes_path())}},
        {"avdec_h264": {"no-such-property": 1, "max-threads": 3}},
    )
    capture = GstCapture(pipeline, "cam", open_timeout_s=5, read_timeout_s=1)
    _, decoder = capture._pipeline.iterate_all_by_element_factory_name("avdec_h264").next()
    assert decoder.get_property("max-threads") == 3
    capture.release()


class Stuck:
    """Leaves pipelines behind that cannot be stopped, because one of their threads waits."""

    def __init__(self):
        self.before = stuck_pipelines()  # a server that died in another test leaves some for good
        self._may_go_on = threading.Event()

    def leave(self, number):
        for _ in range(number):
            capture = opened("videotestsrc is-live=true ! identity name=i signal-handoffs=true")
            waits = threading.Event()

            def hold(*_, waits=waits):
                waits.set()
                self._may_go_on.wait()

            capture._pipeline.get_by_name("i").connect("handoff", hold)
            assert waits.wait(5)
            capture.release()

    def free(self):
        self._may_go_on.set()
        until_s = time.monotonic() + 10
        while stuck_pipelines() > self.before:
            assert time.monotonic() < until_s
            time.sleep(0.01)


@pytest.fixture
def stuck(gst, monkeypatch):
    """At most two of them are bearable."""
    pipelines = Stuck()
    monkeypatch.setattr("runtime.sources.gstreamer.RELEASE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("runtime.sources.gstreamer.MOST_STUCK", pipelines.before + 2)
    yield pipelines
    pipelines.free()


@pytest.mark.rtsp
def test_past_so_many_stuck_pipelines_every_source_is_lost(stuck):
    with open_source(LIVE.format("ball", 64), allow_pipeline=True) as source:
        frames = iter(source)
        deadline = threading.Timer(20, source.stop)
        deadline.start()
        stuck.leave(2)
        seen = source.counts.captured
        assert next(frame for frame in frames if frame.index > seen + 3).connection == 0
        stuck.leave(1)
        with pytest.raises(SourceLostError, match=f"not stop {stuck.before + 3} pipelines"):
            list(frames)
        deadline.cancel()


@pytest.mark.rtsp
def test_past_so_many_stuck_pipelines_what_cannot_be_opened_is_lost(stuck):
    stuck.leave(2)
    with pytest.raises(SourceError, match="it ended before its first picture"):
        opened("videotestsrc num-buffers=0")
    stuck.leave(1)
    with pytest.raises(SourceLostError, match="only a new process is rid of them; start again"):
        opened("videotestsrc num-buffers=0")


@pytest.mark.rtsp
def test_only_what_is_still_stuck_counts(stuck, caplog):
    stuck.leave(2)
    opened("videotestsrc is-live=true").release()
    assert stuck_pipelines() == stuck.before + 2
    assert f"left behind, {stuck.before + 2} by now" in caplog.text
    stuck.free()
    assert stuck_pipelines() == stuck.before


@pytest.mark.rtsp
@pytest.mark.slow
def test_the_command_runs_a_pipeline(gst, tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    done = subprocess.run(
        [sys.executable, str(STREAM), "--bundle", str(bundle.folder), "--headless", "--source",
         LIVE.format("ball", 96), "--max-seconds", "2"],
        env=os.environ | {"PYTHONPATH": str(gi_folder(tmp_path / "gi"))},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert counts_of(done.stdout)["used"] >= 4


WHOSE_UNWINDER = """
import ctypes
from runtime.sources.gstreamer import load_gstreamer
load_gstreamer("test")
address = ctypes.cast(ctypes.CDLL(None)._Unwind_Resume, ctypes.c_void_p).value
for line in open("/proc/self/maps"):
    first, _, last = line.split()[0].partition("-")
    if int(first, 16) <= address < int(last, 16):
        print(line.split()[-1])
"""


@pytest.mark.rtsp
def test_exceptions_of_cpp_libraries_stay_gccs(gst, tmp_path):
    # GStreamer's libunwind took them over: OpenVINO, loaded later, died of one it catches itself
    done = subprocess.run(
        [sys.executable, "-c", WHOSE_UNWINDER],
        env=os.environ | {"PYTHONPATH": f"{gi_folder(tmp_path / 'gi')}:{STREAM.parents[1]}"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "libgcc_s" in done.stdout


@pytest.fixture
def without_gi(monkeypatch):
    monkeypatch.setitem(sys.modules, "gi", None)
    _gstreamer.cache_clear()
    yield
    _gstreamer.cache_clear()


@pytest.mark.parametrize("text", ["csi://0", "gst:videotestsrc"])
def test_without_gstreamer_one_line_says_how_to_get_it(without_gi, text):
    with pytest.raises(
        SourceError, match=r"needs GStreamer in Python .*apt install python3-gi"
    ) as caught:
        open_capture(parse_source(text, allow_pipeline=True))
    assert "\n" not in str(caught.value)


@pytest.mark.rtsp
def test_a_csi_camera_off_a_jetson_is_refused(gst):
    with pytest.raises(SourceError, match="has no nvarguscamerasrc and no nvvidconv"):
        open_capture(parse_source("csi://0"))


@pytest.fixture
def board(tmp_path):
    """Writes the file that names the board."""
    warn_once.cache_clear()
    tree = tmp_path / "compatible"

    def write(compatible):
        tree.write_bytes(compatible)
        return tree

    yield write
    warn_once.cache_clear()


def test_only_a_jetson_decodes_in_hardware(board, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("runtime.sources.gstreamer._lack", lambda elements: "")
    for asked in (has_jetson_decoder, has_jetson_jpeg_decoder):
        assert not asked(device_tree=tmp_path / "none")
        assert not asked(device_tree=board(b"raspberrypi,4-model-b\0brcm,bcm2711\0"))
        assert asked(device_tree=board(ORIN))
    assert has_jetson_decoder(device_tree=board(THOR))
    assert not has_jetson_jpeg_decoder(device_tree=board(THOR))
    assert caplog.text == ""


@pytest.mark.rtsp
@pytest.mark.parametrize(
    ("asked", "codec", "package"),
    [
        (has_jetson_decoder, "RTSP", "h264parse"),
        (has_jetson_jpeg_decoder, "Motion-JPEG", "v4l2src"),
    ],
)
def test_a_jetson_without_the_elements_says_once_what_is_missing(
    gst, board, caplog, asked, codec, package
):
    need_gstreamer("rtspsrc", "h264parse", "v4l2src")
    for _ in range(3):
        assert not asked(device_tree=board(ORIN))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        f"this Jetson decodes {codec} on the CPU, because its GStreamer has no nvv4l2decoder and "
        f"no nvvidconv: {HOW_TO_MEND}"
    )
    need = _gstreamer().ElementFactory.find
    with pytest.MonkeyPatch.context() as patch:  # as where the package that has it is not there
        patch.setattr(
            _gstreamer().ElementFactory,
            "find",
            lambda name: None if name == package else need(name),
        )
        assert not asked(device_tree=board(ORIN))
    assert f"has no {package} and no nvv4l2decoder" in caplog.text


def test_a_jetson_without_gstreamers_python_says_so_once(without_gi, board, monkeypatch, caplog):
    asked = functools.partial(has_jetson_decoder, device_tree=board(ORIN))
    monkeypatch.setattr(capture_module, "has_jetson_decoder", asked)
    rtsp = parse_source("rtsp://cam/1")
    assert capture_module._pipeline(rtsp, software_decode=True) is None
    assert caplog.text == ""
    for _ in range(3):
        assert capture_module._pipeline(rtsp, software_decode=False) is None
    (record,) = caplog.records
    assert "decodes RTSP on the CPU, because there is no GStreamer in Python" in record.message
    assert HOW_TO_MEND in record.message


def test_off_a_jetson_nothing_is_said(without_gi, board, caplog):
    assert not has_jetson_decoder(device_tree=board(b"raspberrypi,4-model-b\0brcm,bcm2711\0"))
    assert caplog.text == ""


PACKAGES = re.findall(r"python3-gi|gir1\.2-\S+|gstreamer1\.0-[a-z-]+", HOW_TO_MEND)


def test_a_jetsons_page_and_image_install_what_the_error_names():
    assert len(PACKAGES) == 4
    step, _, _ = (ROOT / "docs/jetson.md").read_text().partition("\n## 2. ")
    image = (ROOT / "runtime/service/Dockerfile.jetson").read_text()
    for package in PACKAGES:
        assert package in step
        assert package in image


@pytest.mark.rtsp
def test_the_pages_check_names_what_is_missing(gst):
    """The command of step 1, by the Python that it is meant for; here NVIDIA's are missing."""
    step, _, _ = (ROOT / "docs/jetson.md").read_text().partition("\n## 2. ")
    (script,) = re.findall(r"python3 - <<'EOF'[^\n]*\n(.*?)\nEOF", step, re.DOTALL)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if "No module named 'gi'" in done.stderr:
        pytest.skip("the system's Python has no PyGObject")
    assert done.stdout == "missing: ['nvv4l2decoder', 'nvvidconv', 'nvarguscamerasrc']\n"


def test_rtsp_takes_the_hardware_lane_only_where_it_is(monkeypatch):
    rtsp, http = parse_source("rtsp://cam/1"), parse_source("http://cam/1")
    monkeypatch.setattr(capture_module, "has_jetson_decoder", lambda: True)
    pipeline = capture_module._pipeline(rtsp, software_decode=False)
    assert pipeline is not None
    assert "nvvidconv" in pipeline.text
    assert capture_module._pipeline(rtsp, software_decode=True) is None
    assert capture_module._pipeline(http, software_decode=False) is None
    monkeypatch.setattr(capture_module, "has_jetson_decoder", lambda: False)
    assert capture_module._pipeline(rtsp, software_decode=False) is None
