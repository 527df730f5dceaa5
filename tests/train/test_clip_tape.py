import shutil

import cv2
import numpy as np
import pytest

from train.clip_tape import MOST_CLIPS, clip_tape
from train.data.entry import VideoSegment
from train.data.rounds import in_rounds

LABELS = ("push", "pull")
WINDOW_S = 1.0


def folder_of(path, first, count):
    """A folder of grey pictures at 10 a second: levels first, first + 1, …"""
    path.mkdir()
    for number in range(count):
        picture = np.full((8, 8, 3), first + number, np.uint8)
        cv2.imwrite(str(path / f"{number + 1:03d}.png"), picture)
    return path


def clip(path, label, start_s=0.0, end_s=None):
    return VideoSegment(path, start_s, end_s, label, fps=10.0)


@pytest.fixture
def clips(tmp_path):
    """Ten clips of one second; clip i holds levels 20 i … 20 i + 9."""
    return [clip(folder_of(tmp_path / str(i), 20 * i, 10), i % 2) for i in range(10)]


def tape_of(clips):
    tape = clip_tape(clips, LABELS, WINDOW_S)
    assert tape is not None
    return tape


def levels(frames):
    return [int(frame.image_rgb[0, 0, 0]) for frame in frames]


def test_clips_follow_each_other_and_the_truth_says_which(clips):
    tape = tape_of(clips)
    frames = list(tape.source)
    assert [frame.index for frame in frames] == list(range(100))
    assert [frame.stream_time_s for frame in frames] == pytest.approx(np.arange(100) / 10)
    assert [s.start_s for s in tape.truth] == pytest.approx(np.arange(10.0))
    assert [s.end_s for s in tape.truth] == pytest.approx(np.arange(10.0) + 1)
    seen = levels(frames)
    for number, segment in enumerate(tape.truth):
        own = seen[10 * number : 10 * number + 10]
        assert own == list(range(own[0], own[0] + 10)), "one clip, in order"
        assert segment.label == LABELS[own[0] // 20 % 2]


def rounds_of(clips):
    return [clips[i] for i in in_rounds([c.label for c in clips])]


def test_classes_take_turns_the_same_way_every_time(clips):
    order = rounds_of(clips)
    assert sorted(map(str, (c.path for c in order))) == sorted(map(str, (c.path for c in clips)))
    assert all({order[i].label, order[i + 1].label} == {0, 1} for i in range(0, 10, 2))
    assert order == rounds_of(clips)
    few = [clip(clips[0].path, 0)] * 3 + [clip(clips[1].path, 1)]
    assert [c.label for c in rounds_of(few)][2:] == [0, 0], "what is left of the larger class"


def test_of_a_long_clip_the_middle_is_played(tmp_path, clips):
    long = clip(folder_of(tmp_path / "long", 0, 60), 0, 1.0, 5.0)
    tape = tape_of([long, *clips[1:]])
    at = next(i for i, s in enumerate(tape.truth) if s.end_s - s.start_s > 1.2)
    segment = tape.truth[at]
    assert segment.end_s - segment.start_s == pytest.approx(1.5)
    own = [f for f in tape.source if segment.start_s <= f.stream_time_s + 1e-6 < segment.end_s]
    assert levels(own) == list(range(23, 38)), "2.25 to 3.75 s of 1 to 5 s"


def test_no_more_clips_than_a_short_tape_needs(clips):
    tape = tape_of(clips * 20)
    assert len(tape.truth) == MOST_CLIPS


def test_too_few_clips_make_no_tape(clips, caplog):
    assert clip_tape(clips[:9], LABELS, WINDOW_S) is None
    shutil.rmtree(clips[0].path)
    assert clip_tape(clips, LABELS, WINDOW_S) is None
    assert "is not there" in caplog.text


def test_a_clip_that_is_damaged_inside_leaves_a_gap(clips, caplog):
    tape = tape_of(clips)
    (clips[3].path / "006.png").write_bytes(b"no picture")
    frames = list(tape.source)
    assert len(frames) == 90
    assert not set(levels(frames)) & set(range(60, 70))
    assert frames[-1].stream_time_s == pytest.approx(9.9)
    assert "the tape of clips has a gap" in caplog.text


def test_a_part_without_frames_is_left_out(clips, caplog):
    empty = clip(clips[0].path, 0, 5.0, 6.0)
    tape = tape_of([*clips, empty])
    assert len(tape.truth) == 10
    assert "holds no frame from 5 s on" in caplog.text
