"""`--record` as users run it, and the replay of what it kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from runtime.actions import actions_of
from runtime.live import Stream
from runtime.policy import Policy, Rules
from runtime.recordings.manifest import RECORDING_JSON, read_manifest
from runtime.sessions.ort import OrtStepSession
from runtime.sources.choose import open_source
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_stream import records_of, refused, stream
from tests.videos import bikes_path, moving_bar, write_video

POLICY = {"enter": 0.45, "exit": 0.4, "min_duration_s": 0.2, "max_gap_s": 0.1, "lag_s": 0.5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)


@pytest.fixture(scope="module")
def made(bundle, tmp_path_factory):
    """A run on a real video, two phases: its folder and events."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "policy.json").write_text(json.dumps(POLICY))
    done = stream(
        bundle,
        *("--source", bikes_path(), "--headless", "--phases", 2, "--policy", "policy.json"),
        *("--events", "events.jsonl", "--record", "recordings", "--backend", "ort"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder, records_of(folder / "events.jsonl")


def recordings_in(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def of_type(records, kind):
    return [record for record in records if record["type"] == kind]


def test_every_action_is_recorded_and_counted(made):
    folder, records = made
    found = recordings_in(folder / "recordings")
    actions = of_type(records, "action")
    assert len(found) == len(actions) >= 4
    for path, action in zip(found, actions, strict=True):
        kept = read_manifest(path)
        assert path.name.endswith(f"Z-{action['label']}")
        assert (kept.label, kept.is_live, kept.source) == (
            action["label"],
            False,
            str(bikes_path()),
        )
        assert kept.start_s == pytest.approx(action["start_s"], abs=1e-6)
        assert kept.end_s == pytest.approx(action["end_s"], abs=1e-6)
        assert kept.peak_prob == pytest.approx(action["peak_prob"], abs=1e-6)
        assert kept.run.phases == 2
        # a window and two seconds, and at most a window's tick of phase 0 more
        first_s = max(0.0, kept.start_s - 3.0)
        assert first_s - 0.3 <= kept.times_s[0] <= first_s
        assert kept.times_s[-1] <= action["stream_time_s"] + 1.0 + 0.04
    counts = {key: records[-1][key] for key in records[-1] if key.startswith("record")}
    assert counts == {
        "recordings": len(found),
        "recordings_lost": 0,
        "recordings_removed": 0,
        "record_frames_lost": 0,
    }


def test_a_replay_takes_the_same_ticks_and_says_the_same(bundle, made):
    folder, records = made
    live = {record["stream_time_s"]: record for record in of_type(records, "decision")}
    rules = Rules.of(Policy.from_json({**Policy().to_json(), **POLICY}), bundle.labels)
    played = replace(bundle, operating=replace(bundle.operating, policy=rules.policy))
    for path in recordings_in(folder / "recordings"):
        kept = read_manifest(path)
        with open_source(str(path)) as source, OrtStepSession(bundle, phases=2) as session:
            decisions = list(Stream(played, source, session))
        assert len(decisions) == len(kept.decisions)
        for decision in decisions[1:]:  # the first carries its tick's time
            then = live[round(decision.stream_time_s, 6)]
            assert decision.phase == then["phase"]
            if decision.stream_time_s >= kept.start_s:  # before, states and rings fill
                assert (decision.label, decision.action) == (then["label"], then["action"])
                assert decision.prob == pytest.approx(then["prob"], abs=0.02)
        actions = [one for one in actions_of(decisions, rules) if one.label == kept.label]
        assert min(abs(one.start_s - kept.start_s) for one in actions) < 1e-6


def test_a_replay_is_a_command_and_tells_other_settings(bundle, made):
    folder, _ = made
    path = recordings_in(folder / "recordings")[-1]
    arguments = ("--source", path, "--headless", "--events", "replay.jsonl", "--phases")
    done = stream(bundle, *arguments, 2, "--policy", "policy.json", cwd=folder)
    assert (done.returncode, "otherwise than live" in done.stderr) == (0, False)
    said = {action["label"] for action in of_type(records_of(folder / "replay.jsonl"), "action")}
    assert read_manifest(path).label in said
    done = stream(bundle, *arguments, 1, "--window", "2", cwd=folder)
    assert f"{path} may decide otherwise than live: phases 1, were 2 (--phases 2)" in done.stderr
    assert "window 2 s, was 1 s" in done.stderr
    assert "another policy or temperature" in done.stderr
    assert "another export" not in done.stderr


def test_what_the_model_used_is_kept_and_some_between(made):
    folder, _ = made
    path = recordings_in(folder / "recordings")[-1]
    kept = read_manifest(path)
    gaps_s = np.diff(kept.times_s[1:])
    assert len(list(path.glob("*.jpg"))) == len(kept.times_s)
    assert gaps_s.max() <= 0.081, "25 frames a second: every other one at least"
    used = {decision["stream_time_s"] for decision in kept.decisions[1:]}
    assert used <= {round(time_s, 6) for time_s in kept.times_s}


def test_a_damaged_recording_is_told(bundle, made, tmp_path):
    folder, _ = made
    path = recordings_in(folder / "recordings")[0]
    copy = tmp_path / "copy"
    copy.mkdir()
    for each in path.iterdir():
        (copy / each.name).write_bytes(each.read_bytes())
    (copy / "000001.jpg").unlink()
    number = len(read_manifest(copy).times_s)
    done = stream(bundle, "--source", copy, "--headless", cwd=tmp_path)
    refused(done, f"{copy} should hold {number} pictures and holds {number - 1}; copy it again")
    done = stream(bundle, "--source", f"{copy}?fps=5", "--headless", cwd=tmp_path)
    refused(done, "a recording has its own times; leave .fps= out")
    (copy / RECORDING_JSON).write_text("{}")
    done = stream(bundle, "--source", copy, "--headless", cwd=tmp_path)
    refused(done, "recording.json is of another version than this program reads")


def test_a_recording_is_not_recorded(bundle, made, tmp_path):
    path = recordings_in(made[0] / "recordings")[0]
    done = stream(bundle, "--source", path, "--headless", "--record", "x", cwd=tmp_path)
    refused(done, "is a recording already; replay it without --record")
    assert not (tmp_path / "x").exists()


def test_options_that_cannot_be_are_refused(bundle, tmp_path):
    arguments = ("--source", bikes_path(), "--headless", "--record")
    (tmp_path / "file").write_text("")
    refused(stream(bundle, *arguments, "file", cwd=tmp_path), "Not a directory")
    for option in ("--record-max-mb=0", "--record-before-s=-1", "--record-after-s=nan"):
        done = stream(bundle, *arguments, "x", option, cwd=tmp_path)
        assert done.returncode == 2, option
        assert not (tmp_path / "x").exists()


def test_scene_cuts_reset_the_states(bundle, tmp_path):
    bars = [np.full((40, 96, 96, 3), 60, np.uint8), moving_bar(40), 255 - moving_bar(40)]
    video = write_video(tmp_path / "cuts.mp4", np.concatenate(bars), fps=20)
    reasons = {}
    for name, options in (("off", ()), ("on", ("--scene-cuts",)), ("high", ("--scene-cuts", 250))):
        events = tmp_path / f"{name}.jsonl"
        stream(bundle, "--source", video, "--headless", "--events", events, *options, cwd=tmp_path)
        resets = of_type(records_of(events), "reset")
        reasons[name] = [(reset["reason"], reset["stream_time_s"]) for reset in resets]
        warming = [d["warming"] for d in of_type(records_of(events), "decision")]
        assert warming.count(True) == 3 * len(resets), "every reset warms up again"
    assert reasons["off"] == reasons["high"] == [("start", 0.0)]
    assert reasons["on"] == [("start", 0.0), ("scene_cut", 2.0), ("scene_cut", 4.0)]


def test_the_pictures_are_the_videos(made):
    folder, _ = made
    path = recordings_in(folder / "recordings")[0]
    time_s = read_manifest(path).times_s[-1]
    picture = cv2.imread(str(sorted(path.glob("*.jpg"))[-1]))
    capture = cv2.VideoCapture(str(bikes_path()))
    capture.set(cv2.CAP_PROP_POS_FRAMES, round(time_s * 25))
    _, wanted = capture.read()
    assert picture is not None
    assert np.abs(picture.astype(int) - wanted).mean() < 3


@pytest.mark.rtsp
@pytest.mark.slow
def test_what_a_camera_showed_is_replayed(bundle, made, tmp_path):
    need_rtsp_server()
    port = free_port()
    shutil.copy(made[0] / "policy.json", tmp_path)
    options = ("--headless", "--phases", 2, "--policy", "policy.json", "--backend", "ort")
    with rtsp_server(bikes_path(), port):
        url = f"rtsp://127.0.0.1:{port}/video"
        recorded = ("--record", "recordings", "--max-seconds", 8)
        done = stream(bundle, "--source", url, *options, *recorded, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    compared = 0
    for path in recordings_in(tmp_path / "recordings"):
        kept = read_manifest(path)
        assert (kept.is_live, kept.lost_frames, kept.source) == (True, 0, url)
        stream(bundle, "--source", path, *options, "--events", path.name, cwd=tmp_path)
        replayed = of_type(records_of(tmp_path / path.name), "decision")
        assert len(replayed) == len(kept.decisions)
        for then, now in zip(kept.decisions[1:], replayed[1:], strict=True):
            assert (now["stream_time_s"], now["phase"]) == (then["stream_time_s"], then["phase"])
            if now["stream_time_s"] >= kept.start_s:
                assert now["prob"] == pytest.approx(then["prob"], abs=0.02)
                assert (now["label"], now["action"]) == (then["label"], then["action"])
                compared += 1
    assert compared >= 20
