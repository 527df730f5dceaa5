"""A TCP connection that can stall, lose bits or crawl, between a real client and server."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 4096


class TcpProxy:
    """Passes bytes on to a port of this machine.

    Attributes:
        port: Where it listens.
        flows: While clear, nothing more is passed on, and nothing is closed.
        spoilt_share: Share of the server's bytes that are replaced by chance ones.
        pause_s: Wait before each piece of 4 KiB.
        connections: Clients that came so far.
    """

    def __init__(self, target_port: int) -> None:
        self.flows = threading.Event()
        self.flows.set()
        self.spoilt_share = 0.0
        self.pause_s = 0.0
        self.connections = 0
        self._target_port = target_port
        self._random = random.Random(0)
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        self.flows.set()
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._open.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    client.close()
                    continue
                self._open.append(server)
                self._start(self._pass_on, client, server, False)
                self._start(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_servers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self.flows.wait()
                if is_servers:
                    time.sleep(self.pause_s)
                    data = self._spoilt(data)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _spoilt(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for place in range(len(changed)):
            if self._random.random() < self.spoilt_share:
                changed[place] = self._random.randrange(256)
        return bytes(changed)


@contextmanager
def tcp_proxy(target_port: int) -> Iterator[TcpProxy]:
    proxy = TcpProxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
