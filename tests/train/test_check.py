"""Each fault is found in a data set that has it, and nothing is found in a clean one."""

import shutil

import numpy as np
import pytest

from runtime.errors import DataError
from tests.train.small_data import CLASSES, add, pictures, rename, rows_of, write, write_clean
from tests.videos import Coding, encode, turn
from train.data import check, check_probe
from train.data.check import survey
from train.data.check_findings import findings_of
from train.data.check_summary import class_facts, recording_facts, summary_line, table
from train.data.truth import Segment, write_truth


@pytest.fixture(scope="module")
def clean_data(tmp_path_factory):
    return write_clean(tmp_path_factory.mktemp("clean") / "data")


@pytest.fixture
def data(clean_data, tmp_path):
    return shutil.copytree(clean_data, tmp_path / "data")


def found(data, **options):
    return findings_of(survey(data, **options))


def codes(data, **options):
    return [(finding.severity, finding.code) for finding in found(data, **options)]


def text_of(data, code, **options):
    (finding,) = [finding for finding in found(data, **options) if finding.code == code]
    return finding.text


def test_a_clean_data_set_has_no_findings(clean_data):
    seen = survey(clean_data)
    assert findings_of(seen) == []
    assert [len(seen.clips_of(name)) for name in ("train", "validation")] == [40, 10]
    assert seen.window_s == 0.5
    assert {clip.num_frames for clip in seen.clips} == {10}
    assert (seen.decoding.recordings, seen.decoding.of) == (5, 5)


def test_the_numbers_of_classes_and_recordings(clean_data):
    seen = survey(clean_data)
    wave, point = class_facts(seen)
    assert (wave.label, point.label) == CLASSES
    assert wave.clips == {"train": 20, "validation": 5}
    assert wave.length_s is not None
    assert vars(wave.length_s) == {"min": 0.5, "median": 0.5, "max": 0.5, "total": 12.5}
    assert wave.frames is not None
    assert (wave.frames.total, wave.sizes, wave.fps) == (250, {"48×32": 25}, {"20": 25})
    every = recording_facts(seen)
    assert (every.number, every.unreadable, every.codecs) == (5, 0, {"h264": 5})
    assert every.duration_s is not None
    assert every.duration_s.total == pytest.approx(25)


# ---- classes


def test_a_class_that_is_only_validated_is_an_error(data):
    (data / "labels.txt").write_text("wave\npoint\njump\n")
    add(data, ("v.mp4", 1, 2, "jump"), split="validation")
    findings = {finding.code: finding for finding in found(data)}
    finding = findings["class-without-clips-train"]
    assert finding.severity == "error"
    assert "train has no clip of jump, though validation have some of jump" in finding.text
    assert "exclude in the recipe" in finding.text


def test_a_class_that_is_not_validated_is_a_warning(data):
    (data / "labels.txt").write_text("wave\npoint\njump\n")
    add(data, *[("r0.mp4", i / 8, i / 8 + 0.4, "jump") for i in range(20)])
    assert codes(data) == [("warning", "class-without-clips-validation")]


def test_a_list_that_cannot_be_read_does_not_hide_the_other_split(data):
    add(data, ("v.mp4", 1, 2, "wawe"), split="validation")
    (finding,) = found(data)
    assert (finding.severity, finding.code) == ("error", "refused")
    assert "validation/segments.csv line 12: unknown label 'wawe'; did you mean wave?" in (
        finding.text
    )
    assert len(survey(data).clips_of("train")) == 40


def test_missing_splits_are_errors(data):
    shutil.rmtree(data / "validation")
    assert codes(data) == [("error", "refused")]
    assert "no clips in" in text_of(data, "refused")


def test_data_without_classes_are_refused(data):
    (data / "labels.txt").unlink()
    with pytest.raises(DataError, match=r"labels\.txt not found"):
        survey(data)


def test_small_classes_and_imbalance(data):
    (data / "labels.txt").write_text("wave\npoint\njump\n")
    add(data, ("r0.mp4", 0.2, 0.7, "jump"))
    add(data, ("v.mp4", 0.2, 0.7, "jump"), split="validation")
    assert codes(data) == [("warning", "few-clips"), ("warning", "imbalance")]
    assert "fewer than 20 clips of jump (1)" in text_of(data, "few-clips")
    assert "20 clips of wave and 1 of jump" in text_of(data, "imbalance")


def test_labels_that_differ_only_in_case_or_spaces(data):
    rename(data, "wave", "Hand up")
    rename(data, "point", "hand_up")
    assert codes(data) == [("warning", "labels-alike")]
    assert "'Hand up' and 'hand_up' differ only" in text_of(data, "labels-alike")


def test_directions_without_a_partner(data):
    rename(data, "wave", "turn left")
    assert codes(data) == [("note", "unpaired")]
    rename(data, "point", "turn right")
    assert codes(data) == []


# ---- lengths and spans


def test_clips_of_few_frames(data):
    add(data, ("r1.mp4", 1.0, 1.2, "wave"))
    assert codes(data) == [("warning", "few-frames")]
    text = text_of(data, "few-frames")
    assert "the shortest has 4" in text
    assert "train/segments.csv line 42: " in text
    assert "r1.mp4 from 1 s (wave)" in text
    assert findings_of(survey(data), num_segments=4) == []


def test_lengths_far_from_the_window(data):
    add(data, *[("r1.mp4", i / 10, i / 10 + 3, "wave") for i in range(14)])
    assert codes(data) == [("warning", "lengths")]
    assert "14 longer than twice, most of them wave (14)" in text_of(data, "lengths")


def test_clips_past_the_end_of_the_recording(data):
    add(data, ("r1.mp4", 4.5, 6.0, "wave"))
    assert codes(data) == [("warning", "past-the-end")]
    assert "ends at 6 s, the recording at 5.00 s" in text_of(data, "past-the-end")


# ---- files


def test_too_many_unreadable_clips_are_an_error(data):
    (data / "train" / "r2.mp4").write_bytes(b"no video")
    assert codes(data)[0] == ("error", "unreadable")
    text = text_of(data, "unreadable")
    assert "10 of 40 clips of train cannot be read (25.0%, training stops at more than 1%)" in text
    assert "r2.mp4" in text
    assert "train/segments.csv line 22)" in text
    assert recording_facts(survey(data)).unreadable == 1


def test_a_single_unreadable_clip_of_many_is_a_warning(data):
    add(data, *[("r0.mp4", i / 50, i / 50 + 0.45, CLASSES[i % 2]) for i in range(1, 201, 2)])
    add(data, ("r1.mp4", 7.0, 8.0, "wave"))
    # 141 clips: the last one starts after its recording
    assert codes(data) == [("warning", "unreadable")]
    assert "ends at 4.95 s, the segment 7..8 s starts later" in text_of(data, "unreadable")


def test_missing_recordings_as_training_takes_them(data):
    (data / "train" / "r3.mp4").unlink()
    (finding,) = [f for f in found(data) if f.code == "refused"]
    assert finding.severity == "error"
    assert "10 of 40 clips are missing" in finding.text
    assert len(survey(data).clips_of("train")) == 30, "the others are looked at all the same"
    (data / "data.yaml").write_text("max_missing: 0.5\n")
    assert ("warning", "missing") in codes(data)
    assert "1 listed recording is not there" in text_of(data, "missing")


def test_streams_that_break_off_are_found_by_decoding(data):
    path = data / "train" / "r0.mp4"
    raw = bytearray(path.read_bytes())
    start = raw.index(b"mdat")
    middle = (start + len(raw)) // 2
    raw[middle:] = bytes(len(raw) - middle)
    path.write_bytes(raw)
    assert codes(data, decode=False) == []
    assert codes(data, decode=True)[0] == ("error", "unreadable")
    assert codes(data)[0] == ("error", "unreadable"), "small data are decoded"


def test_of_many_recordings_a_sample_of_all_classes_is_decoded(data, monkeypatch):
    monkeypatch.setattr(check, "MOST_DECODED", 3)
    seen = survey(data)
    assert (seen.decoding.recordings, seen.decoding.of) == (3, 5)
    assert "the clips of 3 of 5 recordings were decoded, a sample" in table(seen, [])
    assert survey(data, decode=True).decoding.recordings == 5
    assert "no clip was decoded" in table(survey(data, decode=False), [])


def test_processes_find_the_same(data, monkeypatch):
    (data / "train" / "r2.mp4").write_bytes(b"no video")
    alone = survey(data)
    monkeypatch.setattr(check_probe, "WORTH_PROCESSES", 2)
    together = survey(data, workers=2)
    assert together.clips == alone.clips
    assert together.recordings == alone.recordings


# ---- leaks


def test_overlapping_clips_of_one_recording_in_two_splits(data):
    (data / "validation" / "same.mp4").symlink_to(data / "train" / "r0.mp4")
    add(data, ("same.mp4", 0.25, 0.75, "wave"), split="validation")
    assert codes(data) == [("error", "overlap")]
    text = text_of(data, "overlap")
    assert "1 of 11 clips of validation overlap clips of train, the first one: " in text
    assert "validation/segments.csv line 12" in text
    assert "train/segments.csv line 2" in text


def test_other_parts_of_one_recording_in_two_splits(data):
    lines = (data / "train/segments.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("r0.mp4,4.5")]
    (data / "train/segments.csv").write_text("".join(kept))
    (data / "validation" / "same.mp4").symlink_to(data / "train" / "r0.mp4")
    add(data, ("same.mp4", 4.5, 5.0, "wave"), split="validation")
    add(data, ("r1.mp4", 4.2, 4.7, "point"))
    assert codes(data) == [("warning", "same-recording")]


def test_calibration_on_training_clips_is_no_leak(data):
    shutil.copy(data / "train/segments.csv", data / "segments.csv")
    (data / "calibration").mkdir()
    for i in range(4):
        (data / "calibration" / f"r{i}.mp4").symlink_to(data / "train" / f"r{i}.mp4")
    shutil.move(data / "segments.csv", data / "calibration/segments.csv")
    seen = survey(data)
    assert len(seen.clips_of("calibration")) == 40
    assert findings_of(seen) == []


def test_copies_of_a_file_under_another_name(data):
    shutil.copy(data / "train" / "r0.mp4", data / "validation" / "copy.mp4")
    add(data, ("copy.mp4", 0, 0.5, "wave"), split="validation")
    assert codes(data) == [("error", "copies")]
    assert "hold the same bytes under different names, in train and in validation" in text_of(
        data, "copies"
    )


def test_copies_within_a_split(data):
    shutil.copy(data / "train" / "r0.mp4", data / "train" / "copy.mp4")
    add(data, ("copy.mp4", 0, 0.5, "wave"))
    assert codes(data) == [("warning", "copies")]


def test_clips_listed_twice(data):
    add(data, ("r0.mp4", 0, 0.5, "wave"))
    assert codes(data) == [("warning", "listed-twice")]
    add(data, ("r0.mp4", 1.5, 2, "wave"))
    assert codes(data) == [("error", "label-conflict"), ("warning", "listed-twice")]
    assert "line 5: " in text_of(data, "label-conflict")
    assert "line 43: " in text_of(data, "label-conflict")


# ---- data in folders


@pytest.fixture
def sessions(tmp_path):
    """train/CLASS/SESSION_0001.mp4: two sessions for training, another for validation."""
    root = tmp_path / "folders"
    seed = 0
    for split, names in (("train", ("anna", "ben")), ("validation", ("carl", "dora"))):
        for label in CLASSES:
            (root / split / label).mkdir(parents=True)
            for name in names:
                for number in range(10 if split == "train" else 1):
                    seed += 1
                    write(root / split / label / f"{name}_{number:04d}.mp4", seed, 10)
    return root


def test_sessions_in_two_splits(sessions):
    assert codes(sessions) == []
    write(sessions / "validation" / "wave" / "anna_0099.mp4", 77, 10)
    assert codes(sessions) == [("warning", "same-session")]
    assert "1 session is in train and in validation (anna)" in text_of(sessions, "same-session")


def test_whole_files_with_the_same_bytes_and_other_labels(sessions):
    shutil.copy(sessions / "train/wave/ben_0001.mp4", sessions / "train/point/ben_0077.mp4")
    assert codes(sessions) == [("error", "copies")]
    assert "different labels (point, wave)" in text_of(sessions, "copies")


def test_a_split_that_serves_twice_is_no_leak(sessions):
    (sessions / "validation").rename(sessions / "test")
    assert codes(sessions) == [("note", "twin-split")]
    assert "test holds the very clips of validation" in text_of(sessions, "twin-split")
    assert list(survey(sessions).splits) == ["train", "validation"]


def test_what_a_format_warns_of_is_a_finding(tmp_path, caplog):
    for seed, label in enumerate(CLASSES * 12):
        (tmp_path / label).mkdir(exist_ok=True)
        write(tmp_path / label / f"clip{seed}x.mp4", seed, 10)
    findings = [finding for finding in found(tmp_path) if finding.code == "format"]
    assert len(findings) == 1
    assert "clips of one recording may be in train and in validation" in findings[0].text
    assert not caplog.records


def test_turned_portrait_and_uneven_recordings_are_notes(sessions):
    turned = sessions / "train/wave/anna_0000.mp4"
    turn(turned, 90)
    frames = np.stack(list(pictures(5, 12)))
    stamps = [0, 20, 100, 120, 200, 260, 300, 310, 400, 480, 490, 600]
    encode(turned.parent, frames, Coding("ben_0055.mp4", "libx264", stamps_ms=stamps))
    notes = {finding.code: finding for finding in found(sessions)}
    assert {code: f.severity for code, f in notes.items()} == {
        "rotated": "note",
        "portrait": "note",
        "uneven-rate": "note",
    }
    assert "1 recording is stored turned" in notes["rotated"].text
    assert "1 of 45 recordings are higher than wide" in notes["portrait"].text
    assert "ben_0055.mp4" in notes["uneven-rate"].text


# ---- tapes, segments, arrays


def test_tapes_are_checked(data):
    (data / "tape").mkdir()
    write(data / "tape" / "t.mp4", 50)
    write_truth(data / "tape" / "tape.csv", [Segment("t.mp4", 0, 2, "wave")])
    assert codes(data) == []
    assert [len(tape.truth) for tape in survey(data).tapes] == [1]
    write_truth(
        data / "tape" / "tape.csv",
        [Segment("t.mp4", 0, 2, "wave"), Segment("t.mp4", 3, 6, "point")],
    )
    assert codes(data) == [("error", "tape-truth")]
    assert "1 of 2 actions lie past the end" in text_of(data, "tape-truth")
    (data / "tape" / "t.mp4").write_bytes(b"no video")
    assert codes(data) == [("error", "tape-unreadable")]
    (data / "tape" / "t.mp4").unlink()
    assert codes(data) == [("error", "refused")]


def test_untrimmed_recordings_with_one_list(tmp_path):
    rows = []
    for seed in range(5):
        write(tmp_path / f"r{seed}.mp4", seed)
        rows += rows_of(f"r{seed}.mp4")
    write_truth(tmp_path / "segments.csv", rows)
    seen = survey(tmp_path)
    assert seen.format == "segments"
    assert codes(tmp_path) == [("warning", "few-clips")] or codes(tmp_path) == []
    assert len(seen.clips) == 50
    assert {tape.name for tape in seen.tapes} == {"tape", "tape_validation"}
    assert all("segments.csv line " in clip.line for clip in seen.clips)
    (tmp_path / "r2.mp4").write_bytes(b"no video")
    assert ("error", "unreadable") in codes(tmp_path)


def test_arrays(tiny_data):
    seen = survey(tiny_data)
    assert seen.splits["train"].arrays is not None
    train = seen.clips_of("train")
    assert len(train) == len(seen.splits["train"].clip_labels)
    assert {clip.num_frames for clip in train} == {8}
    assert sum(clip.length_s for clip in train) > 0
    assert not [finding for finding in findings_of(seen) if finding.severity == "error"]
    assert "few-frames" not in [finding.code for finding in findings_of(seen)]
    assert "few-frames" in [finding.code for finding in findings_of(seen, num_segments=9)]
    assert class_facts(seen)[0].sizes["32×32"] > 0
    assert {tape.name for tape in seen.tapes} == {"tape", "tape_validation"}


# ---- words


def test_the_table_is_short(clean_data, monkeypatch):
    from train.data import check_summary

    seen = survey(clean_data)
    lines = table(seen, []).splitlines()
    assert lines[0].split()[:3] == ["class", "train", "validation"]
    assert lines[1].split() == ["wave", "20", "5", "0.50", "0.50", "0.50", "12.5", "s"]
    assert lines[3].split()[:3] == ["all", "40", "10"]
    monkeypatch.setattr(check_summary, "MOST_ROWS", 1)
    assert "… and 1 more classes, see the page" in table(seen, [])
    assert summary_line([]) == "0 errors, 0 warnings, 0 notes"
