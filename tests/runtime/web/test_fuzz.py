"""Whatever a browser or a scanner asks: an answer, no traceback, and the page goes on."""

from __future__ import annotations

import re
import socket
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.runtime.web.serving import HOME, ask, running

PATHS = (
    "/",
    "/api/state",
    "/events",
    "/stream.mjpg",
    "/healthz",
    "/metrics",
    "/login",
    "/static/page.js",
)
HEADERS = (
    "Last-Event-ID", "Cookie", "Authorization", "Range", "Accept", "Origin", "Host",
    "If-None-Match", "If-Modified-Since", "Content-Type", "Upgrade",
)  # fmt: skip
STATUSES = {200, 303, 304, 400, 401, 403, 404, 405, 408, 413, 416, 421, 431}
any_text = st.text(max_size=40)
# what a header may hold at all; what it may not is below
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
queries = st.dictionaries(
    st.sampled_from(["stream", "view", "token", "x"]) | any_text, any_text, max_size=4
)
headers = st.dictionaries(
    st.sampled_from(HEADERS), header_text, max_size=4,
)  # fmt: skip
profile = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=[None, "a-token-of-24-characters"], ids=["home", "token"])
def run(bundle, request):
    with running(bundle, token=request.param) as started:
        yield started


def status_of(port, request):
    """The status of a raw request; None where the server hung up on it."""
    with socket.create_connection((HOME, port), timeout=10) as client:
        client.sendall(request)
        head = b""
        while b"\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return None
            head += data
    found = re.match(rb"HTTP/1\.1 (\d{3})", head)
    assert found is not None, head
    return int(found[1])


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS"]),
    path=st.sampled_from(PATHS) | any_text.map(lambda text: "/" + quote(text, safe="/.%\\")),
    query=queries,
    sent=headers,
    body=st.binary(max_size=200),
)
@profile
def test_any_request_gets_an_answer(run, caplog, method, path, query, sent, body):
    caplog.clear()
    given_headers = {"Host": f"localhost:{run.port}", "Content-Length": str(len(body))} | sent
    head = "".join(f"{name}: {value}\r\n" for name, value in given_headers.items())
    line = f"{method} {path}?{urlencode(query, errors='replace')} HTTP/1.1\r\n{head}\r\n"
    status = status_of(run.port, line.encode() + body)
    event(f"status {status}")
    assert status in STATUSES
    assert "Traceback" not in caplog.text
    assert ask(run.port, "/healthz").text == "ok\n"


@given(st.binary(max_size=300))
@profile
def test_any_bytes_are_answered_or_hung_up_on(run, caplog, data):
    caplog.clear()
    with socket.create_connection((HOME, run.port), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert "Traceback" not in caplog.text
    assert ask(run.port, "/healthz").text == "ok\n"
