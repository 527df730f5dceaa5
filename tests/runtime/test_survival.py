"""What months bring: the command as a process of its own, and real faults around it."""

from __future__ import annotations

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
from tests.videos import bikes_path
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
def test_a_disk_that_is_full_for_a_while_costs_lines_and_says_how_many(bundle, tmp_path):
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
        time.sleep(1.0)
        filler.unlink()
        run.wait_for_line("written again")
        run.wait_for_decisions(10)
        (lost,) = run.of("lines_lost")
        assert lost["count"] >= 4
        ticks = [decision["tick"] for decision in run.of("decision")]
        # nothing is lost but what is counted; other lines may be among those
        assert 0 < ticks[-1] + 1 - len(ticks) <= lost["count"]
        run.process.send_signal(signal.SIGTERM)
        run.process.communicate(timeout=15)
    assert run.process.returncode == 0, run.stderr


@pytest.mark.namespaces
def test_a_video_whose_disk_is_full_ends_the_run_with_its_events_whole(bundle, tmp_path):
    need_namespaces("--mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    with started(
        bundle, bikes_path(), tmp_path, "--output", disk / "out.mp4",
        wrap=lambda line: with_small_disk(disk, 100_000, line),
    ) as run:  # fmt: skip
        run.process.communicate(timeout=60)
    assert run.process.returncode == 1
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert [record["type"] for record in run.records[-2:]] == ["failed", "end"]


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
