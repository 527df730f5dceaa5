from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from runtime.errors import SourceError, SourceRefusedError
from runtime.sources import capture, network
from runtime.sources.choose import open_source
from runtime.sources.network import check_address, explain_failure
from runtime.sources.uri import parse_source
from tests.http_server import http_server
from tests.mjpeg_server import free_port


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 1.0)
    monkeypatch.setattr(network, "ANSWER_TIMEOUT_S", 0.5)


@contextmanager
def answering(answer: bytes, *, closes: bool = False) -> Iterator[int]:
    """A port whose server says the same to everyone."""
    stopped = threading.Event()

    def serve(line):
        with suppress(OSError):
            if answer:
                line.sendall(answer)
            while not closes and not stopped.is_set():
                time.sleep(0.02)
        line.close()

    def accept():
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(line,)))
                threads[-1].start()

    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


def refusal(url):
    began_s = time.monotonic()
    with pytest.raises(SourceError) as caught:
        open_source(url)
    assert time.monotonic() - began_s < 5
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_port_where_nobody_listens(scheme):
    port = free_port()
    said = refusal(f"{scheme}://me:hunter2@127.0.0.1:{port}/1")
    assert f"nobody listens on port {port}; is the camera on?" in said


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_name_without_an_address(scheme):
    said = refusal(f"{scheme}://me:hunter2@camera.invalid/1")
    assert f"{scheme}://***@camera.invalid/1 cannot be opened" in said
    assert "the name camera.invalid has no address" in said
    assert "is no possible" not in said


def test_a_name_that_no_resolver_takes():
    with pytest.raises(SourceError, match="has no address"):
        check_address(parse_source(f"rtsp://{'a' * 70}.b/1"), 1.0)


def test_a_resolver_that_hangs_does_not_hold_the_source(monkeypatch):
    asked, done = threading.Event(), threading.Event()

    def hang(*args, **kwargs):
        asked.set()
        done.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began_s = time.monotonic()
    with pytest.raises(SourceError, match=r"cam has no address \(no answer within 0.3 s\)"):
        check_address(parse_source("rtsp://cam/1"), 0.3)
    assert time.monotonic() - began_s < 1
    assert asked.is_set()
    done.set()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    ("answer", "closes", "message"),
    [
        (b"", False, "no answer within 0.5 s"),
        (b"", True, "does not speak"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "does not speak"),
        (bytes(range(256)) * 200, False, "does not speak"),
        (b"\x00" * 50, True, "does not speak"),
    ],
)
def test_what_answers_is_no_camera(scheme, answer, closes, message):
    with answering(answer, closes=closes) as port:
        assert message in refusal(f"{scheme}://me:hunter2@127.0.0.1:{port}/1")


def test_a_web_page_is_no_video():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>" + b"x" * 2000
    with answering(page, closes=True) as port:
        assert "gave no video that this OpenCV can decode" in refusal(f"http://127.0.0.1:{port}/1")


@pytest.mark.parametrize(
    ("login", "status", "kind", "message"),
    [
        ("", 401, SourceRefusedError, r"wants user and password \(401\); write rtsp://user:pass"),
        ("me:hunter2@", 401, SourceRefusedError, r"refuses this user and password \(401\)"),
        ("me:hunter2@", 403, SourceRefusedError, r"refuses this user and password \(403\)"),
        ("", 404, SourceError, "answers 404; check the path after the host"),
        ("", 503, SourceError, "answers 503"),
    ],
)
def test_what_a_camera_answers_is_said(login, status, kind, message):
    answer = f"RTSP/1.0 {status} Nothing\r\nCSeq: 1\r\n\r\n".encode()
    with answering(answer, closes=True) as port:
        uri = parse_source(f"rtsp://{login}127.0.0.1:{port}/1")
        with pytest.raises(kind, match=message) as caught:
            open_source(uri.target)
        assert type(caught.value) is kind
        assert "hunter2" not in str(caught.value)


@contextmanager
def basic_server(user: str, password: str) -> Iterator[str]:
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == expected
            self.send_response(200 if known else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="cam"')
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"127.0.0.1:{port}"


def test_a_right_password_is_told_from_a_wrong_one():
    with basic_server("me", "p@ss wörd") as host:
        right = parse_source(f"http://me:p%40ss%20w%C3%B6rd@{host}/1?a=b")
        assert explain_failure(right) is None
        wrong = explain_failure(parse_source(f"http://me:hunter2@{host}/1"))
        assert isinstance(wrong, SourceRefusedError)


def test_digest_authentication_is_that_of_the_standard(monkeypatch):
    # RFC 7616, section 3.9.1
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr("runtime.sources.network.secrets.token_hex", lambda length: cnonce)
    head = (
        b"HTTP/1.1 401 Unauthorized\r\n"
        b'WWW-Authenticate: Digest realm="http-auth@example.org", qop="auth,auth-int", '
        b'algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
        b'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"\r\n\r\n'
    )
    parts = urlsplit("http://Mufasa:Circle%20of%20Life@www.example.org/dir/index.html")
    header = network._authorization(parts, head)
    assert header is not None
    assert 'response="8ca523f5e9506fed4657c9700eebdbec"' in header
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in header
    assert network._authorization(parts, b"WWW-Authenticate: Negotiate\r\n\r\n") is None


SHA_256 = b'WWW-Authenticate: Digest realm="cam", nonce="sha", algorithm=SHA-256, qop="auth"\r\n'
MD5 = b'WWW-Authenticate: Digest realm="cam", nonce="md5", qop="auth-int, auth"\r\n'


@pytest.mark.parametrize("challenges", [SHA_256 + MD5, MD5 + SHA_256])
def test_of_several_digests_the_one_that_is_known_is_answered(challenges):
    parts = urlsplit("http://me:hunter2@cam/1")
    header = network._authorization(parts, b"HTTP/1.1 401 No\r\n" + challenges + b"\r\n")
    assert header is not None
    assert 'nonce="md5"' in header
    assert header.endswith(", qop=auth, nc=00000001")


@pytest.mark.parametrize("challenge", [SHA_256, b"WWW-Authenticate: Negotiate\r\n"])
def test_an_unknown_authentication_is_not_a_wrong_password(challenge):
    with answering(b"RTSP/1.0 401 No\r\nCSeq: 1\r\n" + challenge + b"\r\n", closes=True) as port:
        said = explain_failure(parse_source(f"rtsp://me:hunter2@127.0.0.1:{port}/1"))
    assert type(said) is SourceError
    assert "wants an authentication that is not known here; set it to Digest with MD5" in str(said)
