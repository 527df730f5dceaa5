"""One browser's connection: those that only occupy a place are closed."""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

# Twenty browsers have two connections each; the rest is told to come back later.
MOST_CONNECTIONS = 128
SILENT_S = 10.0


class Connection(H11Protocol):
    """uvicorn's, which waits for a request for ever: here for SILENT_S.

    Where all places are taken, a new connection gets the place of the one that is silent longest.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A browser has come."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._wait_for_request()
        if len(self.connections) > MOST_CONNECTIONS:
            others = [each for each in self.connections if each is not self]
            silent = [each for each in others if isinstance(each, Connection) and each.is_silent]
            if silent:
                oldest = min(silent, key=lambda each: each.silent_since_s)
                self.connections.discard(oldest)  # its loss is told too late for many at once
                oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer was given; the next request may come."""
        self._wait_for_request()
        super().on_response_complete()

    @property
    def is_silent(self) -> bool:
        """Whether no request is here, and nothing of an answer waits to be read."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return not is_answering and not self.transport.get_write_buffer_size()

    def _wait_for_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.silent_since_s = time.monotonic()
        self._timer = self.loop.call_later(SILENT_S, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()  # a slow browser still gets the rest of its answer
