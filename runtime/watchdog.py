"""What the service manager hears: ready, still at work, stopping. systemd's protocol, no library.

A datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names; without one nothing is
sent and nothing changes. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from types import TracebackType

from runtime.periodic import Periodic

# systemd advises to ping at half the limit; at a quarter one ping may be late
PINGS_A_LIMIT = 4
STATUS_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)


class ServiceManager:
    """Sends a service's state to the manager that started it.

    Args:
        address: Path of the manager's datagram socket, `@name` for an abstract one; None where
            nobody listens.
        watchdog_s: The manager ends a service that is silent for so long; None for no such limit.

    Raises:
        ValueError: `watchdog_s` is not > 0.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        if watchdog_s is not None and not watchdog_s > 0:
            raise ValueError(f"watchdog_s must be > 0, got {watchdog_s}")
        self.watchdog_s = watchdog_s
        self._address = None if address is None else _socket_name(address)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """The manager that started this process, if one did.

        The variables are taken out, so that a program this one starts cannot speak for it.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        limit_us = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        is_ours = process in ("", str(os.getpid()))
        has_limit = is_ours and limit_us.isdecimal() and int(limit_us) > 0
        return cls(address, int(limit_us) / 1e6 if has_limit else None)

    @property
    def listens(self) -> bool:
        """Whether anyone hears what is sent."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """Start-up is over."""
        self._send("READY=1", _status_line(status))

    def status(self, text: str) -> None:
        """What the service does now, one line for people."""
        self._send(_status_line(text))

    def ping(self, status: str) -> None:
        """The service is at work; the manager's limit starts anew."""
        self._send("WATCHDOG=1", _status_line(status))

    def stopping(self) -> None:
        """The service is about to end by itself."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        """Send without waiting: a manager that is busy must not hold up the camera."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as err:
            logger.debug("the service manager did not hear %s: %s", lines[0], err)


class Watchdog:
    """Pings the manager while the work advances, and only then.

    Args:
        manager: Who is told.
        progress: Gives a value that changes whenever the work advances, and at no other time;
            called from a thread of its own.
        status: Gives the line for people; from the same thread.
    """

    def __init__(
        self,
        manager: ServiceManager,
        progress: Callable[[], object],
        status: Callable[[], str],
    ) -> None:
        self._manager = manager
        self._progress = progress
        self._status = status
        self._last = progress()
        interval_s = STATUS_INTERVAL_S
        if manager.watchdog_s is not None:
            interval_s = min(interval_s, manager.watchdog_s / PINGS_A_LIMIT)
        self._periodic = Periodic(interval_s, self.tell, "watchdog")

    def tell(self) -> None:
        """Ping if the work advanced since the last time; say what it does either way."""
        now = self._progress()
        if now != self._last:
            self._manager.ping(self._status())
        else:
            self._manager.status(self._status())
        self._last = now

    def __enter__(self) -> Watchdog:
        if self._manager.listens:
            self._periodic.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._periodic.close()
        self._manager.stopping()


def _socket_name(address: str) -> str:
    """The kernel's name of a socket: an abstract one begins with a zero byte, written `@`."""
    return "\0" + address[1:] if address.startswith("@") else address


def _status_line(text: str) -> str:
    """One line, whatever a label holds: a second one would be a message of its own."""
    return "STATUS=" + " ".join(text.split())
