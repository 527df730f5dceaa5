import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from runtime.errors import DataError
from runtime.preprocess import PictureRule, fit_picture
from train.data.augment import AugmentRule
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
from train.data.video_reader import VideoReader

SEGMENTS = ClipRule(num_segments=4, spacing_s=0.5, sampling="segments")
LIVE = ClipRule(num_segments=4, spacing_s=0.5, sampling="live", seed=7, random=True)
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
    other = array_set(ClipRule(4, 0.5, "live", seed=8, random=True), items=items)
    assert [numbers(other[key]) for key in keys] != drawn


def test_times_before_the_clip_hold_its_first_frame():
    rule = ClipRule(num_segments=8, spacing_s=1.0, sampling="live", random=True)
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


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (5.0, 6.0, r"ramp\.mp4 ends at 1\.95 s, the segment 5\.\.6 s starts later"),
        (2.5, None, r"ramp\.mp4 ends at 1\.95 s, the segment 2\.5\.\.end s starts later"),
        (1.0, 1.03, r"the segment 1\.\.1\.03 s of .*ramp\.mp4 is shorter than one frame \(0\.050"),
        (1.0, 0.5, r"the segment 1\.\.0\.5 s of .* is shorter than one frame"),
        (1.95, 9.0, None),
    ],
)
def test_a_segment_without_a_frame_is_refused(video, start_s, end_s, message):
    clips = VideoClipSet([VideoSegment(video, start_s, end_s, 0)], PICTURE, SEGMENTS)
    if message is None:
        assert len(clips[0][0].unique(dim=0)) == 1, "one frame, four times"
        return
    with pytest.raises(DataError, match=message):
        clips[0]


def test_an_open_end_is_the_files_end_and_a_late_one_too(video):
    clips = [
        VideoClipSet([VideoSegment(video, 0.5, end_s, 0)], PICTURE, SEGMENTS)[0][0]
        for end_s in (2.0, None, 7.0)
    ]
    assert torch.equal(clips[0], clips[1])
    assert torch.equal(clips[0], clips[2])


def test_only_the_wanted_frames_are_asked_for(video, monkeypatch):
    asked = []
    original = VideoReader.frames

    def noting(self, indices):
        asked.append(list(indices))
        return original(self, indices)

    monkeypatch.setattr(VideoReader, "frames", noting)
    VideoClipSet([VideoSegment(video, 0.5, 1.5, 3)], PICTURE, SEGMENTS)[0]
    assert asked == [[12, 17, 22, 27]]


def test_a_folder_of_pictures_is_read_at_its_own_rate(tmp_path):
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i + 1:05d}.png"), np.full((32, 32, 3), 10 * i, np.uint8))
    segment = VideoSegment(tmp_path, 0.5, 1.3, 1, fps=10.0, template="{:05d}.png")
    clip, label = VideoClipSet([segment], PICTURE, SEGMENTS)[0]
    assert clip[:, 0, 8, 12].tolist() == [60, 80, 90, 110]
    assert label == 1


# ---- augmentation


def test_augmentation_of_videos_is_applied_to_the_sampled_frames(video):
    augment = AugmentRule(multi_scale_crop=True, flip=True, flip_map={3: 4}, seed=1)
    rule = ClipRule(4, 0.5, "segments", seed=7, random=True)
    clips = VideoClipSet([VideoSegment(video, 0.0, 2.0, 3)] * 8, PICTURE, rule, augment)
    decoded, times_s = read_video(video)
    labels = set()
    for key in [(epoch, item) for epoch in (0, 1) for item in range(8)]:
        chosen = rule.indices(0.0, 2.0, times_s, key, frame_s=0.05)
        pictures, label = augment.apply(list(decoded[chosen]), 3, PICTURE, key)
        clip, found = clips[key]
        assert torch.equal(clip, clip_tensor(pictures))
        assert found == label
        labels.add(found)
    assert labels == {3, 4}


def test_arrays_are_augmented_as_whole_frames():
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 32, 32, 3), np.uint8)
    augment = AugmentRule(multi_scale_crop=True, flip=True, flip_map={0: 1})
    clips = ArrayClipSet(frames, np.ones(1), [(0, False, 0)] * 40, SEGMENTS, augment)
    whole = PictureRule(height_px=32, width_px=32)
    drawn = [clips[3, item] for item in range(40)]
    assert {label for _, label in drawn} == {0, 1}
    assert len({clip.numpy().tobytes() for clip, _ in drawn}) > 30
    for item in (0, 17):
        chosen = frames[0, [1, 3, 4, 6]]
        pictures, label = augment.apply(list(chosen), 0, whole, (3, item))
        assert torch.equal(drawn[item][0], clip_tensor(pictures))
        assert drawn[item][1] == label


# ---- broken files


@pytest.fixture
def mostly_good(video, tmp_path):
    """200 clips of which numbers 5 and 6 cannot be read; labels are their numbers."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    paths = [broken if i in (5, 6) else video for i in range(200)]
    return [VideoSegment(path, 0.0, 2.0, i) for i, path in enumerate(paths)]


def test_a_clip_that_cannot_be_read_is_replaced_by_the_next_one(mostly_good, tmp_path):
    rule = ClipRule(4, 0.5, "segments", random=True)
    clips = VideoClipSet(mostly_good, PICTURE, rule, broken_list=tmp_path / "run" / "broken.txt")
    assert clips.num_broken == 0
    assert [clips[0, i][1] for i in (4, 5, 6, 7)] == [4, 7, 7, 7]
    assert torch.equal(clips[1, 5][0], clips[1, 5][0])
    assert not torch.equal(clips[1, 5][0], clips[1, 7][0]), "cut by its own key"
    assert clips.num_broken == 2
    lines = (tmp_path / "run" / "broken.txt").read_text().splitlines()
    assert len(lines) == 1, "two clips of one file: it is listed once"
    assert "broken.mp4" in lines[0]


def test_replacements_do_not_depend_on_what_was_read_before(mostly_good):
    keys = [(0, i) for i in (6, 5, 199, 4, 5)]
    forwards, backwards = (VideoClipSet(mostly_good, PICTURE, LIVE) for _ in range(2))
    first = [forwards[key] for key in keys]
    for key, (clip, label) in zip(reversed(keys), reversed(first), strict=True):
        again = backwards[key]
        assert again[1] == label
        assert torch.equal(again[0], clip)


def test_the_last_clip_is_replaced_by_the_first(video, tmp_path):
    segments = [VideoSegment(video, 0.0, 2.0, i) for i in range(100)]
    segments[99] = VideoSegment(tmp_path / "gone.mp4", 0.0, 2.0, 99)
    assert VideoClipSet(segments, PICTURE, SEGMENTS)[99][1] == 0


def test_more_than_one_percent_of_broken_clips_end_the_run(mostly_good):
    clips = VideoClipSet(mostly_good[:150], PICTURE, SEGMENTS)
    message = r"2 of 150 clips cannot be read, at most 1% may; .* the last one: .*broken\.mp4"
    with pytest.raises(DataError, match=message):
        clips[5]


# ---- kept clips and order


def test_kept_clips_are_decoded_once(video, monkeypatch):
    clips = VideoClipSet([VideoSegment(video, 0.0, 2.0, 3)], PICTURE, SEGMENTS)
    expected = clips[0]
    kept = KeptClips(clips)
    first = kept[0, 0]
    monkeypatch.setattr("train.data.clips.open_cached", None)
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


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("size", "num_ranks"), [(20, 1), (20, 4), (21, 4), (3, 4), (1, 3)])
def test_ranks_share_an_epoch(size, num_ranks, shuffle):
    samplers = [
        EpochSampler(size, seed=3, shuffle=shuffle, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(2)
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}, "equally long"
    items = [item for share in shares for _, item in share]
    assert set(items) == set(range(size)), "nothing is left out"
    assert len(items) - size < num_ranks, "as few twice as can be"
    alone = EpochSampler(size, seed=3, shuffle=shuffle)
    alone.set_epoch(2)
    in_turn = [share[i] for i in range(len(samplers[0])) for share in shares]
    assert in_turn[:size] == list(alone), "ranks take the order in turn"


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_that_is_not_there_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank must be in 0\.\.1, got {rank}"):
        EpochSampler(4, seed=0, shuffle=True, rank=rank, num_ranks=2)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_goes_on_in_its_middle_and_the_next_is_whole(rank):
    whole = EpochSampler(21, seed=3, shuffle=True, rank=rank, num_ranks=2)
    resumed = EpochSampler(21, seed=3, shuffle=True, rank=rank, num_ranks=2)
    resumed.start_at(4, 6)
    for epoch in (4, 5):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)  # as Lightning does, also for the epoch that goes on
        assert list(resumed) == list(whole)[6 if epoch == 4 else 0 :]
        assert len(resumed) == len(whole), "Lightning counts the epoch's batches, done or not"
