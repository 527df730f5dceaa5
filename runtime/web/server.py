"""Serves the page on a thread of its own, from before the camera opens until the run is over."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import uvicorn

from runtime.periodic import Periodic
from runtime.web.address import BACKLOG
from runtime.web.board import SAMPLE_S, Board
from runtime.web.connection import MOST_CONNECTIONS, Connection
from runtime.web.guard import Token
from runtime.web.routes import Site

GOODBYE_S = 1.0
JOIN_S = 5.0

logger = logging.getLogger(__name__)


class WebServer:
    """The server; it runs from here on.

    Args:
        listener: A listening socket; closed with the server.
        token: Who knows it may see the page; None where only this machine can come.

    Attributes:
        board: What is shown; streams are added to it.
        site: The answers.
    """

    def __init__(self, listener: socket.socket, token: Token | None) -> None:
        self.board = Board()
        self.site = Site(self.board, token)
        self._listener = listener
        config = uvicorn.Config(
            self.site.app,
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # strangers that speak no HTTP must not fill the log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS + 1,  # the last one is told so
            backlog=BACKLOG,
            timeout_graceful_shutdown=round(GOODBYE_S),
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._samples = Periodic(SAMPLE_S, self.board.sample, "web samples")
        self._samples.start()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to all browsers and end; a second call does nothing."""
        self._samples.close()
        # browsers that do not read are cut off now, and uvicorn would tell so in a page of traces
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.site.close)
        self._server.should_exit = True
        self._thread.join(JOIN_S)
        self._listener.close()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            logger.exception("the page is not served any more")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:  # its browser does not read what is left
                connection.transport.abort()
        await asyncio.sleep(0)
