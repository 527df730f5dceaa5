"""What a run does before its first frame, and how it ends where an output fails."""

import errno
import json
from pathlib import Path

import cv2
import pytest

from runtime import app
from runtime import video as video_module
from runtime.errors import OutputError, SessionError
from runtime.sessions.choose import SessionChoice
from runtime.sessions.ort import OrtStepSession
from runtime.sources.several import SourceText
from runtime.video import VideoWriter
from runtime.window import Window
from tests.mini_bundle import write_mini_bundle
from tests.videos import moving_bar, read_video, write_video


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


def failed_run(tmp_path, films=1, **options):
    """The error of a run over short films, and its events."""
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    names = [str(tmp_path / f"film-{number}.mp4") for number in range(1, films + 1)]
    for name in names:
        write_video(Path(name), moving_bar(50))
    events = tmp_path / "events.jsonl"
    sources = tuple(map(SourceText, names))
    wanted = app.StreamOptions(sources=sources, bundle=bundle.folder, events=events, **options)
    with pytest.raises(app.RunFailedError) as failed:
        app.run_stream(wanted)
    assert "frames captured" in failed.value.last_line
    records = [json.loads(line) for line in events.read_text().splitlines()]
    return str(failed.value), records


def of_type(records, kind):
    return [record for record in records if record["type"] == kind]


def fail_after(monkeypatch, time_s, only=""):
    """Videos, or that of one name alone, cannot be written from that stream time on."""
    write = VideoWriter.write

    def fail_late(self, image_rgb, at_s):
        if at_s > time_s and only in self._path.name:
            raise OSError(errno.EIO, "Input/output error")
        write(self, image_rgb, at_s)

    monkeypatch.setattr(VideoWriter, "write", fail_late)


def test_a_video_that_is_lost_within_a_run_does_not_end_it(tmp_path, monkeypatch, caplog):
    fail_after(monkeypatch, 0.5)
    message, records = failed_run(tmp_path, headless=True, output=tmp_path / "out.mp4")
    assert message == "[Errno 5] Input/output error"
    (lost,) = of_type(records, "video_lost")
    assert lost["message"] == message
    assert not of_type(records, "failed")
    decisions = of_type(records, "decision")
    assert [decision["tick"] for decision in decisions] == list(range(8))
    before, after = (records.index(decision) for decision in decisions[2:4])
    assert before < records.index(lost) < after
    assert [record["type"] for record in records[-2:]] == ["action", "end"]
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.getMessage() == f"video lost: {message}; the stream goes on without it"


def test_one_lost_video_of_two_leaves_the_other_whole(tmp_path, monkeypatch, caplog):
    fail_after(monkeypatch, 0.5, only="out-1")
    message, records = failed_run(tmp_path, films=2, headless=True, output=tmp_path / "out.mp4")
    assert message == "[Errno 5] Input/output error"
    (lost,) = of_type(records, "video_lost")
    assert lost["source"].endswith("film-1.mp4")
    assert [each["source"] for each in of_type(records, "decision")].count(lost["source"]) == 8
    assert len(of_type(records, "decision")) == 16
    assert len(read_video(tmp_path / "out-2.mp4")[1]) == 50
    assert f"{lost['source']}: video lost: {message}" in caplog.text


def test_a_video_that_cannot_be_completed_fails_the_run(tmp_path, monkeypatch, caplog):
    encoder = tmp_path / "ffmpeg"
    encoder.write_text("#!/bin/sh\ncat > /dev/null; echo 'No space left' >&2; exit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setattr(video_module, "find_ffmpeg", lambda: str(encoder))
    output = tmp_path / "out.mp4"
    message, records = failed_run(tmp_path, headless=True, output=output)
    assert message == f"{output}: ffmpeg failed: No space left; nothing of it is kept"
    assert [record["type"] for record in records[-3:]] == ["action", "video_lost", "end"]
    assert records[-2]["message"] == message
    assert f"video lost: {message}\n" in caplog.text
    assert not output.exists()


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


def test_a_window_that_fails_after_the_video_is_the_failure_of_the_run(
    tmp_path, monkeypatch, broken_screen
):
    fail_after(monkeypatch, -1.0)
    message, records = failed_run(tmp_path, headless=False, output=tmp_path / "out.mp4")
    assert message.startswith(
        "the window failed: OpenCV: (-2:Unspecified error) the display is gone"
    )
    assert message.endswith("; 2 failures in all, see above")
    said = {record["type"]: record["message"] for record in records if "message" in record}
    assert list(said) == ["video_lost", "failed"]
    assert said["video_lost"] == "[Errno 5] Input/output error"
