import weakref

import av
import cv2
import numpy as np
import pytest

from runtime.errors import DataError
from train.data.video_file import read_video, write_h264


def ramp(num_frames, height=64, width=96):
    """Grey frames that brighten by six levels each: easy to tell apart after H.264."""
    return [np.full((height, width, 3), 20 + 6 * i, np.uint8) for i in range(num_frames)]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "ramp.mp4"
    assert write_h264(path, iter(ramp(30)), 20) == 30
    return path


def test_what_is_written_is_read_back_with_its_times(video):
    frames, times_s = read_video(video)
    assert frames.shape == (30, 64, 96, 3)
    assert frames.dtype == np.uint8
    assert np.allclose(times_s, np.arange(30) / 20)
    assert np.abs(frames.astype(int) - np.stack(ramp(30))).max() <= 3


def test_colour_is_rgb_for_pyav_and_for_opencv(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    write_h264(tmp_path / "red.mp4", [red] * 3, 20)
    frames, _ = read_video(tmp_path / "red.mp4")
    assert np.abs(frames[1].astype(int) - red).max() < 12
    _, bgr = cv2.VideoCapture(str(tmp_path / "red.mp4")).read()
    assert np.abs(bgr[..., ::-1].astype(int) - red).max() < 12


def test_same_frames_same_bytes(video, tmp_path):
    write_h264(tmp_path / "again.mp4", ramp(30), 20)
    assert (tmp_path / "again.mp4").read_bytes() == video.read_bytes()


def test_nothing_that_varies_on_a_busy_machine_is_switched_on(video):
    """x264 writes into the file how it was set; two runs rarely differ where it is not so."""
    settings = video.read_bytes().partition(b" options: ")[2].split(b"\0")[0].split()
    assert {b"threads=1", b"lookahead_threads=1", b"mbtree=0"} <= set(settings)


def test_frames_are_not_held_in_memory(tmp_path):
    made: list[weakref.ref[np.ndarray]] = []
    most_alive = 0

    def frames():
        nonlocal most_alive
        for _ in range(60):
            frame = np.zeros((64, 96, 3), np.uint8)
            made.append(weakref.ref(frame))
            most_alive = max(most_alive, sum(ref() is not None for ref in made))
            yield frame

    write_h264(tmp_path / "a.mp4", frames(), 20)
    assert most_alive <= 4


def test_a_failing_source_leaves_no_file(tmp_path):
    def frames():
        yield from ramp(3)
        raise RuntimeError("camera on fire")

    with pytest.raises(RuntimeError, match="camera on fire"):
        write_h264(tmp_path / "a.mp4", frames(), 20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 20, "needs at least one frame, got none"),
        (ramp(2), 0, "fps must be >= 1, got 0"),
        (ramp(2, height=63), 20, "H and W must be even for H.264, got 63×96"),
        ([*ramp(2), *ramp(1, width=64)], 20, r"frame 2 is \(64, 64, 3\), the first was"),
        ([np.zeros((64, 96), np.uint8)], 20, r"must be \(H, W, 3\) uint8, got \(64, 96\)"),
    ],
)
def test_wrong_frames_are_refused(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_h264(tmp_path / "a.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.mp4 is not there"):
        read_video(tmp_path / "gone.mp4")


def test_something_else_than_a_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video " * 50)
    with pytest.raises(DataError, match=r"text\.mp4 is unreadable or cut short"):
        read_video(tmp_path / "text.mp4")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9, 0.97])
def test_a_truncated_file_is_named_and_never_read_short(tmp_path, share):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(30)]
    write_h264(tmp_path / "noise.mp4", noise, 20)
    data = (tmp_path / "noise.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.mp4 is .*cut short"):
        read_video(tmp_path / "cut.mp4")


def test_a_file_cut_between_two_frames_is_not_taken_as_a_shorter_video(video, tmp_path):
    with av.open(str(video)) as container:
        ends = [p.pos + p.size for p in container.demux(video=0) if p.pos is not None and p.size]
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[: ends[19]])
    with pytest.raises(DataError, match=r"cut\.mp4 is cut short: 20 of 30 frames decode"):
        read_video(tmp_path / "cut.mp4")
