import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from tests.train.test_resume import REPOSITORY
from train.data.augment import AugmentRule
from train.data.clips import ArrayClipSet, ClipRule, KeptClips, VideoClipSet, VideoSegment
from train.data.loader import clip_loader, num_workers
from train.data.video_file import write_h264

PICTURE = PictureRule(height_px=24, width_px=24)
RULE = ClipRule(4, 0.25, "live", seed=3, random=True)
AUGMENT = AugmentRule(multi_scale_crop=True, flip=True, flip_map={0: 1, 1: 0}, seed=3)


def loader_of(clips, *, batch_size=4, shuffle=True, workers=0, **more):
    return clip_loader(
        clips, batch_size=batch_size, shuffle=shuffle, seed=5, workers=workers, **more
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8)
    write_h264(path, pictures, 20)
    return path


@pytest.fixture
def clips(video):
    segments = [VideoSegment(video, 0.1 * i, 0.1 * i + 0.8, i % 2) for i in range(10)]
    return VideoClipSet(segments, PICTURE, RULE, AUGMENT)


def batches_of(loader, epoch=0):
    loader.set_epoch(epoch)
    return [(clip.numpy().tobytes(), tuple(label.tolist())) for clip, label in loader]


def test_batches_do_not_depend_on_the_number_of_workers(clips):
    alone = loader_of(clips, workers=0)
    shared = loader_of(clips, workers=2)
    first = batches_of(alone)
    assert len(first) == 3
    for epoch in (0, 4, 0):
        assert batches_of(shared, epoch) == batches_of(alone, epoch)
    assert batches_of(alone, 4) != first


def test_a_batch_is_as_the_model_takes_it(clips):
    clip, label = next(iter(loader_of(clips, workers=0)))
    assert (clip.shape, clip.dtype) == ((4, 4, 3, 24, 24), torch.uint8)
    assert (label.shape, label.dtype) == ((4,), torch.int64)


def test_the_epoch_that_is_set_after_iter_is_the_one_that_runs(clips):
    """Lightning makes the iterator before it says where a resumed run goes on."""
    loader = loader_of(clips, workers=1)
    expected = batches_of(loader, 3)
    loader.set_epoch(0)
    batches = iter(loader)
    loader.set_epoch(3)
    assert [(c.numpy().tobytes(), tuple(n.tolist())) for c, n in batches] == expected


def test_an_epoch_goes_on_after_its_last_whole_batch(clips):
    loader = loader_of(clips, workers=1)
    expected = batches_of(loader, 2)
    resumed = loader_of(clips, workers=1)
    resumed.clip_sampler.start_at(2, 4)
    assert batches_of(resumed, 2) == expected[1:]
    assert batches_of(resumed, 3) == batches_of(loader, 3)


def test_ranks_load_their_shares(clips):
    everything = loader_of(clips, batch_size=1)
    ranks = [loader_of(clips, batch_size=1, rank=r, num_ranks=2) for r in range(2)]
    shares = [batches_of(loader, 1) for loader in ranks]
    assert [one for pair in zip(*shares, strict=True) for one in pair] == batches_of(everything, 1)


def test_a_last_batch_that_is_not_full_may_be_left_out(clips):
    assert len(batches_of(loader_of(clips, workers=0, drop_last=True))) == 2
    with pytest.raises(DataError, match="10 clips are fewer than one batch of 11"):
        loader_of(clips, batch_size=11, drop_last=True)
    with pytest.raises(DataError, match="5 clips a rank are fewer than one batch of 6"):
        clip_loader(
            clips, workers=0, batch_size=6, shuffle=True, seed=0, num_ranks=2, drop_last=True
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_cannot_be_loaded_is_one_clear_line(tmp_path, workers):
    segments = [VideoSegment(tmp_path / "gone.mp4", 0.0, 1.0, 0)] * 8
    loader = loader_of(VideoClipSet(segments, PICTURE, RULE), workers=workers)
    # the other process may have met some more meanwhile
    with pytest.raises(DataError, match=r"^[1-8] of 8 clips cannot be read.*gone\.mp4") as caught:
        batches_of(loader)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert "worker" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_clips_are_counted_over_all_workers(video, tmp_path, workers):
    """Each worker alone would stay below the limit."""
    bad = {i: tmp_path / f"broken{i}.mp4" for i in (0, 70, 140, 210)}
    for path in bad.values():
        path.write_bytes(b"no video")
    segments = [VideoSegment(bad.get(i, video), 0, 1, i) for i in range(300)]
    clips = VideoClipSet(segments, PICTURE, RULE, broken_list=tmp_path / "broken.txt")
    with pytest.raises(DataError, match="4 of 300 clips cannot be read, at most 1% may"):
        batches_of(loader_of(clips, workers=workers, batch_size=5, shuffle=False))
    assert clips.num_broken == 4
    assert len((tmp_path / "broken.txt").read_text().splitlines()) == 4


def test_replacements_are_the_same_in_every_worker_and_rank(video, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    segments = [VideoSegment(broken if i == 3 else video, 0, 1, i) for i in range(100)]
    clips = VideoClipSet(segments, PICTURE, RULE)
    alone = batches_of(loader_of(clips, workers=0, batch_size=2))
    assert batches_of(loader_of(clips, workers=2, batch_size=2)) == alone
    shares = [
        batches_of(loader_of(clips, workers=1, rank=r, num_ranks=2, batch_size=2)) for r in range(2)
    ]
    labels = [sorted(n for _, batch in share for n in batch) for share in shares]
    assert sorted(labels[0] + labels[1]) == sorted([*(i for i in range(100) if i != 3), 4])


class Strange(KeptClips):
    """A set whose items fail in a way of its own."""

    def __init__(self, clips, failure):
        super().__init__(clips)
        self.failure = failure

    def __getitem__(self, key):
        return self.failure()


def test_a_worker_that_is_killed_is_one_line_with_advice(clips):
    killed = Strange(clips, lambda: os.kill(os.getpid(), signal.SIGKILL))
    loader = loader_of(killed, workers=1)
    with pytest.raises(
        DataError, match="a loader process died.*DataLoader worker.*fewer workers"
    ) as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value)


def full_disk():
    raise OSError(5, "Input/output error")


def defect():
    raise RuntimeError("no such thing")


def test_the_worlds_failures_are_for_the_user_and_defects_keep_their_traceback(clips):
    with pytest.raises(DataError, match="Input/output error"):
        next(iter(loader_of(Strange(clips, full_disk), workers=1)))
    with pytest.raises(RuntimeError, match=r"Traceback(.|\n)*no such thing"):
        next(iter(loader_of(Strange(clips, defect), workers=1)))


def opencv_threads():
    return torch.tensor(cv2.getNumThreads()), os.getpid()


def test_workers_use_one_thread_and_stay(clips):
    loader = loader_of(Strange(clips, opencv_threads), workers=1)
    seen = [tuple(part.tolist() for part in batch) for _ in range(2) for batch in loader]
    assert {n for threads, _ in seen for n in threads} == {1}
    assert len({pid for _, pids in seen for pid in pids}) == 1, "the same process in each epoch"
    assert seen[0][1][0] != os.getpid()


def test_auto_workers_leave_a_core_and_are_not_started_for_arrays(clips, monkeypatch):
    arrays = ArrayClipSet(np.zeros((1, 4, 8, 8, 3), np.uint8), np.ones(1), [(0, False, 0)], RULE)
    for cores, expected in ((1, 0), (2, 1), (6, 5), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert num_workers("auto", clips) == expected
        assert num_workers("auto", KeptClips(clips)) == expected
        assert num_workers("auto", arrays) == num_workers("auto", KeptClips(arrays)) == 0
        assert num_workers(3, arrays) == 3


@pytest.mark.parametrize("workers", [-1, "many"])
def test_workers_that_are_no_number_are_refused(workers):
    with pytest.raises(ValueError, match=f"workers must be auto or >= 0, got '?{workers}"):
        num_workers(workers)


def test_a_consumer_that_stops_early_may_start_again(clips):
    loader = loader_of(clips, workers=2)
    expected = batches_of(loader, 1)
    loader.set_epoch(0)
    for _ in loader:
        break
    started = time.monotonic()
    assert batches_of(loader, 1) == expected
    assert time.monotonic() - started < 30


HELD = """
import numpy as np
from runtime.command import run_command
from runtime.errors import DataError
from train.data.clips import ArrayClipSet, ClipRule
from train.data.loader import clip_loader

pictures = np.zeros((8, 4, 8, 8, 3), np.uint8)
rule, items = ClipRule(4, 0.25, "live"), [(i, False, 0) for i in range(8)]
clips = ArrayClipSet(pictures, np.ones(8), items, rule)
batches = iter(clip_loader(clips, batch_size=2, shuffle=False, seed=0, workers=2))
next(batches)


def main():
    raise DataError("the disk is full")


raise SystemExit(run_command(main))
"""


def test_a_command_that_fails_in_the_middle_of_an_epoch_ends():
    """Its loader processes are still held, as by an error's traceback."""
    run = subprocess.run(
        [sys.executable, "-c", HELD],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (1, "error: the disk is full\n")
