from __future__ import annotations

import logging
import stat

import numpy as np
import pytest

from runtime import video
from runtime.errors import OutputError
from runtime.video import VideoWriter, find_ffmpeg
from tests.videos import moving_bar, read_video

needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="no ffmpeg with libx264 on PATH")


@pytest.fixture(params=["ffmpeg", "opencv"])
def lane(request, monkeypatch):
    if request.param == "opencv":
        monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    elif find_ffmpeg() is None:
        pytest.skip("no ffmpeg with libx264 on PATH")
    return request.param


def test_a_video_is_what_was_written(lane, tmp_path, caplog):
    path, pictures = tmp_path / "new" / "out.mp4", moving_bar(20)
    with VideoWriter(path, fps=10) as writer:
        for index, picture in enumerate(pictures):
            writer.write(picture, 5.0 + index / 10)
        assert not path.exists()
    codec, frames = read_video(path)
    assert codec == {"ffmpeg": "h264", "opencv": "mpeg4"}[lane]
    assert frames.shape == pictures.shape
    assert np.abs(frames.astype(int) - pictures).mean() < 12
    assert list(path.parent.iterdir()) == [path]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (lane == "opencv")


@needs_ffmpeg
def test_the_video_keeps_the_streams_pace(tmp_path):
    path, picture = tmp_path / "out.mp4", moving_bar(1)[0]
    with VideoWriter(path, fps=10) as writer:
        for time_s in (0.0, 0.04, 0.08, 0.5, 1.0):
            writer.write(picture, time_s)
    assert len(read_video(path)[1]) == 11


@needs_ffmpeg
def test_long_pauses_and_new_timelines_do_not_fill_the_disk(tmp_path):
    path, picture = tmp_path / "out.mp4", moving_bar(1)[0]
    with VideoWriter(path, fps=10) as writer:
        for time_s in (0.0, 3600.0, 3600.1, 0.0, 0.1, 0.2):
            writer.write(picture, time_s)
    assert len(read_video(path)[1]) == 1 + 20 + 1 + 1 + 1 + 1


@needs_ffmpeg
def test_a_change_of_size_is_fitted_to_the_first(tmp_path):
    path = tmp_path / "out.mkv"
    with VideoWriter(path, fps=10) as writer:
        writer.write(moving_bar(1, 96, 96)[0], 0.0)
        writer.write(moving_bar(1, 48, 64)[0], 0.1)
    assert read_video(path)[1].shape == (2, 96, 96, 3)


def test_without_frames_there_is_no_file(tmp_path):
    with VideoWriter(tmp_path / "out.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4, .* got .*out\.gif"):
        VideoWriter(tmp_path / "out.gif")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "ffmpeg"),
        ("cat > /dev/null; echo 'No space left' >&2; exit 1", "ffmpeg failed: No space left"),
    ],
)
def test_an_encoder_that_fails_leaves_nothing(tmp_path, monkeypatch, script, message):
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(fake))
    folder = tmp_path / "videos"
    writer = VideoWriter(folder / "out.mp4", fps=10)
    with pytest.raises(OutputError, match=message):  # noqa: PT012  at a write or at the end
        for index, picture in enumerate(moving_bar(50)):
            writer.write(picture, index / 10)
        writer.close()
    writer.close()
    assert not list(folder.iterdir())
