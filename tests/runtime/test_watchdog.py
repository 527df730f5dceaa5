"""What systemd would hear, on a real socket: of a healthy stream, a lost source and a hang."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.live import Stream
from runtime.sessions.ort import OrtStepSession
from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.uri import SourceUri
from runtime.watchdog import ServiceManager, Watchdog
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.runtime.faults import BrokenCapture, Opener, RecordingSession
from tests.service_manager import listening_manager

STREAM = Path(__file__).resolve().parents[2] / "runtime" / "stream.py"
CAMERA = SourceUri("camera", "0", "camera 0")
QUICK = ReconnectRule(first_wait_s=0.01, last_wait_s=0.02)
LIMIT_S = 0.2  # pings every 0.05 s


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=0.4)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with listening_manager(tmp_path if request.param == "path" else None) as listening:
        yield listening


def test_every_message_reaches_the_socket(manager):
    service = ServiceManager(manager.address)
    service.ready("opened\ncamera 0")
    service.status("30 fps")
    service.ping("29 fps")
    service.stopping()
    manager.hear()
    assert [lines for _, lines in manager.messages] == [
        ["READY=1", "STATUS=opened camera 0"],
        ["STATUS=30 fps"],
        ["WATCHDOG=1", "STATUS=29 fps"],
        ["STOPPING=1"],
    ]


def test_the_environment_says_who_listens_and_is_used_up(manager):
    environment = manager.environment(30) | {"PATH": "/bin", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert service.listens
    assert service.watchdog_s == 30.0
    service.ready("here")
    assert manager.hear() == ["READY=1", "STATUS=here"]


@pytest.mark.parametrize(
    ("variables", "listens", "watchdog_s"),
    [
        ({}, False, None),
        ({"WATCHDOG_USEC": "1000000"}, False, None),
        ({"NOTIFY_SOCKET": "/run/n"}, True, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, True, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, True, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, True, None),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1000000"}, False, None),
    ],
)
def test_other_environments(variables, listens, watchdog_s):
    service = ServiceManager.from_environment(variables)
    assert (service.listens, service.watchdog_s) == (listens, watchdog_s)
    with pytest.raises(ValueError, match=r"watchdog_s must be > 0, got 0"):
        ServiceManager("/run/n", 0)


def test_a_manager_that_is_busy_or_gone_holds_nothing_up(tmp_path):
    with listening_manager(tmp_path) as busy:
        service = ServiceManager(busy.address)
        began_s = time.monotonic()
        for _ in range(2000):  # far more than its queue takes
            service.ping("x" * 200)
            assert time.monotonic() - began_s < 5
        assert 0 < len(busy.hear()) < 4000
    service.ping("nobody is there")
    ServiceManager("/no/such/socket").ready("nobody is there")


@contextmanager
def running(stream, manager, session=None):
    """The stream on a thread of its own, watched."""

    def play():
        for _ in stream.moments():
            pass

    player = threading.Thread(target=play, daemon=True)
    service = ServiceManager(manager.address, LIMIT_S)
    with Watchdog(service, lambda: stream.progress, lambda: "at work"):
        player.start()
        try:
            yield
        finally:
            stream.stop()
            if session is not None:
                session.go_on.set()
            player.join(5)
    assert not player.is_alive()


class HangingSession(RecordingSession):
    """Stops in a step for as long as it is told to."""

    def __init__(self, session, hang_at):
        super().__init__(session)
        self.hangs = threading.Event()
        self.go_on = threading.Event()
        self._hang_at = hang_at

    def __enter__(self) -> HangingSession:
        return self

    def changed(self, phase, frames, reset):
        if len(self.calls) - 1 == self._hang_at:
            self.hangs.set()
            self.go_on.wait(20)
        return phase, frames, reset


class PacedCapture(BrokenCapture):
    """A camera at 100 frames a second that stalls in the driver after so many."""

    def __init__(self, frames, *, stalls=False):
        super().__init__(frames)
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._stalls = stalls

    def grab(self):
        time.sleep(0.01)
        alive = super().grab()
        if not alive and self._stalls:
            self.stalled.set()
            self.go_on.wait(20)
        return alive


def test_ticks_are_pings_and_the_end_is_told(bundle, manager):
    opener = Opener(PacedCapture(10_000))
    with (
        LiveSource(CAMERA, opener=opener) as source,
        OrtStepSession(bundle) as session,
        running(Stream(bundle, source, session), manager),
    ):
        manager.wait_for(lambda line: line == "WATCHDOG=1")
        assert manager.pings_within(1.0) >= 5
    assert manager.hear()[-1] == "STOPPING=1"


def test_a_step_that_hangs_is_silent(bundle, manager):
    opener = Opener(PacedCapture(10_000))
    with (
        LiveSource(CAMERA, opener=opener) as source,
        OrtStepSession(bundle) as real,
        HangingSession(real, hang_at=4) as session,
        running(Stream(bundle, source, session), manager, session),
    ):
        assert session.hangs.wait(10)
        time.sleep(2 * LIMIT_S)
        manager.hear()
        time.sleep(1.0)
        heard = manager.hear()
        assert "WATCHDOG=1" not in heard
        assert "STATUS=at work" in heard
        session.go_on.set()
        manager.wait_for(lambda line: line == "WATCHDOG=1")


def test_a_source_that_is_away_and_tried_again_is_no_hang(bundle, manager):
    opener = Opener(PacedCapture(50))
    with (
        LiveSource(CAMERA, opener=opener, reconnect=QUICK) as source,
        OrtStepSession(bundle) as session,
        running(Stream(bundle, source, session), manager),
    ):
        wait_until(lambda: opener.attempts > 5)
        assert manager.pings_within(1.0) >= 5


def test_a_hang_shows_while_the_source_is_away_too(bundle, manager):
    opener = Opener(PacedCapture(50))
    with (
        LiveSource(CAMERA, opener=opener, reconnect=QUICK) as source,
        OrtStepSession(bundle) as real,
        HangingSession(real, hang_at=2) as session,
        running(Stream(bundle, source, session), manager, session),
    ):
        assert session.hangs.wait(10)
        wait_until(lambda: opener.attempts > 20)
        manager.hear()
        attempts = opener.attempts
        assert manager.pings_within(0.6) == 0
        assert opener.attempts > attempts


def test_a_driver_that_hangs_is_silent(bundle, manager):
    capture = PacedCapture(50, stalls=True)
    with (
        LiveSource(CAMERA, opener=Opener(capture), reconnect=QUICK) as source,
        OrtStepSession(bundle) as session,
        running(Stream(bundle, source, session), manager),
    ):
        assert capture.stalled.wait(10)
        time.sleep(2 * LIMIT_S)
        assert manager.pings_within(0.6) == 0
        capture.go_on.set()
        manager.wait_for(lambda line: line == "WATCHDOG=1")


def test_a_status_that_fails_ends_no_stream(bundle, tmp_path, caplog):
    def broken():
        raise RuntimeError("no status")

    with listening_manager(tmp_path) as manager:
        ticks = iter(range(1000))
        service = ServiceManager(manager.address, LIMIT_S)
        with caplog.at_level(logging.WARNING), Watchdog(service, lambda: next(ticks), broken):
            time.sleep(0.4)
    assert [record.message for record in caplog.records] == [
        "watchdog failed: RuntimeError: no status"
    ]


def test_nothing_is_sent_where_nobody_listens():
    with Watchdog(ServiceManager(), lambda: 0, lambda: ""):
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


@contextmanager
def service(bundle, manager, url, *arguments):
    """The command as the unit starts it."""
    process = subprocess.Popen(
        [
            sys.executable, str(STREAM), "--bundle", str(bundle.folder), "--headless",
            "--source-env", "TDRL_SOURCE", "--wait-for-source", *arguments,
        ],
        env=os.environ | manager.environment(2.0) | {"TDRL_SOURCE": url},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_service_from_a_camera_that_is_off_to_the_end(bundle, tmp_path):
    port = free_port()
    url = f"http://admin:hunter2@127.0.0.1:{port}/video"
    with (
        listening_manager(tmp_path) as manager,
        service(bundle, manager, url, "--stats-every", "0.5") as process,
    ):
        heard = manager.wait_for(lambda line: line == "WATCHDOG=1")
        assert heard[:2] == ["READY=1", f"STATUS=started on http://***@127.0.0.1:{port}/video"]
        manager.wait_for(
            lambda line: (
                re.fullmatch(
                    rf"STATUS=no frame from http://\*\*\*@127\.0\.0\.1:{port}/video for \d+ s; "
                    "nothing decided yet",
                    line,
                )
                is not None
            )
        )
        with mjpeg_camera(port):
            manager.wait_for(
                lambda line: (
                    re.fullmatch(
                        rf"STATUS=\d+\.\d fps from http://\*\*\*@127\.0\.0\.1:{port}/video; "
                        r"(\w+ \d+ %|none of the actions)",
                        line,
                    )
                    is not None
                )
            )
            process.send_signal(signal.SIGHUP)  # nothing to do with it, and nothing happens
            manager.wait_for(lambda line: line == "WATCHDOG=1")
            assert process.poll() is None
        manager.wait_for(lambda line: line.startswith("STATUS=no frame from http://***@"))
        manager.wait_for(lambda line: line == "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
        assert manager.hear()[-1] == "STOPPING=1"
    assert process.returncode == 0, stderr
    assert "steps" in stdout
    assert re.search(r"INFO \d+\.\d fps, steps \d+, missed ticks \d+, dropped \d+", stderr)
    assert "hunter2" not in stdout + stderr


def test_a_service_stopped_while_it_waits_ends_at_once(bundle, tmp_path):
    url = f"rtsp://admin:hunter2@127.0.0.1:{free_port()}/stream"
    with listening_manager(tmp_path) as manager, service(bundle, manager, url) as process:
        manager.wait_for(lambda line: line == "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM  # nothing was classified
    assert stderr.count("trying on") == 1
    assert "hunter2" not in stderr


def test_a_source_that_is_not_set_is_one_line(bundle, tmp_path):
    with listening_manager(tmp_path) as manager, service(bundle, manager, " ") as process:
        _, stderr = process.communicate(timeout=20)
        assert manager.hear() == []
    assert process.returncode == 1
    assert stderr == "error: the environment variable TDRL_SOURCE is not set or empty\n"


def test_a_camera_that_is_not_plugged_in_is_waited_for(bundle, tmp_path):
    rare = ("--window", "16", "--phases", "1")  # a step every 4 s
    with (
        listening_manager(tmp_path) as manager,
        service(bundle, manager, "/dev/video77", *rare) as process,
    ):
        manager.wait_for(lambda line: line == "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert "/dev/video77 cannot be opened: no such camera" in stderr
    assert "a step every 4.0 s is too rare for a watchdog of 2 s: raise WatchdogSec" in stderr


def test_a_file_that_is_not_there_is_not_waited_for(bundle, tmp_path):
    with listening_manager(tmp_path) as manager:
        with service(bundle, manager, "/no/such/file.mp4") as process:
            _, stderr = process.communicate(timeout=20)
        assert manager.hear() == []
    assert process.returncode == 1
    assert stderr.startswith("error: /no/such/file.mp4 cannot be opened: no such file")


def wait_until(condition, timeout_s=10.0):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "nothing happened in time"
        time.sleep(0.01)
