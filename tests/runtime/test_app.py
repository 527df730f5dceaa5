"""What a run does before its first frame, and how it ends where an output fails."""

import errno
import json

import cv2
import pytest

from runtime import app
from runtime import video as video_module
from runtime.errors import OutputError, SessionError
from runtime.outputs import Outputs
from runtime.sessions.choose import SessionChoice
from runtime.sessions.ort import OrtStepSession
from runtime.sources.several import SourceText
from runtime.video import VideoWriter
from runtime.window import Window
from tests.mini_bundle import write_mini_bundle
from tests.videos import moving_bar, write_video


@pytest.fixture
def bundle(tmp_path):
    return write_mini_bundle(tmp_path)


@pytest.fixture
def opened(bundle, monkeypatch):
    """OpenVINO is here and wrong: its session is not, only its name. Names what was opened."""
    names: list[str] = []

    def choose(_, backend, precision):
        if backend == "ort":
            return SessionChoice("ort", "float32", "a test")
        return SessionChoice("openvino", "int8", "a test")

    def open_named(bundle, choice, *args, **kwargs):
        names.append(choice.backend)
        return OrtStepSession(bundle, choice.precision)

    def self_test(bundle, session, precision):
        if names[-1] == "openvino":
            raise SessionError("self-test failed at golden step 3 of 12")

    monkeypatch.setattr(app, "choose_session", choose)
    monkeypatch.setattr(app, "open_chosen", open_named)
    monkeypatch.setattr(app, "run_self_test", self_test)
    return names


def test_onnx_runtime_takes_over_where_openvino_is_wrong_and_nobody_asked_for_it(
    bundle, opened, caplog
):
    options = app.StreamOptions(sources=(SourceText("x.mp4"),), bundle=bundle.folder)
    with app._session(bundle, options) as session:
        assert isinstance(session, OrtStepSession)
    assert opened == ["openvino", "ort"]
    assert "self-test failed at golden step 3 of 12; ONNX Runtime takes over" in caplog.text


def test_who_asked_for_openvino_gets_the_error(bundle, opened):
    options = app.StreamOptions(
        sources=(SourceText("x.mp4"),), bundle=bundle.folder, backend="openvino"
    )
    with pytest.raises(SessionError, match="golden step 3"):
        app._session(bundle, options)
    assert opened == ["openvino"]


def failed_run(tmp_path, **options):
    """The error of a run over a short film, and the types of its events from the last action on."""
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    film = write_video(tmp_path / "film.mp4", moving_bar(50))
    events = tmp_path / "events.jsonl"
    sources = (SourceText(str(film)),)
    wanted = app.StreamOptions(sources=sources, bundle=bundle.folder, events=events, **options)
    with pytest.raises(app.RunFailedError) as failed:
        app.run_stream(wanted)
    assert failed.value.last_line.startswith("frames captured")
    records = [json.loads(line) for line in events.read_text().splitlines()]
    return str(failed.value), records


def test_a_disk_that_fails_within_a_run_ends_it_in_order(tmp_path, monkeypatch):
    write = VideoWriter.write

    def fail_late(self, image_rgb, time_s):
        if time_s > 1.5:
            raise OSError(errno.EIO, "Input/output error")
        write(self, image_rgb, time_s)

    monkeypatch.setattr(VideoWriter, "write", fail_late)
    message, records = failed_run(tmp_path, headless=True, output=tmp_path / "out.mp4")
    assert "Input/output error" in message
    assert [record["type"] for record in records[-3:]] == ["action", "failed", "end"]
    assert records[-2]["message"] == message
    assert (tmp_path / "out.mp4").exists()


def test_a_video_that_cannot_be_completed_fails_the_run(tmp_path, monkeypatch):
    encoder = tmp_path / "ffmpeg"
    encoder.write_text("#!/bin/sh\ncat > /dev/null; echo 'No space left' >&2; exit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setattr(video_module, "find_ffmpeg", lambda: str(encoder))
    message, records = failed_run(tmp_path, headless=True, output=tmp_path / "out.mp4")
    assert message == "ffmpeg failed: No space left"
    assert [record["type"] for record in records[-3:]] == ["action", "failed", "end"]
    assert not (tmp_path / "out.mp4").exists()


def test_the_first_of_two_failures_is_the_runs(tmp_path, monkeypatch):
    def fail(self, *args):
        raise OutputError("at the end" if not args else "at a picture")

    monkeypatch.setattr(VideoWriter, "write", fail)
    with monkeypatch.context() as broken:
        broken.setattr(Outputs, "finish", fail)
        message, records = failed_run(tmp_path, headless=True, output=tmp_path / "out.mp4")
    assert message == "at a picture"
    said = [record["message"] for record in records if record["type"] == "failed"]
    assert said == ["at a picture", "at the end"]


@pytest.fixture
def broken_screen(monkeypatch):
    """A window system that opens a window and is gone then."""

    def fail(*_):
        raise cv2.error("OpenCV: (-2:Unspecified error)\n  the display is gone\n")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", fail)
    monkeypatch.setattr(cv2, "destroyAllWindows", fail)


def test_a_window_that_fails_ends_the_run_in_order(tmp_path, broken_screen):
    message, records = failed_run(tmp_path, headless=False)
    assert message.startswith(
        "the window failed: OpenCV: (-2:Unspecified error) the display is gone; pass --headless"
    )
    assert [record["type"] for record in records[-2:]] == ["failed", "end"]


def test_a_window_says_its_owners_way_out(broken_screen):
    with (
        Window("camera", hint="do without") as window,
        pytest.raises(OutputError, match="gone; do without$"),
    ):
        window.key_after(moving_bar(1)[0])
