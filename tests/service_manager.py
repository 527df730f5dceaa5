"""The other end of sd_notify: a real datagram socket that keeps what a service says."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class ListeningManager:
    """Keeps every message, with the time it came."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        self.address = address
        self.messages: list[tuple[float, list[str]]] = []
        self._listener = listener

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """What a service is started with."""
        variables = {"NOTIFY_SOCKET": self.address}
        if watchdog_s is not None:
            variables["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        return variables

    def hear(self) -> list[str]:
        """All lines of the messages that came since the last call."""
        came: list[str] = []
        while True:
            try:
                data = self._listener.recv(4096)
            except BlockingIOError:
                return came
            lines = data.decode().split("\n")
            self.messages.append((time.monotonic(), lines))
            came += lines

    def wait_for(self, wanted: Callable[[str], bool], timeout_s: float = 20.0) -> list[str]:
        """Listen until a line is there; all lines heard on the way.

        Raises:
            AssertionError: It did not come.
        """
        heard: list[str] = []
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            lines = self.hear()
            heard += lines
            if any(wanted(line) for line in lines):
                return heard
            time.sleep(0.01)
        raise AssertionError(f"did not come within {timeout_s:g} s; heard {heard[-6:]}")

    def pings_within(self, seconds: float) -> int:
        """Pings that come from now on."""
        self.hear()
        time.sleep(seconds)
        return self.hear().count("WATCHDOG=1")


@contextmanager
def listening_manager(folder: Path | None) -> Iterator[ListeningManager]:
    """Listen on a socket in `folder`, or on an abstract one where it is None."""
    address = f"@tdrl-test-{os.getpid()}-{time.monotonic_ns()}"
    if folder is not None:
        address = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.setblocking(False)
        yield ListeningManager(listener, address)
