"""What the server answers.

/              the page
/api/state     streams, newest decisions, the last ten minutes of rates and latency, as JSON
/events        server-sent events: `record` (numbered, so a browser that comes back misses nothing
               that is still kept), `decision` and `second`
/stream.mjpg   live picture: stream=0, view=camera, overlay or model
/healthz       200 `starting` until the stream begins, 200 `ok` while ticks advance or the source is
               being tried, else 503 `stalled`
/metrics       for Prometheus
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from runtime.web.board import Board
from runtime.web.guard import Guard, Token
from runtime.web.metrics import MEDIA_TYPE, metrics_text
from runtime.web.pictures import VIEWS, Feed, View

STATIC = Path(__file__).resolve().parent / "static"
POLL_S = 0.2
RETRY_MS = 2000
MOST_WATCHERS = 32
LONGEST_FORM_BYTES = 4096
LONGEST_FORM_S = 10.0
WRONG_TOKEN_S = 1.0
BOUNDARY = "tdrl-edge-picture"


class Site:
    """The answers of one server. All methods belong to its event loop.

    Args:
        board: What is shown.
        token: Who knows it may see it; None where only this machine can come.

    Attributes:
        app: The ASGI application.
        feeds: Pictures, by stream and view.
        listeners: Who reads events now.
    """

    def __init__(self, board: Board, token: Token | None) -> None:
        self.feeds: dict[tuple[int, View], Feed] = {}
        self.listeners = 0
        self._board = board
        self._token = token
        self._is_over = False
        self._encoder = ThreadPoolExecutor(1, "web pictures")
        routes = [
            Route("/", self._page),
            Route("/api/state", self._state),
            Route("/events", self._events),
            Route("/stream.mjpg", self._stream),
            Route("/healthz", self._health),
            Route("/metrics", self._metrics),
            Route("/login", self._login, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        self.app: ASGIApp = Guard(Starlette(routes=routes), token, _login_page())

    def close(self) -> None:
        """Let endless answers end."""
        self._is_over = True
        for feed in self.feeds.values():
            feed.close()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _state(self, request: Request) -> Response:
        return Response(as_json(self._board.state()), media_type="application/json")

    async def _health(self, request: Request) -> Response:
        health = self._board.health
        return PlainTextResponse(f"{health}\n", 503 if health == "stalled" else 200)

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(metrics_text(self._board), media_type=MEDIA_TYPE)

    async def _login(self, request: Request) -> Response:
        try:
            form = await asyncio.wait_for(_form(request), LONGEST_FORM_S)
        except asyncio.TimeoutError:  # not the built-in one before Python 3.11
            return PlainTextResponse("too slow\n", 408, headers={"Connection": "close"})
        if len(form) > LONGEST_FORM_BYTES:
            return PlainTextResponse("too long\n", 413)
        given = parse_qs(form.decode("utf-8", "replace")).get("token", [""])[0]
        if self._token is None or not self._token.is_right(given):
            await asyncio.sleep(WRONG_TOKEN_S)
            return _login_page()
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._token.cookie_name, self._token.cookie, httponly=True, samesite="strict"
        )
        return answer

    async def _events(self, request: Request) -> Response:
        seen = request.headers.get("last-event-id", "")
        return StreamingResponse(self._lines(seen), media_type="text/event-stream")

    async def _lines(self, seen: str) -> AsyncIterator[bytes]:
        records = self._board.records
        last = number_of(seen, records.run)
        decisions: dict[int, int] = {}
        seconds: dict[int, int] = {
            each.number: each.samples()[-1].number for each in self._board.streams if each.samples()
        }
        self.listeners += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            while True:
                is_last = self._is_over  # read first, so that the end's own record is sent
                lines: list[str] = []
                for number, record in records.after(last):
                    last = number
                    lines.append(message("record", record, f"{records.run}-{number}"))
                for stream in self._board.streams:
                    decision = stream.decision()
                    if decision and decisions.get(stream.number) != decision["monotonic_ns"]:
                        decisions[stream.number] = decision["monotonic_ns"]
                        lines.append(message("decision", decision))
                    for sample in stream.samples(seconds.get(stream.number, -1)):
                        seconds[stream.number] = sample.number
                        second = {**stream.state(), "sample": asdict(sample)}
                        lines.append(message("second", second))
                if lines:
                    yield "".join(lines).encode()
                if is_last:
                    return
                await asyncio.sleep(POLL_S)
        finally:
            self.listeners -= 1

    async def _stream(self, request: Request) -> Response:
        query = request.query_params
        number, view = query.get("stream", "0"), query.get("view", "camera")
        known = [each for each in self._board.streams if str(each.number) == number]
        views = [each for each in VIEWS if each == view]
        if not known or not views:
            there = f"stream 0 to {len(self._board.streams) - 1}, view {', '.join(VIEWS)}\n"
            return PlainTextResponse(f"there is no such picture; accepted: {there}", 404)
        if sum(feed.watchers for feed in self.feeds.values()) >= MOST_WATCHERS:
            return PlainTextResponse("too many watch\n", 503, headers={"Retry-After": "10"})
        feed = self.feeds.setdefault(
            (known[0].number, views[0]), Feed(known[0], views[0], self._encoder)
        )
        media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return StreamingResponse(_parts(feed), media_type=media_type)


async def _form(request: Request) -> bytes:
    """What is sent, cut where it is longer than any form of ours."""
    form = b""
    async for chunk in request.stream():
        form += chunk
        if len(form) > LONGEST_FORM_BYTES:
            break
    return form


async def _parts(feed: Feed) -> AsyncIterator[bytes]:
    """MJPEG. The boundary follows its picture at once, because browsers draw when they see it."""
    yield f"--{BOUNDARY}\r\n".encode()
    pictures = feed.pictures()
    try:
        async for jpeg in pictures:
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            yield head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()
    finally:
        await pictures.aclose()  # type: ignore[attr-defined]  # a generator


def number_of(seen: str, run: str) -> int:
    """The record that a browser saw last; 0 for none of this run, or what no server of ours sent.

    Example:
        >>> number_of("f00d-12", "f00d"), number_of("dead-12", "f00d"), number_of("f00d-x", "f00d")
        (12, 0, 0)
    """
    its_run, _, number = seen.partition("-")
    return int(number) if its_run == run and number.isdecimal() and len(number) < 20 else 0


def message(kind: str, data: dict[str, Any], number: str | None = None) -> str:
    r"""A server-sent event; JSON has no line breaks of its own.

    Example:
        >>> message("record", {"label": "a\nb"}, "f00d-7")
        'event: record\nid: f00d-7\ndata: {"label":"a\\nb"}\n\n'
    """
    place = "" if number is None else f"id: {number}\n"
    return f"event: {kind}\n{place}data: {as_json(data)}\n\n"


def as_json(data: Any) -> str:
    """Compact JSON, ASCII only: a label can then end no line."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _login_page() -> Response:
    return Response((STATIC / "login.html").read_bytes(), 401, media_type="text/html")
