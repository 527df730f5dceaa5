"""Action events by HTTP POST, from a thread of its own: the stream never waits for a server.

Each event is one POST of one JSON object, in order. A server that is down, slow or answers 5xx is
tried again for as long as it takes, with growing pauses; meanwhile the newest events are kept and
older ones dropped and counted. A 3xx or other 4xx answer will not change, so its event is dropped.
An event may arrive twice where an answer was lost: its `id` is then the same.

A URL's user name, password, path and query may be secrets: they are in no log and no event.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import logging
import re
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from runtime import __version__
from runtime.backoff import backoff_s
from runtime.command import one_line

RETRIED = (408, 425, 429)  # beside 5xx: the same request may succeed later
MOST_WAITING = 1000
LAST_PAUSE_S = 0.1  # between tries once the run has ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebhookUrl:
    """Where events go.

    Attributes:
        name: The URL for people: scheme and host, no secrets.
        host: The host.
        port: The port; None for the scheme's own.
        is_tls: Whether it is https.
        target: Path and query of the request.
        headers: The request's headers.
    """

    name: str
    host: str = field(repr=False)
    port: int | None = field(repr=False)
    is_tls: bool = field(repr=False)
    target: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> WebhookUrl:
        """Take a URL apart.

        Raises:
            ValueError: It is no http:// or https:// URL; the message has nothing of it.

        Example:
            >>> WebhookUrl.parse("https://me:secret@example.org/hook/T0KEN?a=b")
            WebhookUrl(name='https://example.org/***')
        """
        parts = _split(text)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"tdrl-edge/{__version__}",
            "Connection": "close",
        }
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        host = parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        place = shown if parts.port is None else f"{shown}:{parts.port}"
        path = parts.path or "/"
        return cls(
            name=f"{parts.scheme}://{place}/" + ("" if path == "/" and not parts.query else "***"),
            host=host,
            port=parts.port,
            is_tls=parts.scheme == "https",
            target=f"{path}?{parts.query}" if parts.query else path,
            headers=headers,
        )


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        usable = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    # what http.client would refuse only when the first event is sent
    if not usable or re.search(r"[^\x21-\x7e]", text):
        raise ValueError(
            "a webhook is an http:// or https:// URL with a host and without spaces "
            "(it is not shown here: it may hold a secret)"
        )
    return parts


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        answer_s: For a connection, and for an answer.
        first_pause_s: After the first failure; each further one doubles it.
        longest_pause_s: A pause at most.
        flush_s: For what is left when the run ends.
    """

    answer_s: float = 10.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    flush_s: float = 3.0


PATIENCE = Patience()


@dataclass(frozen=True)
class WebhookCounts:
    """What became of the events: delivered, dropped, and how many tries failed."""

    sent: int
    dropped: int
    failed_tries: int


class Webhook:
    """Sends events to a server; see the module.

    Args:
        url: Where to.
        patience: How long to wait for what.
        most_waiting: Events that are kept while the server does not take them.
    """

    def __init__(
        self, url: WebhookUrl, *, patience: Patience = PATIENCE, most_waiting: int = MOST_WAITING
    ) -> None:
        self._url = url
        self._patience = patience
        self._most_waiting = most_waiting
        self._run = uuid.uuid4().hex
        self._number = 0
        self._waiting: deque[bytes] = deque()
        self._in_flight = 0
        self._sent = self._dropped = self._failed_tries = 0
        self._complaint = ""
        self._changed = threading.Condition()
        self._ends_at_s: float | None = None
        self._is_over = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The URL for people, without secrets."""
        return self._url.name

    @property
    def counts(self) -> WebhookCounts:
        """What became of the events so far."""
        with self._changed:
            return WebhookCounts(self._sent, self._dropped, self._failed_tries)

    def send(self, record: Mapping[str, Any]) -> None:
        """Queue one event; returns at once. After `close` it is dropped. Safe from any thread."""
        with self._changed:
            self._number += 1
            body = json.dumps(
                {"id": f"{self._run}-{self._number}", **record}, ensure_ascii=False, allow_nan=False
            ).encode()
            if self._ends_at_s is not None:
                self._dropped += 1
                return
            if len(self._waiting) >= self._most_waiting:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(body)
            self._changed.notify_all()

    def close(self) -> None:
        """Deliver what is left, for `flush_s` at most; a second call does nothing."""
        with self._changed:
            if self._ends_at_s is not None:
                return
            self._ends_at_s = time.monotonic() + self._patience.flush_s
            self._changed.notify_all()
        self._thread.join(self._patience.flush_s)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            left = len(self._waiting) + self._in_flight
            self._dropped += left
            self._waiting.clear()
        self._hang_up()
        self._thread.join(1.0)  # a name that is being looked up cannot be hurried
        if self._dropped:
            logger.warning("webhook %s: %d events were dropped", self.name, self._dropped)

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _work(self) -> None:
        while (body := self._next()) is not None:
            self._deliver(body)

    def _next(self) -> bytes | None:
        """The next event; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends_at_s is not None)
            if self._is_over or not self._waiting:
                return None
            self._in_flight = 1
            return self._waiting.popleft()

    def _deliver(self, body: bytes) -> None:
        """Try until the event is taken, refused, or the run is over."""
        for attempt in itertools.count():
            status, why = self._post(body)
            is_sent = 200 <= status < 300
            is_refused = 300 <= status < 500 and status not in RETRIED
            with self._changed:
                if self._is_over:
                    return  # counted as dropped by then
                self._failed_tries += not is_sent
                if is_sent or is_refused:
                    self._sent += is_sent
                    self._dropped += is_refused
                    self._in_flight = 0
            self._tell("" if is_sent else why, is_refused=is_refused)
            if is_sent or is_refused:
                return
            patience = self._patience
            self._rest(backoff_s(attempt, patience.first_pause_s, patience.longest_pause_s))

    def _rest(self, pause_s: float) -> None:
        """Wait before the next try; a run that ends does not wait as long."""
        with self._changed:
            if self._ends_at_s is None:
                self._changed.wait_for(lambda: self._ends_at_s is not None, pause_s)
            else:
                self._changed.wait_for(lambda: self._is_over, LAST_PAUSE_S)

    def _post(self, body: bytes) -> tuple[int, str]:
        """Send once: the status, 0 where there was none, and what went wrong."""
        url = self._url
        kind = http.client.HTTPSConnection if url.is_tls else http.client.HTTPConnection
        connection = kind(url.host, url.port, timeout=self._answer_s())
        self._connection = connection
        try:
            connection.request("POST", url.target, body, dict(url.headers))
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as err:
            return 0, one_line(err)
        finally:
            self._connection = None
            connection.close()
        return status, f"answered {status}"

    def _answer_s(self) -> float:
        left_s = self._patience.answer_s
        if self._ends_at_s is not None:
            left_s = min(left_s, self._ends_at_s - time.monotonic())
        return max(0.1, left_s)

    def _hang_up(self) -> None:
        """Wake the thread from a socket that says nothing."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _tell(self, complaint: str, *, is_refused: bool) -> None:
        """One line when something begins to go wrong, one when it is over."""
        was, self._complaint = self._complaint, complaint
        if complaint and not was:
            then = (
                "such events are dropped"
                if is_refused
                else f"trying again, the last {self._most_waiting} events are kept"
            )
            logger.warning("webhook %s: %s; %s", self.name, complaint, then)
        elif was and not complaint:
            logger.info("webhook %s takes events again, %d dropped", self.name, self._dropped)
