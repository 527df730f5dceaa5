import numpy as np
import pytest
import torch

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from tests.videos import bikes_path
from train.data.clips import ClipRule, VideoClipSet, VideoSegment
from train.data.decode import open_frames
from train.data.frame_cache import CachedFrames, cache_file, open_cached, write_cache
from train.data.frame_folder import FrameFolder
from train.data.video_file import write_h264
from train.data.video_reader import VideoReader

ALL = np.arange(30)


def smooth(count=30, height=48, width=64):
    """Pictures whose levels and colours change slowly: what JPEG is for."""
    y, x = np.mgrid[0:height, 0:width]
    for i in range(count):
        yield np.stack([3 * y + 3 * i, 2 * x + 3 * i, 60 + x + y], 2).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "videos" / "a clip.mp4"
    write_h264(path, smooth(), 20)
    return path


@pytest.fixture(scope="module")
def cache(video):
    folder = video.parent.parent / "cache"
    write_cache(video, folder)
    return folder


def test_a_cache_gives_the_recordings_frames_and_times(video, cache):
    with CachedFrames(cache_file(cache, video)) as cached, open_frames(video) as reader:
        assert np.array_equal(cached.times_s, reader.times_s)
        assert cached.frame_s == pytest.approx(reader.frame_s)
        assert cached.duration_s == pytest.approx(reader.duration_s)
        error = np.abs(np.stack(cached.frames(ALL)).astype(int) - np.stack(reader.frames(ALL)))
    assert error.mean() < 1.5, "JPEG's, and no mixed-up colours or frames"
    assert error.max() < 24


def test_frames_come_in_any_order_and_repeated(cache, video):
    with CachedFrames(cache_file(cache, video)) as cached:
        frames = cached.frames(ALL)
        some = cached.frames(np.array([7, 3, 7, 29, 0]))
        assert all(
            np.array_equal(a, frames[i]) for a, i in zip(some, (7, 3, 7, 29, 0), strict=True)
        )
        assert cached.frames(np.array([], np.int64)) == []
        for wrong in (-1, 30):
            with pytest.raises(ValueError, match=rf"has frames 0\.\.29, got \[{wrong}\]"):
                cached.frames(np.array([wrong]))


def test_a_large_recording_is_kept_small_and_a_small_one_as_it_is(tmp_path, cache, video):
    path = write_cache(bikes_path(), tmp_path / "cache", 100)
    with CachedFrames(path) as cached:
        assert (len(cached.times_s), cached.short_side_px) == (250, 100)
        assert cached.frames(np.array([249]))[0].shape == (100, 235, 3)
    assert path.stat().st_size < 250 * 12_000
    with CachedFrames(cache_file(cache, video)) as cached:
        assert cached.frames(np.array([0]))[0].shape == (48, 64, 3)


def test_clips_from_the_cache_are_the_recordings_within_jpegs_error(tmp_path):
    segments = [VideoSegment(bikes_path(), 2.0 * i, 2.0 * i + 2.0, i) for i in range(4)]
    picture = PictureRule(height_px=112, width_px=112, crop="center")
    rule = ClipRule(8, 0.25, "live", random=True)
    write_cache(bikes_path(), tmp_path / "cache")
    direct = VideoClipSet(segments, picture, rule)
    cached = VideoClipSet(segments, picture, rule, cache=tmp_path / "cache")
    for key in [(0, 0), (0, 3), (7, 2)]:
        (ours, label), (clip, expected) = cached[key], direct[key]
        assert label == expected
        error = (ours.int() - clip.int()).abs().float()
        assert error.mean() < 3.0, "resized twice, JPEG once"
        assert not torch.equal(ours, clip), "the cache was used"


def test_a_video_that_the_cache_lacks_is_read_itself(tmp_path, video):
    with open_cached(video, tmp_path / "empty") as reader:
        assert isinstance(reader, VideoReader)
    with open_cached(video, None) as reader:
        assert isinstance(reader, VideoReader)


def test_a_changed_recording_is_not_taken_from_the_cache(tmp_path):
    path, cache = tmp_path / "a.mp4", tmp_path / "cache"
    write_h264(path, smooth(), 20)
    made = write_cache(path, cache)
    write_h264(path, smooth(12), 20)
    with open_cached(path, cache) as reader:
        assert isinstance(reader, VideoReader)
    assert write_cache(path, cache) == made
    with open_cached(path, cache) as reader:
        assert isinstance(reader, CachedFrames)
        assert len(reader.times_s) == 12


def test_the_cache_is_enough_without_the_recordings_and_moves_with_the_data(tmp_path):
    path = tmp_path / "data" / "train" / "a.mp4"
    write_h264(path, smooth(), 20)
    write_cache(path, tmp_path / "data" / "cache")
    path.unlink()
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    with open_cached(moved / "train" / "a.mp4", moved / "cache") as reader:
        assert len(reader.frames(ALL)) == 30


def test_files_of_one_name_do_not_meet_in_the_cache(tmp_path):
    one, other = (cache_file(tmp_path / "cache", tmp_path / x / "v.mp4") for x in "ab")
    assert one != other
    assert one.parent == other.parent == tmp_path / "cache"


def test_a_cache_that_is_up_to_date_is_left_and_another_size_made_anew(video, tmp_path):
    cache = tmp_path / "cache"
    path = write_cache(video, cache, 32)
    before = path.stat().st_mtime_ns
    write_cache(video, cache, 32)
    assert path.stat().st_mtime_ns == before
    write_cache(video, cache, 40)
    with CachedFrames(path) as cached:
        assert cached.frames(np.array([0]))[0].shape == (40, 53, 3)


def test_a_folder_of_pictures_is_cached_with_its_rate(tmp_path):
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(smooth()):
        cv2.imwrite(str(folder / f"img_{i:03d}.png"), picture[..., ::-1])
    write_cache(folder, tmp_path / "cache", fps=12.0, template="img_{:03d}.png")
    with open_cached(folder, tmp_path / "cache") as cached, FrameFolder(folder, fps=12.0) as plain:
        assert isinstance(cached, CachedFrames)
        assert np.allclose(cached.times_s, plain.times_s)
        error = np.abs(np.stack(cached.frames(ALL)).astype(int) - np.stack(plain.frames(ALL)))
        assert error.mean() < 1.5


def last_picture_zero(data):
    start = np.frombuffer(data, "<i8", 31, 40 + 30 * 8)[29]
    return data[:start] + bytes(len(data) - start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "it is no cache file"),
        (lambda data: b"OTHERFMT" + data[8:], "it is no cache file"),
        (lambda data: data[:60], "it says 30 frames in 60 bytes"),
        (lambda data: data[:-1], r"it should have \d+ bytes, it has \d+"),
        (last_picture_zero, "frame 29 does not decode"),
    ],
    ids=["empty", "other format", "cut in its table", "cut in its pictures", "overwritten"],
)
def test_a_damaged_cache_says_so(video, cache, tmp_path, change, message):
    path = tmp_path / "damaged.frames"
    path.write_bytes(change(cache_file(cache, video).read_bytes()))
    expected = rf"damaged\.frames is damaged: {message}; delete it"
    with pytest.raises(DataError, match=expected), CachedFrames(path) as cached:
        cached.frames(ALL)


def test_a_damaged_file_is_replaced_when_the_cache_is_made_again(tmp_path, video):
    path = write_cache(video, tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-9])
    assert write_cache(video, tmp_path / "cache") == path
    with CachedFrames(path) as cached:
        assert len(cached.frames(ALL)) == 30


def test_a_recording_that_breaks_off_leaves_nothing(tmp_path, video, monkeypatch):
    original = VideoReader.frames

    def breaking(self, indices):
        if len(indices) > 1:
            raise DataError("the disk is gone")
        return original(self, indices)

    monkeypatch.setattr(VideoReader, "frames", breaking)
    with pytest.raises(DataError, match="the disk is gone"):
        write_cache(video, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_size_below_eight_pixels_is_refused(tmp_path, video):
    with pytest.raises(ValueError, match="short_side_px must be >= 8, got 4"):
        write_cache(video, tmp_path, 4)
