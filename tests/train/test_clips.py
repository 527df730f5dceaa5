import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from runtime.errors import DataError
from runtime.preprocess import PictureRule, fit_picture
from train.data.clips import (
    ArrayClipSet,
    ClipRule,
    EpochSampler,
    KeptClips,
    VideoClipSet,
    VideoSegment,
    clip_tensor,
)
from train.data.video_file import read_video, write_h264

SEGMENTS = ClipRule(num_segments=4, spacing_s=0.5, sampling="segments")
LIVE = ClipRule(num_segments=4, spacing_s=0.5, sampling="live", seed=7)
PICTURE = PictureRule(height_px=16, width_px=24)


def numbered(num_clips=3, num_frames=16):
    """Clip c's frame i is all 20·c + i."""
    value = 20 * np.arange(num_clips)[:, None] + np.arange(num_frames)
    shape = (num_clips, num_frames, 4, 6, 3)
    return np.broadcast_to(value[..., None, None, None], shape).astype(np.uint8)


def array_set(rule, num_frames=16, items=((0, False, 5), (0, True, 6), (2, False, 1))):
    return ArrayClipSet(numbered(num_frames=num_frames), np.full(3, 2.0), list(items), rule)


def numbers(item):
    """Which frames an item holds."""
    return item[0][:, 0, 0, 0].tolist()


def test_an_item_is_a_clip_as_the_model_takes_it_and_its_class():
    clip, label = array_set(SEGMENTS)[2]
    assert (clip.shape, clip.dtype, label) == ((4, 3, 4, 6), torch.uint8, 1)
    assert clip.is_contiguous()
    assert numbers((clip, label)) == [42, 46, 49, 53]


def test_axes_and_colours_keep_their_places():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    clip = clip_tensor(pictures)
    assert clip[1, 2, 3, 5] == pictures[1, 3, 5, 2]


@pytest.mark.parametrize("num_frames", [4, 8, 9, 13, 16])
def test_a_clip_backwards_is_its_partner_with_the_same_frames(num_frames):
    clips = array_set(SEGMENTS, num_frames)
    assert numbers(clips[1]) == numbers(clips[0])[::-1]
    assert (clips[0][1], clips[1][1]) == (5, 6)


def test_a_live_window_backwards_is_the_window_of_the_reversed_clip():
    clips = array_set(LIVE, items=[(0, True, 6)])
    reversed_frames = numbered()[:, ::-1]
    forwards = ArrayClipSet(reversed_frames, np.full(3, 2.0), [(0, False, 6)], LIVE)
    for epoch in range(10):
        assert numbers(clips[epoch, 0]) == numbers(forwards[epoch, 0])
        assert numbers(clips[epoch, 0]) == sorted(numbers(clips[epoch, 0]), reverse=True)


def test_a_live_clip_depends_on_seed_epoch_and_item_alone():
    items = [(0, False, 0)] * 6
    first, again = array_set(LIVE, items=items), array_set(LIVE, items=items)
    keys = [(epoch, item) for epoch in range(5) for item in range(6)]
    drawn = [numbers(first[key]) for key in keys]
    assert [numbers(again[key]) for key in reversed(keys)] == drawn[::-1]
    assert len({tuple(d[:6]) for d in drawn}) > 5, "windows vary"
    assert drawn[:6] != drawn[6:12], "from epoch to epoch"
    other = array_set(ClipRule(4, 0.5, "live", seed=8), items=items)
    assert [numbers(other[key]) for key in keys] != drawn


def test_times_before_the_clip_hold_its_first_frame():
    rule = ClipRule(num_segments=8, spacing_s=1.0, sampling="live")
    assert numbers(array_set(rule)[0])[:3] == [0, 0, 0]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames of 20 fps that brighten by five levels each."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    write_h264(path, (np.full((32, 32, 3), 20 + 5 * i, np.uint8) for i in range(40)), 20)
    return path


def test_a_videos_clip_is_made_of_its_decoded_frames(video):
    clips = VideoClipSet([VideoSegment(video, 0.5, 1.5, 3)], PICTURE, SEGMENTS)
    clip, label = clips[0]
    assert (clip.shape, clip.dtype, label, len(clips)) == ((4, 3, 16, 24), torch.uint8, 3, 1)
    decoded, _ = read_video(video)
    # segment centres 0.625, 0.875, 1.125, 1.375 s: frame k is shown from k/20 to (k + 1)/20 s
    expected = np.stack([fit_picture(decoded[k], PICTURE) for k in (12, 17, 22, 27)])
    assert np.array_equal(clip.numpy(), expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("length", [40, 30, 24, 9])
def test_a_video_and_the_array_of_its_frames_give_the_same_clip(video, length):
    decoded, _ = read_video(video)
    frames = decoded[np.newaxis, :length]
    rule = PictureRule(height_px=32, width_px=32)
    from_video = VideoClipSet([VideoSegment(video, 0.0, length / 20, 0)], rule, SEGMENTS)
    from_array = ArrayClipSet(frames, np.array([length / 20]), [(0, False, 0)], SEGMENTS)
    assert torch.equal(from_video[0][0], from_array[0][0])


def test_live_sampling_of_a_video_reads_the_recordings_real_past(video):
    decoded, _ = read_video(video)
    rule = PictureRule(height_px=32, width_px=32)
    clips = VideoClipSet([VideoSegment(video, 1.6, 1.8, 0)], rule, LIVE)
    levels = decoded[:, 16, 16].mean(1)
    for epoch in range(5):
        clip, _ = clips[epoch, 0]
        found = clip[:, :, 16, 16].double().mean(1).numpy()
        frames = np.abs(levels[:, None] - found).argmin(0)
        assert frames[-1] in (35, 36), "ends inside the action"
        assert frames[0] < 20, "and begins before it"


def test_a_segment_beyond_the_videos_end_is_refused(video):
    clips = VideoClipSet([VideoSegment(video, 5.0, 6.0, 0)], PICTURE, SEGMENTS)
    with pytest.raises(DataError, match=r"ramp\.mp4 ends at 1\.95 s, the segment 5\.\.6 s starts"):
        clips[0]


def test_kept_clips_are_decoded_once(video, monkeypatch):
    clips = VideoClipSet([VideoSegment(video, 0.0, 2.0, 3)], PICTURE, SEGMENTS)
    expected = clips[0]
    kept = KeptClips(clips)
    first = kept[0, 0]
    monkeypatch.setattr("train.data.clips.read_video", None)
    again = kept[1, 0]
    assert torch.equal(first[0], expected[0])
    assert torch.equal(again[0], expected[0])
    assert (again[1], len(kept)) == (3, 1)


def test_every_epoch_has_its_own_order_of_all_items():
    sampler = EpochSampler(20, seed=3, shuffle=True)
    first = list(sampler)
    assert list(sampler) == first
    assert sorted(item for _, item in first) == list(range(20))
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [item for _, item in second] != [item for _, item in first]
    resumed = EpochSampler(20, seed=3, shuffle=True)
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(EpochSampler(3, seed=3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


def test_a_loader_hands_the_epoch_to_the_clips():
    items = [(0, False, 0)] * 8
    clips, sampler = array_set(LIVE, items=items), EpochSampler(8, seed=0, shuffle=True)
    loader = DataLoader(clips, batch_size=4, sampler=sampler)
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        loaded = torch.cat([clip for clip, _ in loader])
        expected = torch.stack([clips[epoch, item][0] for _, item in sampler])
        assert torch.equal(loaded, expected)
