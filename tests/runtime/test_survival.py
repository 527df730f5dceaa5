"""What months bring: the command as a process of its own, and real faults around it."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from runtime.webhook import Patience, Webhook, WebhookUrl
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.namespaces import (
    disk_of,
    need_namespaces,
    own_network,
    with_host_table,
    with_small_disk,
)
from tests.rtsp_camera import SERVER, SYSTEM_PYTHON, need_rtsp_server, rtsp_server
from tests.runtime.test_stream import command, counts_of, environment, records_of, wait_for
from tests.tcp_proxy import tcp_proxy
from tests.videos import bikes_path, read_video
from tests.webhook_server import webhook_server

pytestmark = pytest.mark.slow
SHIM = Path(__file__).resolve().parents[1] / "wall_clock.c"


@pytest.fixture
def bundle(tmp_path):
    return write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=0.4)


class Running:
    """A run of the command, its lines and its events."""

    def __init__(self, process, events, lines):
        self.process = process
        self._events = events
        self._lines = lines

    def read_events_at(self, path):
        self._events = path

    @property
    def records(self):
        return records_of(self._events) if self._events.exists() else []

    @property
    def stderr(self):
        return self._lines.read_text()

    def of(self, kind):
        return [record for record in self.records if record["type"] == kind]

    def wait_for_decisions(self, more):
        wanted = len(self.of("decision")) + more
        wait_for(lambda: len(self.of("decision")) >= wanted, self.process)

    def wait_for_line(self, text):
        wait_for(lambda: text in self.stderr, self.process)

    def stop(self):
        """End it as a service manager does; the last line's counts."""
        self.process.send_signal(signal.SIGTERM)
        stdout, _ = self.process.communicate(timeout=15)
        assert self.process.returncode == 0, self.stderr
        assert "Traceback" not in self.stderr
        assert self.records[-1]["type"] == "end"
        return counts_of(stdout)


@contextmanager
def started(bundle, source, folder, *arguments, wrap=list, **variables):
    """Run the command on a source; `wrap` changes the command line."""
    events, lines = folder / "events.jsonl", folder / "stderr.txt"
    line = command(bundle, "--source", source, "--headless", "--events", events, *arguments)
    with lines.open("w") as stderr:
        process = subprocess.Popen(
            wrap(line), cwd=folder, env=environment() | variables, stdout=subprocess.PIPE,
            stderr=stderr, text=True,
        )  # fmt: skip
    try:
        yield Running(process, events, lines)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def wall_clock(tmp_path_factory):
    """The shim that sets a process's wall clock back."""
    library = tmp_path_factory.mktemp("shim") / "wall_clock.so"
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    except OSError as err:
        pytest.skip(f"no C compiler: {err}")
    return library


def test_a_wall_clock_that_is_set_back_changes_nothing_but_utc(bundle, tmp_path, wall_clock):
    switch = tmp_path / "set-back"
    variables = {"LD_PRELOAD": str(wall_clock), "WALL_CLOCK_SET_BACK": str(switch)}
    with mjpeg_camera(free_port()) as url:
        with started(bundle, url, tmp_path, "--stats-every", "0.5", **variables) as run:
            run.wait_for_decisions(10)
            switch.touch()
            run.wait_for_decisions(20)
            counts = run.stop()
        records = run.records
    assert counts["reconnects"] == 0
    assert [record["reason"] for record in run.of("reset")] == ["start"]
    clocks = [datetime.fromisoformat(r["utc"].replace("Z", "+00:00")) for r in records]
    steps = [later - earlier for earlier, later in zip(clocks, clocks[1:], strict=False)]
    assert sum(step < timedelta(minutes=-59) for step in steps) == 1
    decisions = run.of("decision")
    for name in ("monotonic_ns", "stream_time_s"):
        times = [decision[name] for decision in decisions]
        assert times == sorted(times)
    assert max(decision["latency_ms"] for decision in decisions) < 5000
    stream_s = decisions[-1]["stream_time_s"] - decisions[0]["stream_time_s"]
    real_s = (decisions[-1]["monotonic_ns"] - decisions[0]["monotonic_ns"]) / 1e9
    assert stream_s == pytest.approx(real_s, abs=1.0)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("way", ["renamed", "overwritten"])
def test_a_bundle_that_is_replaced_serves_the_run_that_has_it(tmp_path, backend, way):
    if backend == "openvino":
        pytest.importorskip("openvino")
    old = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=0.4)
    new = write_mini_bundle(tmp_path / "new", labels=("x", "y"), num_segments=4, window_s=0.4)
    arguments = ("--backend", backend, "--precision", "float32")
    with mjpeg_camera(free_port()) as url:
        with started(old, url, tmp_path, *arguments) as run:
            run.wait_for_decisions(10)
            if way == "renamed":
                old.folder.rename(tmp_path / "away")
                new.folder.rename(old.folder)
            else:
                for path in new.folder.iterdir():  # each file shrinks to nothing first
                    (old.folder / path.name).write_bytes(b"")
                run.wait_for_decisions(10)
                for path in new.folder.iterdir():
                    (old.folder / path.name).write_bytes(path.read_bytes())
            run.wait_for_decisions(20)
            run.stop()
        assert {decision["label"] for decision in run.of("decision")} <= set(old.labels)
        again = tmp_path / "again"
        again.mkdir()
        with started(old, url, again, *arguments) as run:
            run.wait_for_decisions(10)
            run.stop()
    assert {decision["label"] for decision in run.of("decision")} <= {"x", "y"}


@pytest.mark.namespaces
def test_a_camera_whose_name_nobody_knows_yet_is_found_when_it_is(bundle, tmp_path):
    need_namespaces("--mount")
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    resolver.write_text("")  # then the name server is this machine, which has none

    def wrap(line):
        return with_host_table(hosts, resolver, line)

    with mjpeg_camera(free_port()) as url:
        source = url.replace("127.0.0.1", "admin:hunter2@door.camera")
        with started(bundle, source, tmp_path, "--wait-for-source", wrap=wrap) as run:
            run.wait_for_line("the name door.camera has no address")
            time.sleep(1.0)
            with hosts.open("a") as file:
                file.write("127.0.0.1 door.camera\n")
            run.wait_for_decisions(10)
            run.stop()
    assert "is there after" in run.stderr
    assert run.stderr.count("has no address") == 1
    assert "hunter2" not in run.stderr + str(run.records)


@pytest.mark.rtsp
@pytest.mark.namespaces
def test_a_network_that_is_unplugged_and_plugged_in_again(bundle, tmp_path):
    need_rtsp_server()
    with own_network() as network:
        server = subprocess.Popen(
            network.command(SYSTEM_PYTHON, str(SERVER), str(bikes_path()), "8554"),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            url = "rtsp://127.0.0.1:8554/video"
            with started(bundle, url, tmp_path, wrap=lambda c: network.command(*c)) as run:
                run.wait_for_decisions(15)
                network.connect(is_up=False)
                run.wait_for_line("was lost")
                run.wait_for_line("trying on")
                network.connect(is_up=True)
                run.wait_for_line("is back after")
                run.wait_for_decisions(10)
                counts = run.stop()
        finally:
            server.kill()
            server.communicate()
    assert counts["reconnects"] == 1
    assert [record["reason"] for record in run.of("reset")][:2] == ["start", "reconnect"]


@pytest.mark.rtsp
def test_a_server_that_sends_garbage_for_a_while(bundle, tmp_path):
    need_rtsp_server()
    port = free_port()
    with rtsp_server(bikes_path(), port), tcp_proxy(port) as proxy:
        url = f"rtsp://127.0.0.1:{proxy.port}/video"
        with started(bundle, url, tmp_path) as run:
            run.wait_for_decisions(15)
            proxy.spoilt_share = 1.0
            run.wait_for_line("was lost")
            run.wait_for_line("does not speak RTSP")
            proxy.spoilt_share = 0.0
            run.wait_for_line("is back after")
            run.wait_for_decisions(10)
            counts = run.stop()
    assert counts["reconnects"] >= 1


def test_losses_leave_no_file_and_no_thread_behind(bundle, tmp_path):
    def held(process):
        folder = Path(f"/proc/{process.pid}")
        return [len(list((folder / name).iterdir())) for name in ("fd", "task")]

    port = free_port()
    url, seen = f"http://127.0.0.1:{port}/video", []
    with started(bundle, url, tmp_path, "--wait-for-source") as run:
        for _ in range(5):
            with mjpeg_camera(port):
                run.wait_for_decisions(10)
                seen.append(held(run.process))
        counts = run.stop()
    assert counts["reconnects"] == 4
    assert seen[1:] == [seen[1]] * 4


def fill(folder):
    """Leave no room at all on a disk; gives the file that takes it."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return filler


def test_an_action_ends_when_its_camera_falls_silent(bundle, tmp_path):
    flows = threading.Event()
    flows.set()
    with mjpeg_camera(free_port(), flows=flows) as url, started(bundle, url, tmp_path) as run:
        run.wait_for_decisions(10)
        wait_for(lambda: len(run.of("action_start")) > len(run.of("action")), run.process)
        flows.clear()
        ended = len(run.of("action"))
        wait_for(lambda: len(run.of("action")) > ended, run.process, timeout_s=15)
        assert run.records[-1]["type"] == "action", "nothing came after it"
        assert run.records[-1]["end_s"] <= run.of("decision")[-1]["stream_time_s"]
        flows.set()
        starts = len(run.of("action_start"))
        wait_for(lambda: len(run.of("action_start")) > starts, run.process)


@pytest.mark.namespaces
def test_a_disk_that_is_full_for_a_while_costs_no_line(bundle, tmp_path):
    need_namespaces("--mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    with mjpeg_camera(free_port()) as url, started(
        bundle, url, tmp_path, "--events", disk / "events.jsonl",
        wrap=lambda line: with_small_disk(disk, 1_000_000, line),
    ) as run:  # fmt: skip
        run.wait_for_line("states start from zero")
        inside = disk_of(run.process.pid, disk)
        run.read_events_at(inside / "events.jsonl")
        run.wait_for_decisions(10)
        filler = fill(inside)
        run.wait_for_line("cannot be written")
        before = len(run.of("decision"))
        time.sleep(1.0)
        assert len(run.of("decision")) == before, "the disk is full"
        filler.unlink()
        run.wait_for_line("written again")
        run.wait_for_decisions(10)
        assert not run.of("lines_lost")
        ticks = [decision["tick"] for decision in run.of("decision")]
        assert ticks == list(range(len(ticks)))
        run.process.send_signal(signal.SIGTERM)
        run.process.communicate(timeout=15)
    assert run.process.returncode == 0, run.stderr


def with_small_disk_kept(folder, size_bytes, kept, line):
    """As `with_small_disk`; what is on the disk at the end is copied to `kept`."""
    script = '"$@"; status=$?; cp -a "$DISK" "$KEPT"; exit $status'
    return with_small_disk(
        folder, size_bytes,
        ["env", f"DISK={folder}", f"KEPT={kept}", "sh", "-c", script, "sh", *line],
    )  # fmt: skip


@pytest.mark.namespaces
@pytest.mark.parametrize(
    ("encoder", "size_bytes", "message"),
    [
        ("ffmpeg", 10_000_000, r"no room: 9\.. MB are free on its disk, 9\.4 MB .*; it ends after"),
        ("opencv", 10_000_000, r"no room: .\.. MB are free on its disk, 9\.4 MB .*; it ends after"),
        ("ffmpeg", 100_000, r"no room: 0\.1 MB are free on its disk, .*; nothing of it is kept"),
    ],
)
def test_a_video_whose_disk_fills_up_ends_playable_and_the_run_goes_on(
    bundle, tmp_path, encoder, size_bytes, message
):
    need_namespaces("--mount")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    without_ffmpeg = ["env", "PATH="] if encoder == "opencv" else []
    with started(
        bundle, bikes_path(), tmp_path, "--output", disk / "out.mp4",
        wrap=lambda line: with_small_disk_kept(disk, size_bytes, kept, [*without_ffmpeg, *line]),
    ) as run:  # fmt: skip
        stdout, _ = run.process.communicate(timeout=120)
    assert run.process.returncode == 1
    (error,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(rf"out\.mp4: {message}", error)
    (told,) = [line for line in run.stderr.splitlines() if line.startswith("ERROR ")]
    said = error.removeprefix("error: ")
    assert told == f"ERROR video lost: {said}; the stream goes on without it"
    assert [lost["message"] for lost in run.of("video_lost")] == [said]
    assert not run.of("failed")
    assert counts_of(stdout)["used"] == len(run.of("decision")) == 100
    assert run.records[-1]["type"] == "end"
    if "it ends after" not in message:
        assert not list(kept.iterdir())
        return
    assert [path.name for path in kept.iterdir()] == ["out.mp4"]
    codec, frames = read_video(kept / "out.mp4")
    assert codec == {"ffmpeg": "h264", "opencv": "mpeg4"}[encoder]
    assert 25 <= len(frames) < 250
    assert error.endswith(f"; it ends after {len(frames) / 25:.1f} s")


@pytest.mark.namespaces
@pytest.mark.parametrize("encoder", ["ffmpeg", "opencv"])
def test_a_video_whose_disk_others_fill_leaves_nothing_half_written(bundle, tmp_path, encoder):
    need_namespaces("--mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    without_ffmpeg = ["env", "PATH="] if encoder == "opencv" else []
    with mjpeg_camera(free_port()) as url, started(
        bundle, url, tmp_path, "--output", disk / "out.mp4",
        wrap=lambda line: with_small_disk(disk, 20_000_000, [*without_ffmpeg, *line]),
    ) as run:  # fmt: skip
        run.wait_for_decisions(10)
        inside = disk_of(run.process.pid, disk)
        assert [path.name[:5] for path in inside.iterdir()] == [".out."]
        fill(inside)
        run.wait_for_line("video lost")
        left = {path.name for path in inside.iterdir()} - {"filler"}
        if left:  # what it still had to write was less than a page that it had already
            assert left == {"out.mp4"}
            assert len(read_video(inside / "out.mp4")[1]) > 10
        run.wait_for_decisions(20)
        run.process.send_signal(signal.SIGTERM)
        run.process.communicate(timeout=15)
    assert run.process.returncode == 1
    (lost,) = run.of("video_lost")
    assert lost["message"].endswith("; nothing of it is kept") == (not left)
    assert run.stderr.splitlines()[-1] == f"error: {lost['message']}"


# An hour in six seconds: the webhook's pauses divided by 600. A refused connection is known at
# once, and a loaded machine must not turn a slow answer into a repeated event.
COMPRESSED = 600
PATIENCE = Patience(
    answer_s=30,
    first_pause_s=1 / COMPRESSED,
    longest_pause_s=60 / COMPRESSED,
)


def test_a_webhook_that_is_down_for_an_hour_loses_nothing(bundle):
    port, number = free_port(), 0
    with Webhook(WebhookUrl.parse(f"http://127.0.0.1:{port}"), patience=PATIENCE) as hook:
        until_s = time.monotonic() + 3600 / COMPRESSED
        while time.monotonic() < until_s:  # an event each ten seconds
            hook.send({"number": number})
            number += 1
            time.sleep(10 / COMPRESSED)
        # a try a minute, on average three quarters of it, and the first quick ones
        assert hook.counts.failed_tries < 60 / 0.5 + 10
        with webhook_server(port) as server:
            back_s = time.monotonic()
            while hook.counts.sent < number:
                assert time.monotonic() - back_s < 60
                time.sleep(0.01)
    assert [event["number"] for event in server.got] == list(range(number))
    assert hook.counts.dropped == 0
