from __future__ import annotations

import logging
import re
import shutil
import stat
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import video
from runtime.errors import OutputError
from runtime.video import VideoWriter, find_ffmpeg
from tests.full_disk import full_disk
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/proc/out.mp4", "No such file or directory"),
        ("/dev/null/out.mp4", "Not a directory|File exists"),
        ("folder.mp4", "Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_a_frame_comes(tmp_path, name, reason):
    (tmp_path / "folder.mp4").mkdir()
    path = tmp_path / name
    told = rf"^--output {re.escape(str(path))} cannot be written: ({reason}); give it a file in"
    with pytest.raises(OSError, match=told):
        VideoWriter(path)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4, .* got .*out\.gif"):
        VideoWriter(tmp_path / "out.gif")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", r"/out\.mp4: ffmpeg .*; nothing of it is kept$"),
        (
            "cat > /dev/null; echo 'No space left' >&2; "
            "echo '    Last message repeated 17 times' >&2; exit 1",
            r"/out\.mp4: ffmpeg failed: No space left; nothing of it is kept$",
        ),
        # as ffmpeg 5.1 does where only the index did not fit
        (
            'cat > /dev/null; for file; do :; done; printf "\\0\\0\\0\\20mdat        " > "$file"',
            "/out.mp4: the file could not be finished, as on a full disk; nothing of it is kept",
        ),
        (
            'cat > /dev/null; for file; do :; done; printf "\\0\\0\\1\\0moov        " > "$file"',
            "/out.mp4: the file could not be finished, as on a full disk; nothing of it is kept",
        ),
        ("exec < /dev/null; sleep 0.3; echo 'No space left' >&2; exit 1", "ed: No space left; n"),
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


# ---- a disk that fills up


class Disk:
    """A disk of which a test says how much is free."""

    def __init__(self, free=10**12, total=10**12):
        self.free, self.total, self.looks = free, total, 0

    def usage(self, _):
        self.looks += 1
        return SimpleNamespace(total=self.total, free=self.free)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


def noise(steps):
    """Pictures that no encoder makes small."""
    return np.random.default_rng(0).integers(0, 256, (steps, 96, 96, 3), np.uint8)


def test_a_disk_without_room_gets_no_video(lane, tmp_path, disk):
    disk.free = (1 << 20) + 4 * 96 * 96 * 3 - 1
    writer = VideoWriter(tmp_path / "out.mp4", fps=10)
    told = r"/out\.mp4: no room: 1\.2 MB are free on its disk, 1\.2 MB are needed to go on; nothing"
    with pytest.raises(OutputError, match=told):
        writer.write(moving_bar(1)[0], 0.0)
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_video_ends_playable_while_there_is_room_for_its_end(lane, tmp_path, disk):
    path, pictures = tmp_path / "out.mp4", moving_bar(60)
    disk.free = (1 << 20) + 4 * 96 * 96 * 3 + 32 * 20  # after 20 pictures their index still fits
    writer = VideoWriter(path, fps=10)
    for index in range(30):
        writer.write(pictures[index], index / 10)
    with pytest.raises(OutputError, match=r"out\.mp4: no room: .*; it ends after 3\.0 s$"):
        writer.write(pictures[30], 3.0)
    assert list(tmp_path.iterdir()) == [path]
    whole = path.read_bytes()
    with pytest.raises(OutputError, match=r"out\.mp4 has ended"):
        writer.write(pictures[31], 3.1)
    writer.close()
    assert path.read_bytes() == whole
    assert len(read_video(path)[1]) == 30


def test_the_disk_is_looked_at_once_a_second(lane, tmp_path, disk):
    disk.free = disk.total = 0  # as some network disks say
    with VideoWriter(tmp_path / "out.mp4", fps=10) as writer:
        for index, picture in enumerate(moving_bar(60)):
            writer.write(picture, index / 10)
    assert disk.looks == 6


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_limit_that_no_free_space_tells_is_noticed_too(lane, tmp_path, suffix):
    path, pictures = tmp_path / f"out{suffix}", noise(100)
    writer = VideoWriter(path, fps=10)
    left = {".mp4": "nothing of it is kept", ".mkv": "what plays of it is kept"}[suffix]
    with full_disk(120_000), pytest.raises(OutputError, match=f"out{suffix}: .*; {left}$"):  # noqa: PT012  at a write or at the end
        for index, picture in enumerate(pictures):
            writer.write(picture, index / 10)
        writer.close()
    writer.close()
    if suffix == ".mp4":
        assert not list(tmp_path.iterdir())
    else:
        assert list(tmp_path.iterdir()) == [path]
        assert 0 < len(read_video(path)[1]) < 100


def test_a_look_at_a_whole_file_changes_nothing(lane, tmp_path):
    path = tmp_path / "out.mkv"
    with VideoWriter(path, fps=10) as writer:
        writer.write(moving_bar(1)[0], 0.0)
    whole = path.read_bytes()
    video._check_whole(path)
    assert path.read_bytes() == whole


def test_a_folder_that_goes_away_ends_the_video(lane, tmp_path):
    path = tmp_path / "usb" / "out.mp4"
    writer = VideoWriter(path, fps=10)
    writer.write(moving_bar(1)[0], 0.0)
    shutil.rmtree(path.parent)
    with pytest.raises(OutputError, match=r"out\.mp4: .*No such file or directory; nothing of"):  # noqa: PT012  at the second look
        for index, picture in enumerate(moving_bar(20)):
            writer.write(picture, index / 10)
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_get_its_name_is_not_called_kept(lane, tmp_path):
    path = tmp_path / "out.mp4"
    writer = VideoWriter(path, fps=10)
    writer.write(moving_bar(1)[0], 0.0)
    (path / "others").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"out\.mp4: .*; nothing of it is kept$"):
        writer.close()
    assert list(tmp_path.iterdir()) == [path]


def test_an_encoder_that_does_not_start_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_ffmpeg", lambda: "/nowhere/ffmpeg")
    writer = VideoWriter(tmp_path / "out.mp4")
    with pytest.raises(OutputError, match=r"out\.mp4: No such file or directory; nothing of it is"):
        writer.write(moving_bar(1)[0], 0.0)
    assert not list(tmp_path.iterdir())
