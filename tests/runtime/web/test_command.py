"""`--web` as users type it: processes of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.mjpeg_server import free_port, mjpeg_camera
from tests.runtime.test_stream import ROOT, command, environment, refused, stream
from tests.runtime.web.serving import ask, endless, next_event, wait_until
from tests.videos import bikes_path

TOKEN = "s3cret-of-the-page-1234"


def in_use(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def has_stepped(port, token):
    """Whether the run used a frame: one that is ended sooner says so by its status."""
    state = json.loads(ask(port, "/api/state", Authorization=f"Bearer {token}").text)
    return any(stream["counts"]["used"] for stream in state["streams"])


@contextmanager
def started(bundle, *arguments, cwd, **more):
    process = subprocess.Popen(
        command(bundle, "--headless", *arguments), cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment() | more,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_shows_itself_and_ends_cleanly(bundle, tmp_path):
    port = free_port()
    events = tmp_path / "events.jsonl"
    with mjpeg_camera(free_port()) as url:
        source = url.replace("http://", "http://admin:hunter2@")
        arguments = ("--source", source, "--web", port, "--events", events)
        with started(bundle, *arguments, cwd=tmp_path) as process:
            wait_until(lambda: in_use(port), 20)
            wait_until(lambda: ask(port, "/healthz").text == "ok\n", 20)
            with endless(port, "/events") as answer:
                assert next_event(answer)["type"] == "start"
                next_event(answer, "decision")
                told = [ask(port, path).text for path in ("/", "/api/state", "/metrics")]
                process.send_signal(signal.SIGTERM)
                while (event := next_event(answer))["type"] != "end":
                    assert "hunter2" not in str(event)
            stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert f"page at http://127.0.0.1:{port}/" in stderr
    assert "Traceback" not in stderr
    assert "http://***@127.0.0.1" in told[1]
    assert "tdrl_event_lines_lost_total 0" in told[2]
    for text in (*told, stdout, stderr, events.read_text()):
        assert "hunter2" not in text
    assert not in_use(port)


def test_a_port_in_use_is_told_before_the_camera_opens(bundle, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = stream(
            bundle, "--source", f"rtsp://127.0.0.1:{free_port()}/x", "--headless", "--web", port,
            "--events", "events.jsonl", cwd=tmp_path,
        )  # fmt: skip
    refused(done, rf"--web 127\.0\.0\.1:{port}: the port is in use; choose another", tmp_path)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_a_missing_package_is_one_line_with_the_command(bundle, missing):
    arguments = ["--bundle", str(bundle.folder), "--source", str(bikes_path()), "--headless"]
    code = f"import sys; sys.modules[{missing!r}] = None; from runtime.stream import main; "
    code += f"sys.exit(main({[*arguments, '--web', str(free_port())]!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    refused(done, r"--web needs starlette and uvicorn .*pip install 'tdrl-edge\[web\]'")


def test_others_need_a_token_and_without_a_terminal_it_must_be_given(bundle, tmp_path):
    process = subprocess.run(
        command(bundle, "--source", "rtsp://127.0.0.1:1/x", "--headless", "--wait-for-source",
                "--web", f"0.0.0.0:{free_port()}"),
        cwd=tmp_path, capture_output=True, text=True, check=False, start_new_session=True,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    refused(process, r"needs a token, .* pass --web-token-env NAME$")


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "TDRL_TOKEN is not set or empty"), ("short", "has at least 16 characters, got 5")],
)
def test_a_token_that_is_none_is_refused(bundle, tmp_path, monkeypatch, token, message):
    monkeypatch.setenv("TDRL_TOKEN", token)
    done = stream(
        bundle, "--source", "rtsp://127.0.0.1:1/x", "--wait-for-source", "--headless",
        "--web", f"0.0.0.0:{free_port()}", "--web-token-env", "TDRL_TOKEN", cwd=tmp_path,
    )  # fmt: skip
    refused(done, message)


def test_a_token_without_a_page_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TDRL_TOKEN", TOKEN)
    done = stream(
        bundle, "--source", bikes_path(), "--headless", "--web-token-env", "TDRL_TOKEN",
        "--max-seconds", "1", cwd=tmp_path,
    )  # fmt: skip
    refused(done, r"--web-token-env is the token of --web: add --web \[HOST:\]PORT")


def test_a_token_from_the_environment_is_told_nowhere(bundle, tmp_path):
    port, events = free_port(), tmp_path / "events.jsonl"
    with mjpeg_camera(free_port()) as url:
        arguments = ["--source", url, "--events", events, "--web", f"0.0.0.0:{port}"]
        arguments += ["--web-token-env", "TDRL_TOKEN", "--log-level", "debug"]
        with started(bundle, *arguments, cwd=tmp_path, TDRL_TOKEN=TOKEN) as process:
            wait_until(lambda: in_use(port), 20)
            wait_until(lambda: ask(port, "/healthz").text == "ok\n", 20)
            assert ask(port, "/api/state").status == 401
            state = ask(port, "/api/state", Authorization=f"Bearer {TOKEN}")
            assert json.loads(state.text)["streams"]
            assert ask(port, f"/?token={TOKEN}").status == 401
            wait_until(lambda: has_stepped(port, TOKEN), 20)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    for text in (state.text, stdout, stderr, events.read_text()):
        assert TOKEN not in text


def test_a_random_token_is_shown_on_the_terminal_and_in_no_log(bundle, tmp_path):
    port = free_port()
    with mjpeg_camera(free_port()) as url, (tmp_path / "log").open("w") as log:
        pid, terminal = pty.fork()
        if pid == 0:  # a process whose terminal is ours, and whose output goes to a file
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            arguments = ("--source", url, "--headless", "--web", f"0.0.0.0:{port}")
            words = command(bundle, *arguments)
            os.execve(words[0], words, environment())
        try:
            shown = ""
            until_s = time.monotonic() + 20
            while "\n" not in shown and time.monotonic() < until_s:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 4096).decode()
            match = re.fullmatch(rf"page for this run: http://\S+:{port}/#token=(\S+)\s+", shown)
            assert match is not None, shown
            wait_until(lambda: in_use(port), 20)
            assert ask(port, "/metrics").status == 401
            assert ask(port, "/metrics", Authorization=f"Bearer {match[1]}").status == 200
            wait_until(lambda: has_stepped(port, match[1]), 20)
            os.kill(pid, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            os.close(terminal)
    text = (tmp_path / "log").read_text()
    assert "page at " in text
    assert match[1] not in text


def test_a_wrong_address_is_refused_by_name(bundle, tmp_path):
    done = stream(bundle, "--source", "a.mp4", "--web", "8080x", cwd=tmp_path)
    assert done.returncode == 2
    assert "must be [HOST:]PORT" in done.stderr


def test_the_command_without_a_page_loads_no_server():
    code = (
        "import sys, runtime.app; print([n for n in sys.modules if n in ('starlette', 'uvicorn')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
