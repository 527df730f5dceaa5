"""Where the page is served: `[HOST:]PORT`, and whether others than this machine can reach it."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from runtime.errors import OutputError

HOME = "127.0.0.1"
ADDRESS = re.compile(
    r"(?:(?:\[(?P<v6>[^\s/@\[\]]+)\]|(?P<host>[^\s/@\[\]:]+)):)?(?P<port>[0-9]{1,5})"
)
BACKLOG = 128
# A browser that stops reading is cut off by the kernel after so long, and until then no more than
# this waits for it: about a second of pictures.
STALLED_MS = 20_000
# One whose machine is gone would never be noticed where nothing is sent to it.
KEEP_ALIVE_S = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10}
SEND_BUFFER_BYTES = 128 * 1024


@dataclass(frozen=True)
class WebAddress:
    """A host and a port to listen on.

    Attributes:
        host: Name or address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> WebAddress:
        """Read `[HOST:]PORT`.

        Raises:
            ValueError: It is none.

        Example:
            >>> WebAddress.parse("8080"), WebAddress.parse("[::1]:80").host
            (WebAddress(host='127.0.0.1', port=8080), '::1')
        """
        match = ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError(
                f"must be [HOST:]PORT with a port from 1 to 65535, got {text!r}; "
                "such as 8080, 0.0.0.0:8080 or [::1]:8080"
            )
        return cls(match["v6"] or match["host"] or HOME, int(match["port"]))

    @property
    def is_home(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def url(self) -> str:
        """For people; a wildcard address gets this machine's name."""
        host = self.host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def listen(self) -> socket.socket:
        """A listening socket; connections wait until someone serves it.

        Raises:
            OutputError: The port is taken or not allowed, or the address is not this machine's.
        """
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
        except (OSError, UnicodeError) as err:  # the latter for a name that cannot be one
            raise OutputError(f"--web {self}: {_reason(err)}") from err
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, seconds in KEEP_ALIVE_S.items():
                if hasattr(socket, name):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError as err:
            listener.close()
            raise OutputError(f"--web {self}: {_reason(err)}") from err
        return listener

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _reason(err: OSError | UnicodeError) -> str:
    if isinstance(err, UnicodeError):
        return "this is no name of a machine; 0.0.0.0 is all addresses that it has"
    if err.errno == errno.EADDRINUSE:
        return "the port is in use; choose another, or end the program that has it"
    if err.errno == errno.EACCES:
        return "this user may not use the port; choose one from 1024 on"
    if err.errno == errno.EADDRNOTAVAIL or isinstance(err, socket.gaierror):
        return "this machine has no such address; 0.0.0.0 is all that it has"
    return err.strerror or str(err)
