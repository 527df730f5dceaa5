"""Who may see the page, and what every answer says to the browser.

On this machine's own address nobody is asked, but only requests that name this machine are
answered: a web site could otherwise point its own name here and read the pictures (DNS rebinding).
On any other address a token is needed: as a cookie that the login gives, or as a bearer token for
Prometheus.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHORTEST_TOKEN = 16
OPEN_PATHS = ("/healthz", "/login")  # the first says one word
OPEN_FOLDER = "/static/"  # the same files in every installation
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Token:
    """The secret that opens the page.

    Args:
        text: The secret.
        port: Cookies are shared by all ports of a machine, so its name has the port.

    Raises:
        ValueError: It is too short to be safe.
    """

    def __init__(self, text: str, port: int) -> None:
        if len(text) < SHORTEST_TOKEN:
            raise ValueError(
                f"a token of --web has at least {SHORTEST_TOKEN} characters, got {len(text)}"
            )
        self.cookie_name = f"tdrl_edge_{port}"
        self._text = text.encode()
        # the cookie is no use anywhere else, should it leak
        self.cookie = hmac.new(self._text, b"tdrl-edge page", hashlib.sha256).hexdigest()

    def is_right(self, text: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(text.encode(), self._text)

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers may pass."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_right(given.strip())
        # http.cookies gives up on all where another program's is not to its taste
        cookie = cookie_parser(headers.get("cookie", "")).get(self.cookie_name, "")
        return hmac.compare_digest(cookie.encode(), self.cookie.encode())


class Guard:
    """ASGI middleware.

    Args:
        app: What is guarded.
        token: Who knows it may pass; None where only this machine can come.
        login: Answers a request for the page without a token.
    """

    def __init__(self, app: ASGIApp, token: Token | None, login: Response) -> None:
        self._app = app
        self._token = token
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let pass."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._token is None:
            if is_home(headers.get("host", "")):
                return None
            return PlainTextResponse("this page is only for the machine that serves it\n", 421)
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or self._token.opens(headers):
            return None
        if path == "/":
            return self._login
        return PlainTextResponse(
            "a token is needed\n", 401, headers={"WWW-Authenticate": 'Bearer realm="tdrl-edge"'}
        )


def is_home(host: str) -> bool:
    """Whether a Host header names this machine.

    Example:
        >>> is_home("localhost:8080"), is_home("[::1]"), is_home("evil.example:8080")
        (True, True, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
