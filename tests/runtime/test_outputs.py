"""What a run leaves: event file, webhook, policy; the command as users run it."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest

from runtime.event_log import EventFile, EventLog
from runtime.operating_point import OperatingPoint
from runtime.outputs import Outputs
from runtime.policy import Policy
from runtime.sources.frame import Frame
from runtime.stepper import Moment
from tests.full_disk import full_disk
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.mjpeg_server import free_port
from tests.runtime.test_decision import decision
from tests.runtime.test_stream import command, records_of, refused, stream, wait_for
from tests.videos import bikes_path, moving_bar, write_video
from tests.webhook_server import webhook_server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)


@pytest.fixture
def short_video(tmp_path):
    return write_video(tmp_path / "short.mp4", moving_bar(50))


def policy_file(tmp_path, **fields):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(fields))
    return path


def of_type(records, *kinds):
    return [record for record in records if record["type"] in kinds]


def run(bundle, *arguments, cwd):
    events = cwd / "events.jsonl"
    done = stream(
        bundle, "--source", bikes_path(), "--headless", "--events", events, *arguments, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done, records_of(events)


# ---- policy


def test_actions_are_reported_by_the_policy(bundle, tmp_path):
    _, plain = run(bundle, cwd=tmp_path)
    (tmp_path / "events.jsonl").unlink()
    fields = {"enter": 0.5, "exit": 0.3, "min_duration_s": 0.3, "lag_s": 0.5}
    _, records = run(bundle, "--policy", policy_file(tmp_path, **fields), cwd=tmp_path)
    actions = of_type(records, "action")
    assert 0 < len(actions) < len(of_type(plain, "action"))
    assert all(action["end_s"] - action["start_s"] >= 0.3 for action in actions)
    assert all(action["peak_prob"] >= 0.5 for action in actions)
    for action in of_type(records, "action", "action_start"):
        happened_s = action.get("end_s", action["start_s"])
        assert action["latency_s"] == pytest.approx(action["stream_time_s"] - happened_s)
        assert action["latency_s"] >= 0.5
    assert records[0]["policy"]["lag_s"] == 0.5
    said = [d["label"] for d in of_type(records, "decision")]
    assert said == [d["label"] for d in of_type(plain, "decision")], "the decisions are the same"


def test_a_decision_is_none_of_these_below_the_policy(bundle, tmp_path):
    policy = policy_file(tmp_path, enter=0.7, ignore=["a"])
    _, records = run(bundle, "--policy", policy, cwd=tmp_path)
    decisions = of_type(records, "decision")
    for one in decisions:
        speaks = not one["warming"] and one["prob"] >= 0.7 and one["label"] != "a"
        assert one["action"] == (one["label"] if speaks else None)
    assert {None} < {one["action"] for one in decisions}


def test_the_bundles_operating_point_is_the_default(tmp_path):
    bundle = write_mini_bundle(tmp_path / "mini", num_segments=4, window_s=1.0)
    (tmp_path / "plain").mkdir()
    _, plain = run(bundle, cwd=tmp_path / "plain")
    point = OperatingPoint(temperature=4.0, policy=Policy(enter=0.5, exit=0.5))
    write_manifest(replace(bundle, operating=point))
    _, records = run(bundle, cwd=tmp_path)
    assert (records[0]["temperature"], records[0]["policy"]["enter"]) == (4.0, 0.5)
    for hot, cold in zip(of_type(records, "decision"), of_type(plain, "decision"), strict=True):
        probs = np.array([prob for _, prob in sorted(cold["top"])]) ** 0.25
        assert hot["label"] == cold["label"]
        assert hot["prob"] == pytest.approx(probs.max() / probs.sum(), abs=1e-3)


def test_a_wrong_policy_is_refused_line_by_line(bundle, short_video, tmp_path):
    policy = policy_file(tmp_path, enter=2, ignore=["x"])
    arguments = ("--source", short_video, "--headless", "--events", "events.jsonl")
    done = stream(bundle, *arguments, "--policy", policy, cwd=tmp_path)
    first, second = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert first == f"ERROR {policy}: enter must be a number in 0..1, got 2"
    assert second == f'error: {policy}: ignore: "x" is no label; the bundle has a, b, c'
    assert (done.returncode, done.stdout) == (1, "")
    assert not (tmp_path / "events.jsonl").exists()
    refused(stream(bundle, *arguments, "--policy", "gone.json", cwd=tmp_path), "gone.json cannot")


def test_another_window_moves_the_bundles_lag(tmp_path):
    bundle = write_mini_bundle(tmp_path / "mini", num_segments=4, window_s=1.0)
    write_manifest(replace(bundle, operating=OperatingPoint(policy=Policy(lag_s=0.75))))
    _, records = run(bundle, "--window", "0.5", cwd=tmp_path)
    assert records[0]["policy"]["lag_s"] == 0.375


# ---- the event file


def test_the_event_file_is_rotated(bundle, tmp_path):
    limit = ("--events-max-mb", "0.002", "--events-keep", "2")
    run(bundle, *limit, cwd=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    newest = [record for name in reversed(names) for record in records_of(tmp_path / name)]
    ticks = [record["tick"] for record in of_type(newest, "decision")]
    assert ticks == list(range(ticks[0], 40))


def test_a_full_disk_does_not_stop_the_stream(bundle, tmp_path):
    events = tmp_path / "events.jsonl"
    process = subprocess.Popen(
        command(bundle, "--source", bikes_path(), "--realtime", "--headless", "--events", events),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: events.exists() and events.read_text().count('"decision"') >= 3, process)
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    full = events.stat().st_size + 100
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (full, unlimited[1]))
    time.sleep(1.5)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "used 40" in stdout
    records = records_of(events)
    assert not of_type(records, "lines_lost")
    assert (records[-1]["type"], records[-1]["lines_lost"]) == ("end", 0)
    assert [record["tick"] for record in of_type(records, "decision")] == list(range(40))
    assert stderr.count("cannot be written") == stderr.count("written again") == 1


@pytest.mark.parametrize(
    ("option", "place", "room_bytes", "message"),
    [
        ("--events", "events.jsonl", 3000, "the last event lines are lost: File too large"),
        ("--record", "kept", 1000, "all recordings of .* are lost: File too large"),
    ],
)
def test_a_run_that_lost_its_lines_or_recordings_ends_with_1(
    bundle, tmp_path, option, place, room_bytes, message
):
    path = tmp_path / place
    with full_disk(room_bytes):
        done = stream(bundle, "--source", bikes_path(), "--headless", option, path, cwd=tmp_path)
    assert done.returncode == 1
    assert "used 40" in done.stdout  # it ran to its end
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(rf"error: {path}: {message}; make room there, or give {option} .*", last)


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--output", "/proc/out.mp4"),
        ("--events", "/proc/events.jsonl"),
        ("--events", "/proc"),
        ("--record", "/proc/kept"),
    ],
)
def test_a_place_that_cannot_be_written_ends_the_run_at_once(bundle, tmp_path, option, path):
    done = stream(bundle, "--source", bikes_path(), "--headless", option, path, cwd=tmp_path)
    refused(done, f"{option} {path} cannot be written: .*; give it a .* that you may write")


# ---- the webhook


def test_the_start_and_end_of_each_action_are_posted(bundle, tmp_path):
    with webhook_server() as server:
        url = server.url.replace("://", "://me:hunter2@") + "/hunter2?key=hunter2"
        done, records = run(bundle, "--webhook", url, "--log-level", "debug", cwd=tmp_path)
    written = of_type(records, "action", "action_start")
    assert len(written) >= 4
    posted = [{k: v for k, v in got.items() if k != "id"} for got in server.got]
    assert posted == written
    assert (records[-1]["webhook_sent"], records[-1]["webhook_dropped"]) == (len(written), 0)
    assert "hunter2" not in done.stderr + done.stdout + (tmp_path / "events.jsonl").read_text()


def test_a_webhook_that_is_down_does_not_hold_the_stream_or_its_end(bundle, tmp_path):
    url = f"http://127.0.0.1:{free_port()}/hunter2"
    started_s = time.monotonic()
    done, records = run(bundle, "--webhook", url, cwd=tmp_path)
    assert time.monotonic() - started_s < 30
    end = records[-1]
    assert (end["type"], end["webhook_sent"]) == ("end", 0)
    assert end["webhook_dropped"] == len(of_type(records, "action", "action_start"))
    assert "Connection refused; trying again" in done.stderr
    assert "hunter2" not in done.stderr


def test_sigterm_ends_the_action_and_posts_it(bundle, tmp_path):
    events = tmp_path / "events.jsonl"
    with webhook_server() as server:
        process = subprocess.Popen(
            command(
                bundle, "--source", bikes_path(), "--realtime", "--headless", "--events", events,
                "--webhook", server.url,
            ),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: server.got and server.got[-1]["type"] == "action_start", process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0, stderr
        assert server.got[-1]["type"] == "action"
    records = records_of(events)
    assert [record["type"] for record in records[-2:]] == ["action", "end"]
    assert records[-1]["webhook_dropped"] == 0


def test_a_webhook_may_stand_in_the_environment(bundle, short_video, tmp_path, monkeypatch):
    arguments = ("--source", short_video, "--headless", "--webhook-env", "TDRL_WEBHOOK")
    refused(stream(bundle, *arguments, cwd=tmp_path), "variable TDRL_WEBHOOK is not set or empty")
    monkeypatch.setenv("TDRL_WEBHOOK", "http://u:p/hunter2@host")
    done = stream(bundle, *arguments, cwd=tmp_path)
    refused(done, "a webhook is an http:// or https:// URL")
    assert "hunter2" not in done.stderr
    with webhook_server() as server:
        monkeypatch.setenv("TDRL_WEBHOOK", server.url)
        assert stream(bundle, *arguments, cwd=tmp_path).returncode == 0
        assert {record["type"] for record in server.got} == {"action_start", "action"}


@pytest.mark.parametrize("url", ["hunter2", "ftp://hunter2", "http://u:p/hunter2@host"])
def test_a_wrong_webhook_is_refused_without_showing_it(bundle, short_video, tmp_path, url):
    done = stream(bundle, "--source", short_video, "--webhook", url, cwd=tmp_path)
    assert done.returncode == 2
    assert "a webhook is an http:// or https:// URL" in done.stderr
    assert "hunter2" not in done.stderr


# ---- silence


def test_only_a_camera_that_is_silent_for_long_has_its_action_ended(bundle, tmp_path):
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 0, 1.0, 0)
    spoke = replace(decision(time_s=1.0), action=bundle.labels[0], label=bundle.labels[0])
    path = tmp_path / "events.jsonl"
    with Outputs(bundle, "camera") as outputs, EventLog(EventFile(path)) as log:
        outputs.log_to(log)
        outputs.end_if_silent(10**12)  # no frame yet: nothing to end
        outputs.show(Moment(frame, spoke, ()))
        outputs.end_if_silent(round(4.9e9))
        assert not of_type(records_of(path), "action")
        outputs.end_if_silent(round(5.1e9))
        (ended,) = of_type(records_of(path), "action")
        assert ended["label"] == bundle.labels[0]
        outputs.end_if_silent(round(9e9))
        assert len(of_type(records_of(path), "action")) == 1
