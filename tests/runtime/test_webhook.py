"""Webhooks against a real HTTP server that is down, slow, wrong, and back."""

from __future__ import annotations

import base64
import logging
import threading
import time
from dataclasses import replace

import pytest

from runtime.webhook import Patience, Webhook, WebhookUrl
from tests.mjpeg_server import free_port
from tests.webhook_server import webhook_server

QUICK = Patience(answer_s=0.3, first_pause_s=0.05, longest_pause_s=0.1, flush_s=1.0)


def wait_for(condition, timeout_s=10.0):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "nothing happened in time"
        time.sleep(0.01)


def hook_to(url, **more):
    return Webhook(WebhookUrl.parse(url), **{"patience": QUICK, **more})


def numbers_of(server):
    return [record["number"] for record in server.got]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "webhook"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    wait_for(lambda: not threads(), 3)


def test_events_arrive_in_order_as_json(caplog):
    with webhook_server() as server:
        with hook_to(f"{server.url}/hook?key=1") as hook:
            for number in range(20):
                hook.send({"type": "action", "number": number, "label": "über"})
        assert numbers_of(server) == list(range(20))
    assert hook.counts.sent == 20
    assert hook.counts.dropped == hook.counts.failed_tries == 0
    assert server.got[0]["label"] == "über"
    assert len({record["id"] for record in server.got}) == 20
    assert set(server.paths) == {"/hook?key=1"}
    assert server.headers[0]["Content-Type"] == "application/json"
    assert caplog.records == []


def test_a_login_in_the_url_becomes_a_header():
    with webhook_server() as server:
        with hook_to(server.url.replace("://", "://me%40home:p%3Aw@")) as hook:
            hook.send({"number": 1})
        (headers,) = server.headers
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me@home:p:w").decode()
    assert "@" not in headers["Host"]


def test_a_server_that_is_down_gets_everything_when_it_is_back(caplog):
    caplog.set_level(logging.INFO)
    port = free_port()
    with hook_to(f"http://127.0.0.1:{port}/secret") as hook:
        for number in range(5):
            hook.send({"number": number})
        wait_for(lambda: hook.counts.failed_tries >= 3)
        assert hook.counts.sent == 0
        with webhook_server(port) as server:
            wait_for(lambda: len(server.got) == 5)
            assert numbers_of(server) == list(range(5))
            wait_for(lambda: hook.counts.sent == 5)
    assert hook.counts.dropped == 0
    first, last = [record.getMessage() for record in caplog.records]
    assert first.startswith(
        f"webhook http://127.0.0.1:{port}/***: [Errno 111] Connection refused; "
    )
    assert last == f"webhook http://127.0.0.1:{port}/*** takes events again, 0 dropped"


def test_a_server_error_is_tried_again():
    with webhook_server() as server, hook_to(server.url) as hook:
        server.status = 500
        hook.send({"number": 1})
        hook.send({"number": 2})
        wait_for(lambda: server.tries >= 3)
        server.status = 429
        wait_for(lambda: hook.counts.failed_tries >= 5)
        server.status = 204
        wait_for(lambda: hook.counts.sent == 2)
        assert numbers_of(server) == [1, 2]
        assert hook.counts.dropped == 0


def test_a_stalled_server_is_left_and_asked_again_and_the_stream_never_waits():
    with webhook_server() as server, hook_to(server.url) as hook:
        server.goes_on.clear()
        slowest_s = 0.0
        for number in range(50):
            started_s = time.perf_counter()
            hook.send({"number": number})
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
        wait_for(lambda: server.tries >= 3)
        assert slowest_s < QUICK.answer_s / 2
        server.goes_on.set()
        wait_for(lambda: hook.counts.sent == 50)
    # answers that came too late were not seen: such events arrive again, under the same id
    assert list(dict.fromkeys(numbers_of(server))) == list(range(50))
    assert len({record["id"] for record in server.got}) == 50


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
def test_an_answer_that_will_not_change_drops_its_event_only(status, caplog):
    with webhook_server() as server, hook_to(server.url) as hook:
        server.status = status
        hook.send({"number": 1})
        wait_for(lambda: hook.counts.dropped == 1)
        server.status = 200
        hook.send({"number": 2})
        wait_for(lambda: hook.counts.sent == 1)
        assert numbers_of(server) == [2]
        assert server.tries == 2
    assert f"answered {status}; such events are dropped" in caplog.text


def test_the_newest_events_are_kept_and_the_others_counted():
    port = free_port()
    with hook_to(f"http://127.0.0.1:{port}", most_waiting=10) as hook:
        hook.send({"number": 0})
        wait_for(lambda: hook.counts.failed_tries >= 1)
        for number in range(1, 31):
            hook.send({"number": number})
        assert hook.counts.dropped == 20
        with webhook_server(port) as server:
            wait_for(lambda: hook.counts.sent == 11)
            assert numbers_of(server) == [0, *range(21, 31)]


def test_pauses_grow_and_differ(monkeypatch):
    pauses = []
    monkeypatch.setattr(Webhook, "_rest", lambda self, pause_s: pauses.append(pause_s))
    hook = hook_to(f"http://127.0.0.1:{free_port()}", patience=replace(QUICK, longest_pause_s=0.4))
    hook.send({"number": 1})
    wait_for(lambda: len(pauses) >= 10)
    monkeypatch.undo()
    hook.close()
    for pause_s, longest_s in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.4), strict=False):
        assert longest_s / 2 <= pause_s <= longest_s
    assert len(set(pauses)) == len(pauses)


# ---- the end of a run


def test_what_is_left_is_sent_at_the_end():
    with webhook_server() as server:
        hook = hook_to(server.url)
        for number in range(30):
            hook.send({"number": number})
        hook.close()
        assert numbers_of(server) == list(range(30))
        hook.send({"number": 31})
        hook.close()
    assert (hook.counts.sent, hook.counts.dropped) == (30, 1)


@pytest.mark.parametrize("kind", ["down", "stalled", "500"])
def test_the_end_is_bounded_and_what_is_left_is_counted(kind, caplog):
    with webhook_server() as server:
        if kind == "stalled":
            server.goes_on.clear()
        server.status = 500 if kind == "500" else 200
        url = f"http://127.0.0.1:{free_port()}" if kind == "down" else server.url
        hook = hook_to(url, patience=replace(QUICK, answer_s=30, longest_pause_s=30))
        for number in range(5):
            hook.send({"number": number})
        time.sleep(0.2)
        started_s = time.monotonic()
        hook.close()
        assert time.monotonic() - started_s < QUICK.flush_s + 0.7
        assert not threads()
    assert (hook.counts.sent, hook.counts.dropped) == (0, 5)
    assert "5 events were dropped" in caplog.text


def test_a_server_that_comes_back_during_the_end_gets_what_is_left():
    port = free_port()
    hook = hook_to(f"http://127.0.0.1:{port}", patience=replace(QUICK, first_pause_s=60, flush_s=5))
    hook.send({"number": 1})
    wait_for(lambda: hook.counts.failed_tries >= 1)
    with webhook_server(port) as server:
        started_s = time.monotonic()
        hook.close()
        assert time.monotonic() - started_s < 3
        assert numbers_of(server) == [1]
    assert hook.counts.sent == 1


# ---- the URL


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://example.org", "http://example.org/"),
        ("https://EXAMPLE.org:8443/", "https://example.org:8443/"),
        ("https://hooks.example.org/services/T0/B1/secret", "https://hooks.example.org/***"),
        ("http://user:secret@[::1]:80/?token=secret#secret", "http://[::1]:80/***"),
    ],
)
def test_a_name_has_no_secret(url, name):
    parsed = WebhookUrl.parse(url)
    assert parsed.name == name
    assert "secret" not in repr(parsed)


@pytest.mark.parametrize(
    "url",
    [
        "secret",
        "ftp://example.org/secret",
        "http:///secret",
        "http://secret:http/x",
        "http://user:pa/secret@host/",
        "http://example.org:99999/secret",
        "http://[secret/",
        "http://example.org/sec ret",
        "http://example.org/\r\nsecret",
        "http://example.org/sécret",
        "",
    ],
)
def test_a_wrong_url_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="a webhook is an http:// or https:// URL") as caught:
        WebhookUrl.parse(url)
    assert "secret" not in str(caught.value).replace("may hold a secret", "")


def test_a_host_without_a_name_is_tried_and_told_without_secrets(caplog):
    with hook_to("https://user:hunter2@no-such-host.invalid/hunter2?x=hunter2") as hook:
        hook.send({"number": 1})
        wait_for(lambda: hook.counts.failed_tries >= 1)
    assert "https://no-such-host.invalid/***" in caplog.text
    assert "hunter2" not in caplog.text
