"""A real HTTP server that takes webhooks, and can be down, slow or out of order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hook:
    """What the server got, and what it does.

    Attributes:
        url: Where it is.
        status: What it answers.
        goes_on: While cleared it takes requests and answers nothing, as a stopped process does.
        got: The objects that it took, in order.
        headers: The headers of every request that was answered.
        paths: Path and query of every request that was answered.
        tries: How many requests came.
    """

    url: str = ""
    status: int = 200
    goes_on: threading.Event = field(default_factory=threading.Event)
    got: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tries: int = 0


@contextmanager
def webhook_server(port: int = 0, hook: Hook | None = None) -> Iterator[Hook]:
    """Serve on 127.0.0.1 until the block ends; `hook` goes on with an earlier server's."""
    state = Hook() if hook is None else hook
    state.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.tries += 1
            state.goes_on.wait(30)
            state.headers.append(dict(self.headers))
            state.paths.append(self.path)
            status = state.status
            if 200 <= status < 300:  # before the answer: the next request comes right after it
                state.got.append(json.loads(body))
            try:
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:  # who asked has hung up
                return

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hung up is no news."""

    server = Server(("127.0.0.1", port), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
