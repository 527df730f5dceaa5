"""The server over real sockets: what it answers, and what clients cannot do to it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial

import cv2
import numpy as np
import pytest

from runtime.web import board as board_module
from runtime.web import connection, routes
from runtime.web.board import ACTIONS_KEPT, OTHERS_KEPT
from tests.runtime.web.serving import (
    HOME,
    ask,
    deaf_client,
    endless,
    next_event,
    next_jpeg,
    running,
    wait_until,
)


def decoded(jpeg):
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def noted(run, count, label="wave"):
    for number in range(count):
        run.outputs.note("action", label=label, start_s=number, end_s=number + 1, peak_prob=0.5)


def test_page_and_files_need_nothing_from_elsewhere(bundle):
    with running(bundle) as run:
        page = ask(run.port, "/")
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        for name in ("page.js", "page.css", "icon.svg"):
            assert f"/static/{name}" in page.text
            assert ask(run.port, f"/static/{name}").status == 200
        for text in (page.text, ask(run.port, "/static/page.js").text):
            assert "https://" not in text
            assert "innerHTML" not in text
            assert " onclick=" not in text
            assert " style=" not in text
        assert ask(run.port, "/static/../board.py").status == 404
        assert ask(run.port, "/nothing").status == 404
        assert ask(run.port, "/", method="POST").status == 405


def test_state_tells_streams_counts_and_the_newest_decision(bundle):
    with running(bundle, name="rtsp://***@cam/1") as run:
        wait_until(lambda: run.board.decision())
        state = json.loads(ask(run.port, "/api/state").text)
        (stream,) = state["streams"]
        assert stream["name"] == "rtsp://***@cam/1"
        assert stream["labels"] == list(bundle.labels)
        assert stream["is_up"]
        assert stream["counts"]["used"] > 0
        assert len(stream["decision"]["top"]) == 3
        wait_until(lambda: json.loads(ask(run.port, "/api/state").text)["streams"][0]["samples"])
        (first, *_) = json.loads(ask(run.port, "/api/state").text)["streams"][0]["samples"]
        assert 10 < first["fps"] < 50
        assert first["p50_ms"] is not None


def test_events_come_in_order_and_a_browser_that_returns_misses_none(bundle):
    with running(bundle) as run:
        noted(run, 3)
        with endless(run.port, "/events") as answer:
            assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
            seen = [next_event(answer)]
            while seen[-1].get("start_s") != 1:
                seen.append(next_event(answer))
            assert next_event(answer, "decision")["stream"] == 0
            assert next_event(answer, "second")["sample"]["fps"] > 0
        noted(run, 2, label="later")
        with endless(run.port, "/events", Last_Event_ID=seen[-1]["id"]) as answer:
            event = next_event(answer)
            assert number(event) == number(seen[-1]) + 1
            while event.get("label") != "later":
                event = next_event(answer)
        with endless(run.port, "/events", Last_Event_ID="other-2") as answer:
            assert number(next_event(answer)) == 1


def number(event):
    return int(event["id"].split("-")[1])


@pytest.mark.parametrize("seen", ["", "-", "x" * 900, "{run}-" + "9" * 5000, "{run}--1", "{run}-²"])
def test_a_strange_last_event_starts_from_the_beginning(bundle, seen):
    with running(bundle) as run:
        noted(run, 1)
        seen = seen.format(run=run.server.board.records.run).encode().decode("latin-1")
        with endless(run.port, "/events", Last_Event_ID=seen) as answer:
            assert number(next_event(answer)) == 1


def test_the_ring_is_bounded_and_noise_pushes_out_no_action(bundle):
    with running(bundle) as run:
        noted(run, ACTIONS_KEPT + 7)
        for _ in range(3 * OTHERS_KEPT):
            run.outputs.note("missed", count=1)
        records = [record for _, record in run.server.board.records.after(0)]
        kinds = [record["type"] for record in records]
        assert kinds.count("action") == ACTIONS_KEPT
        assert OTHERS_KEPT - 2 <= kinds.count("missed") <= OTHERS_KEPT  # a reset is kept with them
        numbers = [each for each, _ in run.server.board.records.after(0)]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(("view", "size"), [("camera", (64, 96)), ("model", (32, 32))])
def test_pictures_are_live(bundle, view, size):
    with running(bundle) as run, endless(run.port, f"/stream.mjpg?view={view}") as answer:
        assert "multipart/x-mixed-replace; boundary=" in str(answer.getheader("content-type"))
        first, second = decoded(next_jpeg(answer)), decoded(next_jpeg(answer))
        assert first.shape[:2] == size
        assert np.abs(first.astype(int) - second).mean() > 1


def test_the_overlay_is_drawn_on_the_picture(bundle):
    with running(bundle) as run, endless(run.port, "/stream.mjpg?view=overlay") as answer:
        assert decoded(next_jpeg(answer)).shape[0] >= 480


@pytest.mark.parametrize(
    "query", ["stream=1", "stream=-1", "stream=x", "view=raw", "view=", "stream=²"]
)
def test_a_picture_that_is_not_there_is_404(bundle, query):
    with running(bundle) as run:
        query = query.replace("²", "%C2%B2")
        assert ask(run.port, f"/stream.mjpg?{query}").status == 404


def test_pictures_are_encoded_only_while_watched_and_once_for_all(bundle):
    with running(bundle) as run:
        wait_until(lambda: run.stream.counts.captured > 20)
        assert not run.server.site.feeds
        with ExitStack() as opened:
            answers = [opened.enter_context(endless(run.port, "/stream.mjpg")) for _ in range(5)]
            (feed,) = run.server.site.feeds.values()
            before, began_s = feed.encoded, time.monotonic()
            for _ in range(8):
                for answer in answers:
                    next_jpeg(answer)
            elapsed_s = time.monotonic() - began_s
            assert feed.encoded - before <= elapsed_s * 10 + 3  # not five times as many
        wait_until(lambda: feed.watchers == 0)
        before = feed.encoded
        time.sleep(0.5)
        assert feed.encoded <= before + 1


def test_a_browser_that_stops_reading_holds_up_nobody(bundle, monkeypatch, caplog):
    monkeypatch.setattr("runtime.web.address.STALLED_MS", 1500)
    with running(bundle, noise_px=480) as run, deaf_client(run.port, "/stream.mjpg"):
        wait_until(lambda: run.server.site.feeds)
        (feed,) = run.server.site.feeds.values()
        with endless(run.port, "/stream.mjpg") as answer:
            before = run.stream.counts.captured
            for _ in range(10):
                next_jpeg(answer)
            assert run.stream.counts.captured > before + 10
            assert ask(run.port, "/healthz").status == 200
            wait_until(lambda: feed.watchers == 1, 15)  # the kernel gave the deaf one up
            next_jpeg(answer)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_the_run_ends_at_once_with_deaf_and_watching_browsers(bundle, caplog):
    before = set(threading.enumerate())
    with ExitStack() as clients, running(bundle, noise_px=480) as run:
        for _ in range(4):
            clients.enter_context(deaf_client(run.port, "/stream.mjpg"))
            clients.enter_context(deaf_client(run.port, "/events"))
        reader = clients.enter_context(endless(run.port, "/stream.mjpg"))
        next_jpeg(reader)
        wait_until(lambda: sum(feed.watchers for feed in run.server.site.feeds.values()) == 5)
        time.sleep(1.0)  # until the deaf ones' buffers are full
        run.outputs.note("end")
        began_s = time.monotonic()
        run.server.close()
        assert time.monotonic() - began_s < 4
    assert set(threading.enumerate()) <= before
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def has_captured(stream, frames):
    return stream.counts.captured > frames


def test_twenty_browsers_come_and_go(bundle):
    with running(bundle, fps=25.0) as run:
        for _ in range(2):
            with ExitStack() as opened:
                watching = [
                    (
                        opened.enter_context(endless(run.port, "/stream.mjpg")),
                        opened.enter_context(endless(run.port, "/events")),
                    )
                    for _ in range(20)
                ]
                enough = run.stream.counts.captured + 5
                for pictures, events in watching * 2:
                    next_jpeg(pictures)
                    next_event(events, "decision")
                assert run.server.site.listeners == 20
                pictures, _ = watching[0]
                for _ in range(5):
                    next_jpeg(pictures)
                wait_until(partial(has_captured, run.stream, enough))
            wait_until(lambda: run.server.site.listeners == 0)
            wait_until(lambda: all(each.watchers == 0 for each in run.server.site.feeds.values()))
        # one or two may be the machine's; a loop that waits for a browser misses most
        assert run.stream.counts.missed <= 2


def test_more_watchers_than_there_is_room_for_are_told_to_come_back(bundle, monkeypatch):
    monkeypatch.setattr(routes, "MOST_WATCHERS", 2)
    with running(bundle) as run, ExitStack() as opened:
        for _ in range(2):
            next_jpeg(opened.enter_context(endless(run.port, "/stream.mjpg")))
        answer = ask(run.port, "/stream.mjpg")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "10"


def test_the_last_record_reaches_those_who_listen(bundle):
    with running(bundle) as run, endless(run.port, "/events") as answer:
        next_event(answer, "decision")
        run.outputs.note("end", used=7)
        run.server.close()
        event = next_event(answer)
        while event["type"] != "end":
            event = next_event(answer)
        assert event["used"] == 7
        answer.read()  # raises IncompleteRead where the answer was cut off


def test_health_follows_the_ticks(bundle, monkeypatch):
    monkeypatch.setattr(board_module, "HEALTHY_S", 2.0)
    with running(bundle) as run:
        wait_until(lambda: run.board.decision())
        answer = ask(run.port, "/healthz")
        assert (answer.status, answer.text) == (200, "ok\n")
        run.goes_on.clear()
        wait_until(lambda: ask(run.port, "/healthz").status == 503, 6)
        assert ask(run.port, "/healthz").text == "stalled\n"
        run.goes_on.set()
        wait_until(lambda: ask(run.port, "/healthz").status == 200, 6)
        assert ask(run.port, "/healthz").text == "ok\n"
        run.server.board.streams.clear()  # as before the first
        answer = ask(run.port, "/healthz")
        assert (answer.status, answer.text) == (200, "starting\n")


def silent_client(port, start=b""):
    client = socket.create_connection((HOME, port), timeout=10)
    client.sendall(start)
    return client


def is_cut_off(client):
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_that_ask_for_nothing_take_nobodys_place(bundle):
    with running(bundle) as run, ExitStack() as opened:
        connections = run.server._server.server_state.connections
        watcher = opened.enter_context(endless(run.port, "/stream.mjpg"))
        next_jpeg(watcher)
        silent = [opened.enter_context(silent_client(run.port)) for _ in range(200)]
        assert ask(run.port, "/healthz").status == 200
        assert len(connections) <= connection.MOST_CONNECTIONS + 1
        assert all(is_cut_off(client) for client in silent[:70])
        next_jpeg(watcher)


def test_where_all_places_are_in_use_the_next_is_told_to_come_back(bundle, monkeypatch):
    monkeypatch.setattr(routes, "MOST_WATCHERS", 200)
    with running(bundle) as run, ExitStack() as opened:
        for _ in range(connection.MOST_CONNECTIONS):
            opened.enter_context(endless(run.port, "/events"))
        for _ in range(3):
            assert ask(run.port, "/healthz").status == 503
        assert run.server.site.listeners == connection.MOST_CONNECTIONS


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: local",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTT",
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_half_a_request_is_not_waited_for(bundle, monkeypatch, start):
    monkeypatch.setattr(connection, "SILENT_S", 1.0)
    with running(bundle) as run, endless(run.port, "/stream.mjpg") as watcher:
        next_jpeg(watcher)
        connections = run.server._server.server_state.connections
        began_s = time.monotonic()
        with silent_client(run.port, start) as client:
            wait_until(lambda: len(connections) == 2)
            while time.monotonic() - began_s < 4 and len(connections) == 2:
                time.sleep(0.2)
                with suppress(OSError):
                    client.sendall(b"x")  # a little more does not help
            assert 0.7 < time.monotonic() - began_s < 3
        next_jpeg(watcher)  # who has asked is not cut off


def test_garbage_is_no_news(bundle, caplog):
    with running(bundle) as run:
        for text in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000):
            with deaf_client(run.port, "/healthz") as client:
                client.recv(4096)
                client.sendall(text)
        wait_until(lambda: ask(run.port, "/healthz").status == 200)
    assert not caplog.records or all(each.levelno < logging.WARNING for each in caplog.records)
