"""Who is let in, over real sockets."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlencode

import pytest

from runtime.web import routes
from runtime.web.guard import Token
from tests.runtime.web.serving import HOME, ask, running

TOKEN = "a-token-of-20-chars!"
PATHS = ("/", "/api/state", "/events", "/stream.mjpg", "/metrics", "/nothing")


@pytest.fixture(scope="module")
def guarded(bundle):
    with running(bundle, token=TOKEN) as run:
        yield run


def log_in(run, token):
    return ask(
        run.port,
        "/login",
        method="POST",
        body=urlencode({"token": token}),
        Content_Type="application/x-www-form-urlencoded",
    )


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_told_without_the_token(guarded, path):
    answer = ask(guarded.port, path)
    assert answer.status == 401
    for secret in (TOKEN, "wave", "camera", "mini"):
        assert secret not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["//", "/static/../api/state", "/static/%2e%2e/api/state", "/Healthz/"]
)
def test_strange_paths_lead_nowhere(guarded, path):
    assert ask(guarded.port, path).status in (401, 404)


def test_health_needs_no_token_and_tells_one_word(guarded):
    assert ask(guarded.port, "/healthz").text in ("ok\n", "stalled\n")


def test_the_token_gives_a_cookie_that_opens_the_page(guarded):
    answer = log_in(guarded, TOKEN)
    assert answer.status == 303
    assert answer.headers["location"] == "/"
    cookie, *flags = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(flags)
    assert cookie.startswith(f"tdrl_edge_{guarded.port}=")
    assert TOKEN not in cookie
    assert ask(guarded.port, "/", Cookie=f"theme=dark; {cookie}").status == 200
    assert ask(guarded.port, "/api/state", Cookie=cookie).status == 200
    name, value = cookie.split("=")
    for wrong in (
        f"{name}={value[:-1]}",
        f"{name}=",
        f"{name}x={value}",
        f"{name}={TOKEN}",
        "\xff",
    ):
        assert ask(guarded.port, "/api/state", Cookie=wrong).status == 401


@pytest.mark.parametrize(
    "foreign", ['prefs={"a":1}', "a=b c", "flag", "a@b=c", "name=Jürgen", "=", 'x="', "a=b=c"]
)
def test_another_programs_cookie_does_not_hide_ours(guarded, foreign):
    cookie = f"tdrl_edge_{guarded.port}={Token(TOKEN, guarded.port).cookie}"
    for both in (f"{foreign}; {cookie}", f"{cookie}; {foreign}"):
        assert ask(guarded.port, "/api/state", Cookie=both).status == 200
    assert ask(guarded.port, "/api/state", Cookie=foreign).status == 401


def test_prometheus_sends_it_as_a_bearer_token(guarded):
    assert ask(guarded.port, "/metrics", Authorization=f"Bearer {TOKEN}").status == 200
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", TOKEN, f"Basic {TOKEN}", "Bearer \xe4"):
        assert ask(guarded.port, "/metrics", Authorization=wrong).status == 401


def test_a_token_in_the_url_is_no_token(guarded):
    assert ask(guarded.port, f"/api/state?token={TOKEN}").status == 401


@pytest.mark.parametrize("given", ["", "wrong", TOKEN + "x", "\xe4" * 20, "%00"])
def test_a_wrong_token_is_refused_slowly(guarded, given):
    began_s = time.monotonic()
    answer = log_in(guarded, given)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    assert time.monotonic() - began_s >= routes.WRONG_TOKEN_S


def test_a_form_without_end_is_cut(guarded):
    assert log_in(guarded, "x" * 10_000).status == 413


def test_a_form_that_does_not_come_is_not_waited_for(guarded, monkeypatch):
    monkeypatch.setattr(routes, "LONGEST_FORM_S", 0.3)
    with socket.create_connection((HOME, guarded.port), timeout=5) as client:
        client.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\ntoken=")
        answer = b""
        while part := client.recv(4096):  # to the end of the connection
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_two_runs_do_not_share_cookies():
    assert Token(TOKEN, 80).cookie_name != Token(TOKEN, 81).cookie_name
    assert Token(TOKEN, 80).cookie != Token(TOKEN + "x", 80).cookie


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("127.0.0.1@evil.example", 421),
        ("192.168.1.5", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_this_machines_names_are_answered(bundle, host, status):
    with running(bundle) as run:
        for path in ("/", "/stream.mjpg?stream=9", "/api/state"):
            answer = ask(run.port, path, Host=host)
            assert answer.status == (404 if status == 200 and "9" in path else status)
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
