"""The grammar of sources, as users of jetson-utils know it, and names without passwords.

0, /dev/video0, v4l2:///dev/video0, /dev/v4l/by-id/...      a camera
rtsp://, rtsps://, http://, https://                        a network stream
anything else                                               a video file
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

SourceKind: TypeAlias = Literal["file", "camera", "network"]

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")
ACCEPTED = "a video file, a camera (0, /dev/video0, v4l2:///dev/video0), rtsp:// or http://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CREDENTIALS = re.compile(r"(\w://)\S*@")
_QUERY = re.compile(r"(\w://[^\s?]*)\?\S*")


@dataclass(frozen=True)
class SourceUri:
    """A parsed source.

    Attributes:
        kind: What it is.
        target: What to open: a path, a device path, a camera's number as digits, or a URL with
            its password. Never print it: print `name`.
        name: The same for people, without credentials.
    """

    kind: SourceKind
    target: str
    name: str

    def __repr__(self) -> str:
        return f"SourceUri({self.kind}, {self.name})"


def parse_source(text: str) -> SourceUri:
    """Tell what a source is.

    Args:
        text: What the user wrote.

    Raises:
        ValueError: Nothing was written, or a scheme that is not known.

    Example:
        >>> parse_source("0")
        SourceUri(camera, camera 0)
        >>> parse_source("rtsp://admin:pass@10.0.0.7:554/h264?token=1")
        SourceUri(network, rtsp://***@10.0.0.7:554/h264?***)
    """
    if not text.strip():
        raise ValueError(f"a source must not be empty; accepted: {ACCEPTED}")
    if text.isdecimal():
        return SourceUri("camera", str(int(text)), f"camera {int(text)}")
    match = _SCHEME.match(text)
    if match is None:
        if text.startswith("/dev/"):
            return SourceUri("camera", text, text)
        return SourceUri("file", text, text)
    scheme, rest = match[1].lower(), match[2]
    if scheme in NETWORK_SCHEMES:
        return SourceUri("network", text, redact(text))
    if scheme == "v4l2" and rest.startswith("/dev/"):
        return SourceUri("camera", rest, rest)
    if scheme == "file" and rest.startswith("/"):
        return SourceUri("file", rest, rest)
    raise ValueError(f"a source of the kind {scheme}:// is not known; accepted: {ACCEPTED}")


def redact(text: str) -> str:
    """Remove user names, passwords and queries from every URL in a text.

    Example:
        >>> redact("cannot open rtsp://me:p@ss/w@cam/1: timed out")
        'cannot open rtsp://***@cam/1: timed out'
    """
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub(r"\1***@", text))
