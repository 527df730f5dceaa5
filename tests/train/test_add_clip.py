"""From a recording of the runtime to a clip that training reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from runtime.command import run_command
from runtime.live import Stream
from runtime.outputs import Outputs
from runtime.recordings.manifest import RECORDING_JSON, Manifest, read_manifest
from runtime.recordings.recorder import Recorder, RecordSpan
from runtime.recordings.store import RecordingStore
from runtime.sessions.ort import OrtStepSession
from runtime.sources.file import FileSource
from tests.full_disk import full_disk
from tests.mini_bundle import write_mini_bundle
from tests.videos import bikes_path
from train.add_clip import main
from train.data.check import survey
from train.data.formats.folders import clips
from train.data.formats.spec import read_spec
from train.data.video_file import read_video
from train.prepare import main as prepare
from train.recorded_clip import session_of


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """What a real run on a real video left."""
    folder = tmp_path_factory.mktemp("recordings")
    bundle = write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)
    with (
        RecordingStore(folder, max_bytes=10**9) as store,
        FileSource(bikes_path()) as source,
        OrtStepSession(bundle) as session,
    ):
        stream = Stream(bundle, source, session)
        recorder = Recorder(
            store, bundle, RecordSpan(2.0), source="bikes", is_live=False, waits=True, phases=1
        )
        outputs = Outputs(bundle, source.name)
        outputs.record_to(recorder)
        for moment in stream.moments():
            outputs.show(moment)
        outputs.finish()
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for label in ("a", "b", "c", "sitting down"):
        (folder / label).mkdir(parents=True)
    (folder / "labels.txt").write_text("sitting down\na\nb\nc\n")
    return folder


@pytest.fixture
def recording(recordings, tmp_path):
    return shutil.copytree(recordings[1], tmp_path / "recording")


def add(recording, data, *more):
    main([str(recording), "--data", str(data), *map(str, more)])


def image_of(path):
    image = cv2.imread(str(path))
    assert image is not None
    return image


def _before_s(recording):
    kept = read_manifest(recording)
    return kept.start_s - kept.times_s[0]


def refusal(capsys, *arguments):
    assert run_command(lambda: main([str(argument) for argument in arguments])) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def rewrite(recording, **changes):
    data = json.loads((recording / RECORDING_JSON).read_text())
    (recording / RECORDING_JSON).write_text(json.dumps({**data, **changes}))


def clips_in(data):
    return sorted(path.relative_to(data).as_posix() for path in data.glob("*/*.mp4"))


def test_a_recording_becomes_a_clip_of_its_class(recording, data, capsys):
    kept = read_manifest(recording)
    add(recording, data, "--label", "sitting down")
    (name,) = clips_in(data)
    assert kept.end_s is not None
    assert name == f"sitting down/{session_of(kept)}_0001.mp4"
    said = capsys.readouterr().out
    assert said.startswith(f"added {data / name}\n")
    assert "next: python -m train.prepare --data" in said
    frames, times_s = read_video(data / name)
    start_s = min(kept.start_s, kept.end_s - 1.0)
    assert times_s[-1] - times_s[0] == pytest.approx(kept.end_s - start_s, abs=0.17)
    # the picture in the middle is the video's of that time
    middle = len(frames) // 2
    first_s = min(time_s for time_s in kept.times_s if time_s >= start_s)
    video, video_s = read_video(bikes_path())
    differences = np.abs(
        video[np.abs(video_s - first_s - times_s[middle]) < 0.07].astype(int) - frames[middle]
    )
    assert differences.mean(axis=(1, 2, 3)).min() < 4


def test_the_clips_are_read_by_prepare_and_keep_their_session(recordings, data, tmp_path):
    # those that have a part before the action, which is another class here
    used = [path for path in recordings if _before_s(path) >= 1.95][:3]
    assert {read_manifest(path).label for path in used} == {"b", "c"}
    (data / "a").rmdir()
    (data / "labels.txt").write_text("sitting down\nb\nc\n")
    for number, path in enumerate(used):
        kept = read_manifest(path)
        other = shutil.copytree(path, tmp_path / f"other{number}")
        rewrite(other, recording_id=f"{number}", source="camera 1", is_live=True)
        for picture in other.glob("*.jpg"):  # another camera sees something else
            cv2.imwrite(str(picture), cv2.bitwise_not(image_of(picture)))
        for each in (path, other):
            add(each, data, "--label", kept.label)
            extra = ("--from-s", 0, "--to-s", 0.9)
            add(each, data, "--label", "sitting down", *extra)
    spec = read_spec(data)
    splits = {split: clips(spec, split) for split in ("train", "validation")}
    sessions = {split: {clip.group for clip in found} for split, found in splits.items()}
    assert all(sessions.values())
    assert not sessions["train"] & sessions["validation"], "no session is in both"
    assert len(sessions["train"] | sessions["validation"]) == 2
    assert sum(map(len, splits.values())) == len(clips_in(data)) == 4 * len(used)
    seen = survey(data, workers=0)
    assert len(seen.splits["train"].segments) == len(splits["train"])
    page = ["--out", str(tmp_path / "page"), "--workers", "0"]
    assert prepare(["--data", str(data), *page]) == 0
    assert (tmp_path / "page" / "index.html").is_file()


def test_the_label_must_be_said(recording, data, capsys):
    line = refusal(capsys, recording, "--data", data)
    kept = read_manifest(recording)
    assert f"--label CLASS; the model said {kept.label!r} ({kept.peak_prob:.0%})" in line
    line = refusal(capsys, recording, "--data", data, "--label", "sittingdown")
    assert "has no class 'sittingdown'" in line
    assert "sitting down" in line
    assert list(data.glob("*/*")) == []
    assert not (data / ".recordings.jsonl").exists()
    add(recording, data, "--as-decided")
    assert clips_in(data)[0].startswith(f"{kept.label}/rec-file-")
    with pytest.raises(SystemExit):
        add(recording, data, "--as-decided", "--label", "a")


def test_the_same_is_not_added_twice(recording, recordings, data, tmp_path, capsys):
    add(recording, data, "--label", "a", "--from-s", 0, "--to-s", 1.5)
    capsys.readouterr()
    (clip,) = clips_in(data)
    for label in ("a", "b"):
        line = refusal(
            capsys, recording, "--data", data, "--label", label, "--from-s", 1, "--to-s", 2
        )
        assert line.startswith(f"error: {data / clip} shows this already; delete it, or give")
    # another recording of the same frames: the file was played twice
    rewrite(recording, recording_id="another")
    line = refusal(capsys, recording, "--data", data, "--label", "b", "--from-s", 0, "--to-s", 1.5)
    assert "shows this already" in line
    assert clips_in(data) == [clip]
    add(recordings[1], data, "--label", "b", "--from-s", 1.6, "--to-s", 2.4)
    assert len(clips_in(data)) == 2, "another part of it is another clip"
    (data / clip).unlink()
    add(recordings[1], data, "--label", "a", "--from-s", 0, "--to-s", 1.5)
    assert clips_in(data)[0] == clip


def test_a_part_must_be_there(recording, data, capsys):
    for span in (("--from-s", "100"), ("--to-s", "-1"), ("--from-s", "2", "--to-s", "1")):
        line = refusal(capsys, recording, "--data", data, "--label", "a", *span)
        assert "are no part of a recording of" in line
    line = refusal(
        capsys, recording, "--data", data, "--label", "a", "--from-s", "1", "--to-s", "1.3"
    )
    assert "at least 8 are needed; give a longer part" in line
    assert list(data.glob("*/*")) == []


def test_what_cannot_be_used_is_told(recording, data, tmp_path, capsys):
    line = refusal(capsys, tmp_path, "--data", data, "--label", "a")
    assert "is no recording of --record" in line
    line = refusal(capsys, recording, "--data", tmp_path / "gone", "--label", "a")
    assert "gone is no folder; give one with a folder for each class" in line
    (data / "train").mkdir()
    assert "split already" in refusal(capsys, recording, "--data", data, "--label", "a")
    (data / "train").rmdir()
    pictures = sorted(recording.glob("*.jpg"))
    kept = read_manifest(recording)
    inside = [time_s > kept.start_s for time_s in kept.times_s].index(True)
    pictures[inside].write_bytes(b"no picture")
    assert "cannot be read" in refusal(capsys, recording, "--data", data, "--label", "a")
    pictures[inside].unlink()
    assert "copy it again" in refusal(capsys, recording, "--data", data, "--label", "a")
    assert list(data.glob("*/*")) == []


def test_a_full_disk_leaves_nothing(recording, data, capsys):
    with full_disk(50):
        line = refusal(capsys, recording, "--data", data, "--label", "a")
    assert "was not written" in line
    assert clips_in(data) == []
    add(recording, data, "--label", "a")
    assert len(clips_in(data)) == 1


def test_sessions_are_cameras_and_days(recording):
    kept = read_manifest(recording)
    day = replace(kept, is_live=True, utc="2026-11-25T23:59:59.000+00:00", source="rtsp://cam/1")
    sessions: dict[str, Manifest] = {
        "a file": kept,
        "the file a day later": replace(kept, utc="2027-01-01T00:00:00.000+00:00"),
        "camera": day,
        "camera, same day": replace(day, utc="2026-11-25T00:00:00.000+00:00", label="b"),
        "next day": replace(day, utc="2026-11-26T00:00:00.000+00:00"),
        "other camera": replace(day, source="rtsp://cam/2"),
    }
    names = {name: session_of(each) for name, each in sessions.items()}
    assert names["a file"] == names["the file a day later"]
    assert names["camera"] == names["camera, same day"]
    assert names["camera"].startswith("rec-20261125-")
    assert len(set(names.values())) == 4
