"""A real server on loopback with a real stream behind it, and clients over plain sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.live import Stream
from runtime.outputs import Outputs
from runtime.sessions.ort import OrtStepSession
from runtime.sources.memory import MemorySource
from runtime.web.address import WebAddress
from runtime.web.board import StreamBoard
from runtime.web.guard import Token
from runtime.web.server import WebServer
from tests.mjpeg_server import free_port
from tests.videos import drifting_pattern

HOME = "127.0.0.1"


@dataclass
class Run:
    """What runs."""

    port: int
    server: WebServer
    board: StreamBoard
    outputs: Outputs
    stream: Stream
    goes_on: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running(
    bundle: Bundle,
    *,
    token: str | None = None,
    fps: float = 40.0,
    noise_px: int = 0,
    name: str = "camera",
    port: int | None = None,
) -> Iterator[Run]:
    """Serve a stream of a moving pattern until the block ends; `goes_on` cleared is a stall.

    With `noise_px` the pictures are noise of this size, whose JPEG files are large.
    """
    port = port or free_port()
    goes_on, ending = threading.Event(), threading.Event()
    goes_on.set()
    pictures = drifting_pattern(64)
    if noise_px:
        shape = (8, noise_px, noise_px, 3)
        pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def frames() -> Iterator[Any]:
        number = 0
        while not ending.is_set():
            yield pictures[number % len(pictures)]
            number += 1
            time.sleep(1 / fps)
            while not (goes_on.is_set() or ending.is_set()):
                time.sleep(0.01)

    source = MemorySource.of_pictures(frames(), fps=fps)
    source.name = name
    listener = WebAddress(HOME, port).listen()
    with (
        WebServer(listener, None if token is None else Token(token, port)) as server,
        OrtStepSession(bundle) as session,
    ):
        stream = Stream(bundle, source, session)
        board = server.board.add(bundle, stream)
        with Outputs(bundle, source.name, board=board) as outputs:
            thread = threading.Thread(
                target=lambda: [outputs.show(moment) for moment in stream.moments()]
            )
            thread.start()
            try:
                yield Run(port, server, board, outputs, stream, goes_on)
            finally:
                ending.set()
                thread.join()


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(port: int, path: str, *, method: str = "GET", body: str = "", **headers: str) -> Answer:
    """One request; underscores in header names are hyphens."""
    connection = http.client.HTTPConnection(HOME, port, timeout=10)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


@contextmanager
def endless(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer that does not end."""
    connection = http.client.HTTPConnection(HOME, port, timeout=10)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        yield connection.getresponse()
    finally:
        connection.close()


@contextmanager
def deaf_client(port: int, path: str) -> Iterator[socket.socket]:
    """A browser that asks and then reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOME, port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield client


def next_event(answer: http.client.HTTPResponse, kind: str = "record") -> dict[str, Any]:
    """The next event of a kind with its `id`."""
    found: dict[str, str] = {}
    until_s = time.monotonic() + 15
    while time.monotonic() < until_s:
        line = answer.readline().decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif found.get("event") == kind:
            return {**json.loads(found["data"]), "id": found.get("id")}
        else:
            found = {}
    raise AssertionError(f"no {kind} came in time")


def next_jpeg(answer: http.client.HTTPResponse) -> bytes:
    """The next picture of an MJPEG answer."""
    length = 0
    while line := answer.readline().strip():
        name, _, value = line.decode().partition(": ")
        if name == "Content-Length":
            length = int(value)
    if not length:
        return next_jpeg(answer)
    jpeg = answer.read(length)
    answer.readline()
    return jpeg


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.02)
