import numpy as np
import pytest
import torch

from runtime.errors import DataError
from runtime.preprocess import PictureRule, fit_picture
from train.data.arrow_of_time import LABELS, train_arrays
from train.data.catalog import Split
from train.data.clips import ClipRule
from train.data.decode import open_frames
from train.data.entry import VideoSegment
from train.data.video_file import read_video, write_h264
from train.data.views import (
    ViewRule,
    crop_rule,
    crops_of,
    view_set,
    view_times,
)

SMALL = PictureRule(height_px=28, width_px=28, crop="center")
FPS = 10


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames of 64 × 32 pixels; each frame is darker than the next, left darker than right."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    ramp = np.linspace(0, 80, 64)[None, :, None]
    frames = [np.broadcast_to(ramp + 4 * i, (32, 64, 3)).astype(np.uint8) for i in range(40)]
    write_h264(path, frames, FPS)
    return path


def videos_of(*segments):
    return Split(("a", "b"), None, tuple(segments))


# ---- times


def slow_segment_times(start_s, end_s, T, num_clips):
    part = (end_s - start_s) / T
    clips = []
    for c in range(num_clips):
        place = 0.5 + c / num_clips
        place = place - 1 if place >= 1 else place
        clips.append([start_s + (t + place) * part for t in range(T)])
    return clips


@pytest.mark.parametrize("num_clips", [1, 2, 3, 5])
def test_segment_clips_share_each_part_evenly_and_start_with_its_centre(num_clips):
    found = view_times(ViewRule(num_clips), 1.0, 5.0, 4, 99.0)
    assert np.allclose(found, slow_segment_times(1.0, 5.0, 4, num_clips))
    assert found[0].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_two_clips_are_centres_and_starts_as_twice_sample_takes_them():
    assert view_times(ViewRule(2), 0.0, 4.0, 4, 99.0)[1].tolist() == [0, 1, 2, 3]


def test_dense_clips_are_windows_from_the_first_to_the_last_that_fit():
    times = view_times(ViewRule(10, 3, "dense"), 1.0, 11.0, 4, 2.0)
    assert times.shape == (10, 4)
    assert np.allclose(np.diff(times, axis=1), 0.5), "the contract's spacing"
    assert np.allclose(times[0], [1.25, 1.75, 2.25, 2.75])
    assert np.allclose(times[-1], [9.25, 9.75, 10.25, 10.75])
    assert np.allclose(np.diff(times[:, 0]), 8 / 9)


def test_one_dense_clip_lies_in_the_middle():
    rule = ViewRule(1, 1, "dense")
    assert np.allclose(view_times(rule, 0.0, 10.0, 2, 2.0), [[4.5, 5.5]])
    of_training = ClipRule(2, 1.0, "dense")
    grid = np.arange(0, 10, 0.5)
    chosen = of_training.indices(0.0, 10.0, grid, (0, 0))
    assert grid[chosen].tolist() == [4.5, 5.5], "as the test protocol of dense training cuts it"


def test_a_dense_clip_of_a_short_action_is_the_whole_action():
    times = view_times(ViewRule(3, 1, "dense"), 0.0, 1.0, 4, 2.0)
    assert np.allclose(times, [[0.125, 0.375, 0.625, 0.875]] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "num_clips must be >= 1, got 0"),
        ((1, 2), "num_crops must be 1 or 3, got 2"),
        ((1, 1, "live"), "moments must be segments or dense, got 'live'"),
    ],
)
def test_wrong_rules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViewRule(*arguments)


# ---- crops


def test_full_resolution_is_256_of_224():
    assert crop_rule(PictureRule(height_px=224, width_px=224), 3).height_px == 256
    wide = crop_rule(PictureRule(height_px=112, width_px=224, crop="center"), 3)
    assert (wide.height_px, wide.width_px) == (128, 256)
    assert crop_rule(SMALL, 1) == SMALL


@pytest.mark.parametrize("is_wide", [True, False])
def test_crops_are_left_centre_and_right_of_the_short_side(is_wide):
    frame = np.random.default_rng(0).integers(0, 256, (32, 96, 3), np.uint8)
    parts = [frame[:, :32], frame[:, 32:64], frame[:, 64:]]
    if not is_wide:
        frame = frame.transpose(1, 0, 2)
        parts = [part.transpose(1, 0, 2) for part in parts]
    found = crops_of(frame, crop_rule(SMALL, 3))
    assert [np.array_equal(a, b) for a, b in zip(found, parts, strict=True)] == [True] * 3


def test_crops_of_a_mirrored_frame_are_the_mirrored_crops_in_reverse():
    frame = np.random.default_rng(1).integers(0, 256, (48, 90, 3), np.uint8)
    left, centre, right = crops_of(frame, crop_rule(SMALL, 3))
    mirrored = crops_of(np.ascontiguousarray(frame[:, ::-1]), crop_rule(SMALL, 3))
    for found, expected in zip(mirrored, (right, centre, left), strict=True):
        assert np.array_equal(found, expected[:, ::-1])


def test_a_square_frame_gives_the_same_crop_three_times():
    frame = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    left, centre, right = crops_of(frame, crop_rule(SMALL, 3))
    assert left.shape == (32, 32, 3)
    assert np.array_equal(left, centre)
    assert np.array_equal(left, right)


# ---- sets


def test_one_view_is_the_clip_of_training_bit_for_bit(video):
    split = videos_of(VideoSegment(video, 0.5, 3.0, 1), VideoSegment(video, 0.0, None, 0))
    views = view_set(split, SMALL, 4, 2.0, ViewRule())
    clips = split.clips(SMALL, ClipRule(4, 0.5, "segments"))
    assert len(views) == len(clips) == 2
    for index in range(2):
        pictures, label = views[index]
        assert pictures.shape[0] == 1
        assert torch.equal(pictures[0], clips[index][0])
        assert label == clips[index][1]


def test_views_are_every_crop_of_every_clip_in_order(video):
    views = view_set(videos_of(VideoSegment(video, 0.0, 4.0, 1)), SMALL, 4, 2.0, ViewRule(2, 3))
    pictures, label = views[0]
    assert views.view_shape == (6, 4, 32, 32)
    assert (pictures.shape, pictures.dtype, label) == ((6, 4, 3, 32, 32), torch.uint8, 1)
    frames, _ = read_video(video)
    # centres at 0.5, 1.5, ... s and starts at 0, 1, ... s of 10 frames a second; a centre lies
    # between two frames, and the one nearer the middle is taken
    for clip, chosen in enumerate([[5, 15, 24, 34], [0, 10, 19, 29]]):
        for crop, left in enumerate((0, 16, 32)):
            expected = np.stack([frames[i][:, left : left + 32] for i in chosen])
            found = pictures[3 * clip + crop].permute(0, 2, 3, 1).numpy()
            assert np.abs(found.astype(int) - expected).max() <= 4, (clip, crop)
            assert np.array_equal(found[0], expected[0])


def test_a_video_is_read_once_for_all_views(video, monkeypatch):
    opened = []

    def counted(*arguments, **more):
        opened.append(arguments)
        return open_frames(*arguments, **more)

    monkeypatch.setattr("train.data.views.open_frames", counted)
    split = videos_of(VideoSegment(video, 0.0, 4.0, 1))
    view_set(split, SMALL, 4, 2.0, ViewRule(10, 3, "dense"))[0]
    assert len(opened) == 1


def test_recordings_group_clips_only_where_all_are_known(video):
    known = VideoSegment(video, 0.0, 1.0, 0, group="monday")
    unknown = VideoSegment(video, 1.0, 2.0, 0)
    groups = [
        view_set(videos_of(*segments), SMALL, 4, 2.0, ViewRule()).groups
        for segments in ((known, known), (known, unknown))
    ]
    assert groups == [("monday", "monday"), None]


def test_arrays_have_clips_in_time_and_no_crops():
    picture = PictureRule(height_px=16, width_px=16)
    arrays = train_arrays(0, 3, picture, frames_per_clip=8)
    split = Split(LABELS, arrays, ())
    views = view_set(split, picture, 4, 2.0, ViewRule(2))
    clips = split.clips(picture, ClipRule(4, 0.5, "segments"))
    assert len(views) == len(clips)
    assert views.view_shape == (2, 4, 16, 16)
    for index in range(len(views)):
        pictures, label = views[index]
        assert torch.equal(pictures[0], clips[index][0])
        assert label == clips[index][1]
    assert not torch.equal(views[0][0][0], views[0][0][1])
    with pytest.raises(DataError, match="3 crops need the frames of video files; .* 2x1"):
        view_set(split, picture, 4, 2.0, ViewRule(2, 3))


def test_backwards_clips_are_the_forward_ones_reversed():
    picture = PictureRule(height_px=16, width_px=16)
    arrays = train_arrays(0, 1, picture, frames_per_clip=8)
    views = view_set(Split(LABELS, arrays, ()), picture, 4, 2.0, ViewRule())
    assert torch.equal(views[0][0], views[1][0].flip(1))


def test_a_clip_keeps_the_checkpoints_picture(video):
    letterbox = PictureRule(height_px=28, width_px=28, crop="full")
    views = view_set(videos_of(VideoSegment(video, 0.0, 4.0, 1)), letterbox, 1, 2.0, ViewRule())
    frames, _ = read_video(video)
    found = views[0][0][0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, fit_picture(frames[19], letterbox)) or np.array_equal(
        found, fit_picture(frames[20], letterbox)
    )


def test_a_segment_after_the_end_is_named(video):
    views = view_set(videos_of(VideoSegment(video, 9.0, 10.0, 1)), SMALL, 4, 2.0, ViewRule())
    with pytest.raises(DataError, match=r"a\.mp4 ends at"):
        views[0]
