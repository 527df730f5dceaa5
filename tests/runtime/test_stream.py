"""The command, run as users run it: a process of its own, from another directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runtime
from runtime.app import StreamOptions, _status
from runtime.live import Stream
from runtime.recordings.recorder import AFTER_S
from runtime.scene_cut import DEFAULT_THRESHOLD
from runtime.sessions.ort import OrtStepSession
from runtime.sources.memory import MemorySource
from runtime.stream import build_parser
from runtime.video import find_ffmpeg
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.videos import bikes_path, moving_bar, read_video, write_video

ROOT = Path(__file__).resolve().parents[2]
STREAM = ROOT / "runtime" / "stream.py"
WALL_CLOCK = ("utc", "monotonic_ns", "latency_ms")
LAST_LINE = re.compile(
    r"frames captured (?P<captured>\d+), used (?P<used>\d+), dropped (?P<dropped>\d+); "
    r"steps (?P<steps>\d+), missed ticks (?P<missed>\d+), reconnects (?P<reconnects>\d+); "
    r"latency .*"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)


@pytest.fixture
def short_video(tmp_path):
    return write_video(tmp_path / "short.mp4", moving_bar(50))


def command(bundle, *arguments):
    return [sys.executable, str(STREAM), "--bundle", str(bundle.folder), *map(str, arguments)]


def environment():
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }


def stream(bundle, *arguments, cwd):
    return subprocess.run(
        command(bundle, *arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_wall_clock(records):
    return [{k: v for k, v in record.items() if k not in WALL_CLOCK} for record in records]


def counts_of(stdout):
    match = LAST_LINE.fullmatch(stdout.splitlines()[-1])
    assert match is not None, stdout
    return {name: int(value) for name, value in match.groupdict().items()}


def refused(done, message, tmp_path=None):
    """One clear line, a status, no traceback and nothing written."""
    assert done.returncode == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert re.search(message, errors[0]), errors[0]
    if tmp_path is not None:
        assert not (tmp_path / "events.jsonl").exists()
        assert not list(tmp_path.glob("*out*"))


def test_a_real_video_gives_the_same_events_twice(bundle, tmp_path):
    runs = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        done = stream(
            bundle, "--source", bikes_path(), "--headless", "--events", path, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert counts_of(done.stdout) == {
            "captured": 250,
            "used": 40,
            "dropped": 0,
            "steps": 40,
            "missed": 0,
            "reconnects": 0,
        }
        runs.append(without_wall_clock(records_of(path)))
    assert runs[0] == runs[1]
    kinds = [record["type"] for record in runs[0]]
    assert kinds[:3] == ["start", "reset", "decision"]
    assert kinds[-2:] == ["action", "end"]
    assert kinds.count("decision") == 40
    assert kinds.count("action") >= 2


def test_module_and_file_are_the_same_command(bundle, short_video, tmp_path):
    arguments = command(bundle, "--source", short_video, "--headless", "--phases", 2)[2:]
    done = subprocess.run(
        [sys.executable, "-m", "runtime.stream", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert counts_of(done.stdout)["steps"] == 16
    direct = stream(bundle, "--source", short_video, "--headless", "--phases", 2, cwd=tmp_path)
    assert counts_of(direct.stdout) == counts_of(done.stdout)


def test_options_reach_the_stream(bundle, short_video, tmp_path):
    events = tmp_path / "events.jsonl"
    done = stream(
        bundle, "--source", short_video, "--headless", "--events", events, "--window", "2.0",
        "--precision", "float32", "--backend", "ort", "--threads", 1, "--max-seconds", "1",
        "--no-self-test", "--log-level", "info", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING window 2 s, trained with 1 s" in done.stderr
    assert "self-test" not in done.stderr
    start = records_of(events)[0]
    assert start["window_s"] == 2.0
    assert start["session"].endswith("CPU, float32")
    assert start["phases"] == 2  # frames 0.5 s apart: two phases decide four times a second
    assert counts_of(done.stdout)["steps"] == 4


@pytest.mark.skipif(find_ffmpeg() is None, reason="no ffmpeg with libx264 on PATH")
def test_annotated_video_is_h264_of_the_same_length(bundle, short_video, tmp_path):
    output = tmp_path / "annotated.mp4"
    done = stream(bundle, "--source", short_video, "--headless", "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    codec, frames = read_video(output)
    assert codec == "h264"
    assert frames.shape == (50, 480, 480, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotated.mp4", "short.mp4"]


def test_a_cut_video_ends_with_all_files_whole(bundle, tmp_path):
    video = write_video(tmp_path / "cut.mp4", moving_bar(100), front_header=True)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 3 // 4])
    events, output = tmp_path / "events.jsonl", tmp_path / "out.mp4"
    done = stream(
        bundle,
        "--source",
        video,
        "--headless",
        "--events",
        events,
        "--output",
        output,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.fullmatch(r"error: .*cut\.mp4 is cut off: .*", done.stderr.splitlines()[-1])
    counts = counts_of(done.stdout)
    assert 0 < counts["captured"] < 100
    records = records_of(events)
    assert [record["type"] for record in records[-2:]] == ["source_lost", "end"]
    assert "cut off" in records[-2]["message"]
    assert len(read_video(output)[1]) == counts["captured"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.mp4", r"missing\.mp4 cannot be opened: no such file"),
        (".", r"\. holds no pictures \(\.jpg, .*; a folder source needs them"),
        ("notes.mp4", r"notes\.mp4 cannot be opened; it is no video"),
        ("headless.mp4", r"headless\.mp4 cannot be opened; it is no video"),
        ("99", r"camera 99 cannot be opened: no such camera \(/dev/video99\); cameras here: "),
        ("/dev/video77", r"/dev/video77 cannot be opened: no such camera"),
        ("ftp://host/x", r"ftp:// is not known; accepted: a video file, a folder of pictures"),
    ],
)
def test_bad_sources_are_one_line(bundle, tmp_path, source, message):
    (tmp_path / "notes.mp4").write_text("no video")
    (tmp_path / "headless.mp4").write_bytes(bikes_path().read_bytes()[:200_000])
    done = stream(
        bundle, "--source", source, "--headless",
        "--events", "events.jsonl", "--output", "out.mp4", cwd=tmp_path,
    )  # fmt: skip
    refused(done, message, tmp_path)


def test_a_network_source_that_is_not_there_keeps_its_password(bundle, tmp_path):
    url = f"rtsp://admin:hunter2@127.0.0.1:{free_port()}/stream"
    done = stream(bundle, "--source", url, "--headless", "--events", "events.jsonl", cwd=tmp_path)
    refused(done, r"rtsp://\*\*\*@127\.0\.0\.1:\d+/stream cannot be opened", tmp_path)
    assert "hunter2" not in done.stderr


def flip_a_byte(folder):
    data = bytearray((folder / "step.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "step.onnx").write_bytes(data)


def remove_golden(folder):
    (folder / "golden.npz").unlink()


def remove_all(folder):
    shutil.rmtree(folder)


def unknown_schema(folder):
    path = folder / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))


def broken_json(folder):
    (folder / "bundle.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"step\.onnx does not match its hash"),
        (remove_golden, r"golden\.npz is missing; copy the whole bundle folder again"),
        (remove_all, r"no bundle at .*; run `make demo` or pass --bundle"),
        (unknown_schema, r"has schema_version 99, this runtime reads 1"),
        (broken_json, r"bundle\.json cannot be read"),
    ],
)
def test_bad_bundles_are_one_line(tmp_path, short_video, damage, message):
    bad = write_mini_bundle(tmp_path / "bundle")
    damage(bad.folder)
    done = stream(
        bad, "--source", short_video, "--headless", "--events", "events.jsonl", cwd=tmp_path
    )
    refused(done, message, tmp_path)


def test_labels_that_do_not_fit_are_one_line(tmp_path, short_video):
    bad = write_mini_bundle(tmp_path / "bundle")
    write_manifest(bad, labels=["a", "b", "c", "d"])
    done = stream(bad, "--source", short_video, "--headless", "--no-self-test", cwd=tmp_path)
    refused(done, "labels do not fit: .* lists 4 labels, step.int8.onnx gives 3 logits")


def test_a_wrong_engine_is_found_before_the_camera_opens(tmp_path, short_video):
    bad = write_mini_bundle(tmp_path / "bundle")
    other = write_mini_bundle(tmp_path / "other", seed=5)
    shutil.copy(other.folder / "step.int8.onnx", bad.folder / "step.int8.onnx")
    write_manifest(bad)
    engine = ("--backend", "ort", "--precision", "int8")
    arguments = ("--source", short_video, "--headless", "--events", "events.jsonl", *engine)
    refused(stream(bad, *arguments, cwd=tmp_path), "self-test failed at golden step 0", tmp_path)
    assert stream(bad, *arguments, "--no-self-test", cwd=tmp_path).returncode == 0


def test_without_a_display_one_line_suggests_headless(bundle, short_video, tmp_path):
    done = stream(bundle, "--source", short_video, "--events", "events.jsonl", cwd=tmp_path)
    refused(done, "no display here .*pass --headless", tmp_path)


def test_an_output_that_cannot_be_written_is_one_line(bundle, short_video, tmp_path):
    (tmp_path / "file").write_text("")
    done = stream(
        bundle, "--source", short_video, "--headless", "--events", "file/events.jsonl", cwd=tmp_path
    )
    refused(done, "file")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_every_file(bundle, tmp_path, number):
    events, output = tmp_path / "events.jsonl", tmp_path / "out.mp4"
    with mjpeg_camera(free_port()) as url:
        process = subprocess.Popen(
            command(bundle, "--source", url, "--headless", "--events", events, "--output", output),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        wait_for(lambda: events.exists() and events.read_text().count('"decision"') >= 5, process)
        # as `timeout` and shells do: the process, then its group, and ffmpeg is in neither
        process.send_signal(number)
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    counts = counts_of(stdout)
    assert counts["used"] >= 5
    assert records_of(events)[-1]["type"] == "end"
    assert records_of(events)[-1]["used"] == counts["used"]
    assert len(read_video(output)[1]) > 5
    assert not list(tmp_path.glob(".*"))


def test_every_line_written_so_far_survives_a_crash(bundle, tmp_path):
    events = tmp_path / "events.jsonl"
    process = subprocess.Popen(
        command(bundle, "--source", bikes_path(), "--realtime", "--headless", "--events", events),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: events.exists() and events.read_text().count('"decision"') >= 3, process)
    process.kill()
    process.communicate()
    assert [record["type"] for record in records_of(events)].count("decision") >= 3
    done = stream(
        bundle, "--source", bikes_path(), "--headless", "--max-seconds", 1, "--events", events,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert [record["type"] for record in records_of(events)].count("start") == 2


@pytest.mark.parametrize(
    ("used", "signals", "status"),
    [(0, [signal.SIGINT], 130), (0, [signal.SIGTERM], 143), (5, [signal.SIGINT], 0), (0, [], 0)],
)
def test_only_a_run_that_did_nothing_reports_its_signal(bundle, used, signals, status):
    source = MemorySource.of_pictures(moving_bar(used), fps=1)
    with OrtStepSession(bundle) as session:
        stream = Stream(bundle, source, session)
        list(stream)
    assert _status([stream], signals) == status


def wait_for(condition, process, timeout_s=30.0):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until_s, "nothing happened in time"
        time.sleep(0.05)


def test_the_commands_defaults_are_those_of_what_it_calls():
    """The command line may not import them: --help needs no OpenCV."""
    options = build_parser().parse_args(["--camera", "0", "--scene-cuts"])
    assert options.scene_cuts == DEFAULT_THRESHOLD
    assert options.record_after_s == AFTER_S
    defaults = StreamOptions(sources=(), bundle=Path())
    for name in ("record_max_mb", "events_max_mb", "events_keep"):
        assert getattr(options, name) == getattr(defaults, name)


def test_help_shows_examples_and_needs_no_opencv(tmp_path):
    code = "import sys; sys.modules['cv2'] = None; import runpy; sys.argv = ['s', '--help'];"
    code += f"runpy.run_path({str(STREAM)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "python runtime/stream.py --camera 0" in done.stdout
    assert "rtsp://" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --camera --source --source-env"),
        (("--camera", "rtsp://a:hunter2@cam"), "a camera is a number or a /dev path"),
        (("--source", "a.mp4", "--phases", "0"), "must be a whole number >= 1, got 0"),
        (("--source", "a.mp4", "--window", "-1"), "must be a number > 0 and <= 1e+09, got -1"),
        (("--source", "a.mp4", "--max-seconds", "1e10"), "> 0 and <= 1e+09, got 1e10"),
        (("--source", "a.mp4", "--scene-cuts", "999"), "must be a number > 0 and <= 255, got 999"),
    ],
)
def test_wrong_arguments_are_refused_by_name(bundle, tmp_path, arguments, message):
    done = stream(bundle, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "hunter2" not in done.stderr


def test_the_version_is_the_projects(tmp_path, bundle):
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert runtime.__version__ == stated[1]
    done = stream(bundle, "--version", cwd=tmp_path)
    assert done.stdout.strip() == f"tdrl-edge {stated[1]}"


def test_a_pipeline_from_the_environment_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TDRL_SOURCE", "gst:videotestsrc ! filesink location=secret")
    done = stream(bundle, "--source-env", "TDRL_SOURCE", "--headless", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: gst: pipelines are accepted from the command line only"
    assert not (tmp_path / "secret").exists()
