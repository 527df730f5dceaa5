"""Which clips calibrate: balanced, the same every time, and never what the gate measures."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.clip_list import CalibrationClip
from calib.record import clip_pictures
from export.calibration_clips import (
    MOST_CLIPS,
    Part,
    calibration_clips,
    comparison,
    in_turns,
    require_disjoint,
)
from runtime.errors import DataError
from runtime.sampling import SamplingContract
from tests.export.small import SQUARE
from tests.videos import drifting_pattern, write_video
from train.data.arrow_of_time import LABELS
from train.data.entry import VideoSegment

FPS = 20
FEW = LABELS[:3]


class SomeFacts:
    """What the choice reads of a checkpoint."""

    labels = FEW
    picture = SQUARE
    sampling = SamplingContract(num_segments=4, window_s=1.0, consensus_len=4)


FACTS: object = SomeFacts()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten seconds."""
    path = tmp_path_factory.mktemp("clips") / "drift.mp4"
    return write_video(path, drifting_pattern(200), fps=FPS, front_header=True)


class Data:
    """A data folder in the making: rows of the splits' segments.csv."""

    def __init__(self, folder: Path, video: Path) -> None:
        self.folder, self.video = folder, video
        folder.mkdir()
        (folder / "labels.txt").write_text("\n".join(FEW) + "\n")
        self.add("validation", [f"v.mp4,0,1,{label}" for label in FEW])

    def add(self, split, rows):
        (self.folder / split).mkdir(exist_ok=True)
        lines = ["path,start_s,end_s,label", *rows]
        (self.folder / split / "segments.csv").write_text("\n".join(lines) + "\n")
        for name in {row.split(",")[0] for row in rows}:
            if not (self.folder / split / name).exists():
                shutil.copy(self.video, self.folder / split / name)

    def clips(self, **options):
        return calibration_clips(self.folder, FACTS, **options)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path, video):
    return Data(tmp_path / "data", video)


def compared(clips, steps=128):
    return comparison(clips, FACTS, steps)  # type: ignore[arg-type]


def segment(label, path, start_s=0.0, group=""):
    return VideoSegment(Path(path), start_s, start_s + 1, label, group)


# --- the order


def test_classes_take_turns_and_recordings_within_them():
    # class 0: six clips of recording a, two of b; class 1: two of c; class 2: one of a
    segments = [segment(0, "a", i) for i in range(6)] + [segment(0, "b", i) for i in range(2)]
    segments += [segment(1, "c", i) for i in range(2)] + [segment(2, "a", 9)]
    found = in_turns(segments)
    assert sorted(found, key=str) == sorted(segments, key=str)
    assert [s.label for s in found] == [0, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0]
    first = [str(s.path) for s in found if s.label == 0]
    assert sorted(first[:2]) == sorted(first[2:4]) == ["a", "b"]
    assert first[4:] == ["a"] * 4


def test_sessions_count_where_they_are_known():
    segments = [segment(0, f"{i}.mp4", group="monday") for i in range(20)]
    segments += [segment(0, f"x{i}.mp4", group="tuesday") for i in range(3)]
    assert Counter(s.group for s in in_turns(segments)[:6]) == {"monday": 3, "tuesday": 3}


def test_the_order_does_not_depend_on_the_list():
    segments = [segment(i % 4, f"{i % 7}.mp4", i) for i in range(60)]
    expected = in_turns(segments)
    for seed in range(5):
        mixed = segments.copy()
        random.Random(seed).shuffle(mixed)
        assert in_turns(mixed) == expected
    # and the clips of one recording are not simply its first ones
    alone = [s.start_s for s in in_turns([segment(0, "a", i) for i in range(60)])[:12]]
    assert max(alone) > 40


# --- the choice


def test_a_list_takes_the_classes_in_turns_up_to_a_number(data):
    data.add("calibration", [f"{label}{i}.mp4,0,1,{label}" for label in FEW for i in range(3)])
    found = data.clips()
    assert [clip.label for clip in found] == 3 * list(FEW)
    assert len({clip.path for clip in found}) == 9
    assert data.clips(most=4) == found[:4]
    assert data.clips() == found
    assert MOST_CLIPS == 512


@pytest.mark.parametrize("most", [1, 0, -5])
def test_fewer_than_two_at_most_are_refused(data, most):
    with pytest.raises(ValueError, match=f"must be >= 2 at most, got {most}"):
        data.clips(most=most)


def test_whole_files_end_where_they_end(tmp_path, video):
    folder = tmp_path / "data"
    for split, count in (("train", 4), ("validation", 1)):
        for label in FEW:
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                shutil.copy(video, folder / split / label / f"{split}{i}.mp4")
    (folder / "train" / FEW[0] / "train2.mp4").write_bytes(video.read_bytes()[:3000])
    found = calibration_clips(folder, FACTS)  # type: ignore[arg-type]
    assert len(found) == 12
    ends = {clip.path: clip.end_s for clip in found}
    # the one that cannot be read is left to calibration, which counts it
    broken = ends.pop(str(folder / "train" / FEW[0] / "train2.mp4"))
    assert broken == SomeFacts.sampling.window_s
    assert [*ends.values()] == pytest.approx([10.0] * 11, abs=0.06)


def test_a_folder_of_pictures_has_its_rate(tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "validation"):
        for label in FEW:
            (folder / split / label / split).mkdir(parents=True)
            for number in range(1, 7):
                path = folder / split / label / split / f"{number:05d}.jpg"
                cv2.imwrite(str(path), np.full((16, 16, 3), 40, np.uint8))
    found = calibration_clips(folder, FACTS)  # type: ignore[arg-type]
    assert [clip.fps for clip in found] == [25.0] * len(FEW)
    assert [clip.end_s for clip in found] == pytest.approx([0.24] * len(FEW))


# --- disjoint from the gate


def test_a_calibration_clip_that_validates_too_is_refused(data):
    data.add("validation", [f"v.mp4,2,3,{label}" for label in FEW])
    link = data.folder / "calibration"
    link.mkdir()
    (link / "same.mp4").symlink_to(data.folder / "validation" / "v.mp4")  # another name for it
    rows = [f"c.mp4,0,1,{FEW[0]}", f"c.mp4,1,2,{FEW[1]}"]
    data.add("calibration", [*rows, f"same.mp4,1,2,{FEW[2]}", f"same.mp4,3,4,{FEW[2]}"])
    assert len(data.clips()) == 4  # before and after is no overlap
    data.add("calibration", [*rows, f"same.mp4,1.5,2.5,{FEW[2]}"])
    with pytest.raises(
        DataError, match=r"same\.mp4 1.5\.\.2.5 s overlaps a validation clip .*2\.\.3"
    ):
        data.clips()


def test_a_calibration_clip_on_the_validation_tape_is_refused(data):
    (data.folder / "tape_validation").mkdir()
    shutil.copy(data.video, data.folder / "tape_validation" / "tape.mp4")
    csv = "path,start_s,end_s,label\n" + f"tape.mp4,1,2,{FEW[0]}\n"
    (data.folder / "tape_validation" / "tape.csv").write_text(csv)
    data.add("calibration", [f"c.mp4,0,1,{FEW[0]}", f"c.mp4,1,2,{FEW[1]}"])
    assert len(data.clips()) == 2
    (data.folder / "calibration" / "t.mp4").symlink_to(data.folder / "tape_validation" / "tape.mp4")
    data.add("calibration", [f"c.mp4,0,1,{FEW[0]}", f"t.mp4,7,8,{FEW[1]}"])
    with pytest.raises(DataError, match=r"t\.mp4 7\.\.8 s overlaps the validation tape"):
        data.clips()


def test_every_validation_tape_is_kept_from_calibration(data):
    folder = data.folder / "tape_validation"
    folder.mkdir()
    rows = [f"{name}.mp4,1,2,{FEW[0]}" for name in "ab"]
    (folder / "tape.csv").write_text("\n".join(["path,start_s,end_s,label", *rows]) + "\n")
    for name in "ab":
        shutil.copy(data.video, folder / f"{name}.mp4")
    data.add("calibration", [f"c.mp4,0,1,{FEW[0]}", f"c.mp4,1,2,{FEW[1]}"])
    assert len(data.clips()) == 2
    (data.folder / "calibration" / "t.mp4").symlink_to(folder / "b.mp4")
    data.add("calibration", [f"c.mp4,0,1,{FEW[0]}", f"t.mp4,7,8,{FEW[1]}"])
    with pytest.raises(DataError, match=r"t\.mp4 7\.\.8 s overlaps the validation tape"):
        data.clips()


@pytest.mark.parametrize(
    ("start_s", "end_s", "is_shared"),
    [(0, 2, False), (4, 5, False), (0, 2.01, True), (3.99, 9, True), (2.5, 3, True), (0, 9, True)],
)
def test_overlap_is_a_shared_moment_of_the_same_recording(tmp_path, start_s, end_s, is_shared):
    part = Part(tmp_path / "a.mp4", 2.0, 4.0, "a validation clip")
    clip = CalibrationClip(str(tmp_path / "a.mp4"), start_s, end_s, "x", 0)
    require_disjoint([replace(clip, path=str(tmp_path / "b.mp4"))], [part])
    if not is_shared:
        require_disjoint([clip], [part])
        return
    with pytest.raises(DataError, match="INT8 would be judged on what it was calibrated on"):
        require_disjoint([clip], [part])


# --- what methods are compared on


def some_clips(video, count, length_s=0.5):
    return [CalibrationClip(str(video), 0.6 * i, 0.6 * i + length_s, "x", 0) for i in range(count)]


def test_a_fourth_of_the_clips_compares_and_the_others_calibrate(video):
    clips = some_clips(video, 13)
    found = compared(clips)
    assert found.clips == tuple(clips[:3])
    assert found.rest == tuple(clips[3:])
    facts = SomeFacts
    pictures = np.concatenate(
        [clip_pictures(clip, facts.picture, facts.sampling) for clip in clips[:3]]
    )
    assert found.frames.shape == (128, 32, 32, 3)
    for start in range(0, 128, len(pictures)):  # again and again
        part = found.frames[start : start + len(pictures)]
        assert np.array_equal(part, pictures[: len(part)])


def test_no_more_clips_than_the_steps_need(video):
    found = compared(some_clips(video, 13), steps=4)
    assert len(found.clips) == 2
    assert len(found.frames) == 4
    assert len(found.rest) == 11


def test_clips_that_share_a_moment_with_a_compared_one_do_not_calibrate(video):
    clips = some_clips(video, 5)
    other = replace(clips[0], start_s=0.4, end_s=0.9)
    assert compared([*clips, other]).rest == tuple(clips[1:])
    with pytest.raises(DataError, match="all 2 calibration clips overlap those that compare"):
        compared([clips[0], replace(other, label="y")])


def test_unreadable_clips_are_left_to_calibration(video, tmp_path):
    clips = some_clips(video, 15)
    gone = replace(clips[0], path=str(tmp_path / "gone.mp4"))
    found = compared([gone, *(4 * clips)[:39]], steps=4)
    assert found.clips == tuple(clips[:2])
    assert gone in found.rest
    assert clips[0] not in found.rest
    with pytest.raises(DataError, match=r"1 of 16 calibration clips cannot be read.*gone\.mp4"):
        compared([gone, *clips])
