"""Texts without passwords: for names, logs, events and errors."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(\w:/{1,2})\S*@")
_QUERY = re.compile(r"(\w://[^\s?#]*)[?#]\S*")
# GStreamer's user-pw, and cheap cameras that take the password as a part of the path
_ASSIGNED = re.compile(
    r"""((?:pass|pw|token|secret|auth|key)[\w-]*\s*=\s*)("[^"]*"|'[^']*'|[^\s&/?"']+)""",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Remove user names, passwords and queries from every URL in a text.

    Example:
        >>> redact("cannot open rtsp://me:p@ss/w@cam/1: timed out")
        'cannot open rtsp://***@cam/1: timed out'
        >>> redact("rtsp://10.0.0.7/user=me&password=secret&channel=1")
        'rtsp://10.0.0.7/user=me&password=***&channel=1'
    """
    text = _QUERY.sub(r"\1?***", _CREDENTIALS.sub(r"\1***@", text))
    return _ASSIGNED.sub(r"\1***", text)
