"""A recording read as a file and read over RTSP without a loss: the same decisions and actions."""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest

from runtime.sources.choose import open_source
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port
from tests.rtsp_camera import need_rtsp_server, rtsp_server
from tests.runtime.test_stream import command, counts_of, environment, records_of, stream, wait_for
from tests.videos import Coding, bikes_path, drifting_pattern, encode

pytestmark = [pytest.mark.rtsp, pytest.mark.slow]

# A frame is lost where this machine has no time for it: the link is then none without a loss.
ATTEMPTS = 4
# Slow enough that others' work on this machine rarely costs a frame.
FPS = 10


@pytest.fixture(scope="module", autouse=True)
def server_parts():
    need_rtsp_server()


def test_a_file_and_its_rtsp_stream_decide_the_same(tmp_path):
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    coding = Coding("clip.mp4", "libx264", options={"tune": "zerolatency", "g": "10"}, fps=FPS)
    pictures = drifting_pattern(60)
    pictures[20:35] = 255 - pictures[20:35]
    clip = encode(tmp_path, pictures, coding)
    log = tmp_path / "file.jsonl"
    done = stream(bundle, "--source", clip, "--headless", "--events", log, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    by_file = first_showing(log)
    by_rtsp = replayed(bundle, clip, tmp_path)
    assert len(by_file) > 20
    assert {record["type"] for record in by_file} == {"decision", "action_start", "action"}
    assert len(by_rtsp) == len(by_file)
    for over_rtsp, from_file in zip(by_rtsp, by_file, strict=True):
        assert over_rtsp == pytest.approx(from_file, abs=1e-4)


def test_a_file_and_its_rtsp_stream_are_the_same_frames_at_the_same_times():
    with open_source(str(bikes_path())) as source:
        from_file = list(itertools.islice(source, 100))
    port = free_port()
    with rtsp_server(bikes_path(), port), open_source(f"rtsp://127.0.0.1:{port}/video") as source:
        over_rtsp = list(itertools.takewhile(lambda frame: frame.index < 100, source))
    # nothing is lost of what was there when the stream was open; later ones this machine may miss
    assert [frame.index for frame in over_rtsp[:10]] == list(range(10))
    assert len(over_rtsp) > 50
    for frame in over_rtsp:
        same = from_file[frame.index]
        assert (frame.image_rgb == same.image_rgb).all()
        assert frame.stream_time_s == pytest.approx(same.stream_time_s, abs=1e-4)


def replayed(bundle, clip, folder):
    """What the command decides on a server's first showing of a clip, every frame received."""
    for attempt in range(ATTEMPTS):
        log, port = folder / f"rtsp-{attempt}.jsonl", free_port()
        lines = folder / f"rtsp-{attempt}.txt"
        with rtsp_server(clip, port), lines.open("w") as stderr:
            process = subprocess.Popen(
                command(bundle, "--source", f"rtsp://127.0.0.1:{port}/video", "--headless",
                        "--events", log),
                cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
            wait_for(lambda lines=lines: "was lost after" in lines.read_text(), process)
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=20)
        assert process.returncode == 0, lines.read_text()
        if counts_of(stdout)["dropped"] == 0:
            return first_showing(log)
    raise AssertionError(f"frames were lost in {ATTEMPTS} attempts: is this machine overloaded?")


def first_showing(log):
    """Decisions and actions until the stream began anew, times since its first frame, flat."""
    records = records_of(log)
    kinds = [record["type"] for record in records]
    until = kinds.index("reconnect") if "reconnect" in kinds else len(kinds)
    start_s = next(r["stream_time_s"] for r in records if r["type"] == "reset")
    wanted = [r for r in records[:until] if r["type"] in ("decision", "action_start", "action")]
    return [flat(record, start_s) for record in wanted]


def flat(record, start_s):
    """A record without names and wall times."""
    kept = {
        name: value
        for name, value in record.items()
        if name not in ("source", "utc", "monotonic_ns", "latency_ms", "top")
    }
    for name in ("stream_time_s", "start_s", "end_s"):
        if name in kept:
            kept[name] -= start_s
    return kept | {f"prob of {label}": prob for label, prob in record.get("top", [])}
