"""From `--web` and its token to a running server, or one line that says why not."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import OutputError
from runtime.web.address import WebAddress

if TYPE_CHECKING:
    from runtime.web.server import WebServer

TERMINAL = Path("/dev/tty")

logger = logging.getLogger(__name__)


def start_web(address: WebAddress, token: str | None = None) -> WebServer:
    """Serve the page.

    Args:
        address: Where.
        token: Who knows it may see the page. Without one an address that others can reach gets a
            random one, which is shown on the terminal and nowhere else.

    Raises:
        OutputError: The address cannot be used, a token is missing or too short, or starlette
            and uvicorn are not installed.
    """
    try:
        from runtime.web.guard import Token
        from runtime.web.server import WebServer
    except ModuleNotFoundError as err:
        raise OutputError(
            f"--web needs starlette and uvicorn ({err}); pip install 'tdrl-edge[web]'"
        ) from err
    shown = secrets.token_urlsafe(16) if token is None and not address.is_home else None
    listener = address.listen()
    try:
        if shown is not None:
            _show(address, shown)
        text = token if shown is None else shown
        server = WebServer(listener, None if text is None else Token(text, address.port))
    except (OutputError, ValueError) as err:
        listener.close()
        raise OutputError(str(err)) from err
    logger.info("page at %s", address.url)
    return server


def _show(address: WebAddress, token: str) -> None:
    """On the terminal itself: standard output and error may be a log file or a journal."""
    try:
        with TERMINAL.open("w") as terminal:
            # what follows # stays in the browser: no proxy and no log sees it
            terminal.write(f"page for this run: {address.url}#token={token}\n")
    except OSError as err:
        raise OutputError(
            f"--web {address} can be reached by others and needs a token, and there is no terminal "
            "to show a random one on; put one of at least 16 characters into an environment "
            "variable and pass --web-token-env NAME"
        ) from err
