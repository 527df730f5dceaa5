from __future__ import annotations

import time

import numpy as np
import pytest

from runtime.errors import SourceError, SourceLostError
from runtime.sources.choose import open_source
from runtime.sources.file import FileSource
from runtime.sources.frame import Frame
from tests.videos import bikes_path, moving_bar, write_video


def test_every_frame_of_a_real_video_in_order_with_its_time():
    with FileSource(bikes_path()) as source:
        frames = [(frame.index, frame.stream_time_s, frame.image_rgb.shape) for frame in source]
    assert (source.fps, source.is_live, source.counts.captured) == (25.0, False, 250)
    assert [index for index, _, _ in frames] == list(range(250))
    np.testing.assert_allclose([time_s for _, time_s, _ in frames], np.arange(250) / 25, atol=1e-6)
    assert {shape for _, _, shape in frames} == {(272, 640, 3)}


def test_reading_twice_gives_the_same_bytes():
    def some_frames():
        with FileSource(bikes_path()) as source:
            return [f.image_rgb.tobytes() for f, _ in zip(source, range(12), strict=False)]

    assert some_frames() == some_frames()


def test_colour_is_rgb(tmp_path):
    red = np.zeros((4, 64, 64, 3), np.uint8)
    red[..., 0] = 200
    with FileSource(write_video(tmp_path / "red.mp4", red)) as source:
        mean = next(iter(source)).image_rgb.mean(axis=(0, 1))
    np.testing.assert_allclose(mean, [200, 0, 0], atol=8)


def test_frames_without_timestamps_count_by_rate(tmp_path):
    path = write_video(tmp_path / "bare.h264", moving_bar(10), fps=20, file_format="h264")
    with FileSource(path) as source:
        times = [frame.stream_time_s for frame in source]
        assert source.fps is not None
    np.testing.assert_allclose(times, np.arange(10) / source.fps, atol=1e-9)


def test_a_cut_video_gives_all_it_has_and_then_says_so(tmp_path):
    path = write_video(tmp_path / "cut.mp4", moving_bar(60), front_header=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    taken: list[Frame] = []
    with (
        FileSource(path) as source,
        pytest.raises(SourceLostError, match=r"cut off: it ends after"),
    ):
        taken.extend(source)
    assert 0 < len(taken) < 60


def test_a_stopped_cut_video_does_not_complain(tmp_path):
    path = write_video(tmp_path / "cut.mp4", moving_bar(60), front_header=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with FileSource(path) as source:
        for _ in source:
            source.stop()
    assert source.counts.captured == 1


def test_what_is_no_video_is_refused(tmp_path):
    headless = tmp_path / "headless.mp4"  # bikes.mp4 has its index at the end
    headless.write_bytes(bikes_path().read_bytes()[:100_000])
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(SourceError, match=r"headless\.mp4 cannot be opened; it is no video"):
        open_source(str(headless))
    with pytest.raises(SourceError, match=r"notes\.mp4 cannot be opened; it is no video"):
        open_source(str(tmp_path / "notes.mp4"))
    with pytest.raises(SourceError, match=r"missing\.mp4 cannot be opened: no such file"):
        open_source(str(tmp_path / "missing.mp4"))
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["r\udce9el.mp4", "r\udce9el/film.mp4"])  # "réel" in Latin-1
def test_a_path_that_is_no_utf_8_is_refused_under_a_name_to_print(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_video(tmp_path / "plain.mp4", moving_bar(3)).rename(path)
    with pytest.raises(SourceError, match=r"r\\udce9el.* not UTF-8; rename the file") as refused:
        open_source(str(path))
    assert str(refused.value).isprintable()


def test_a_file_is_called_what_its_caller_says():
    with FileSource(bikes_path(), name="the yard") as source:
        assert source.name == "the yard"


def test_native_libraries_stay_quiet(tmp_path, capfd):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(bikes_path().read_bytes()[:100_000])
    with pytest.raises(SourceError):
        FileSource(broken)
    assert capfd.readouterr() == ("", "")


def test_realtime_keeps_the_pace_and_drops_nothing(tmp_path):
    path = write_video(tmp_path / "short.mp4", moving_bar(11))
    started_s = time.monotonic()
    with FileSource(path, realtime=True) as source:
        assert len(list(source)) == 11
    assert time.monotonic() - started_s >= 0.4
