"""The grammar of sources, as users of jetson-utils know it, and names without passwords.

    0, /dev/video0, v4l2:///dev/video0,     a camera, ?width= &height= &fps= &format=
        /dev/v4l/by-id/...
    csi://0                                 a Jetson's CSI camera, ?width= &height= &fps= &flip=
    rtsp://, rtsps://, http://, https://    a network stream; its query is the camera's
    gst:PIPELINE                            a GStreamer pipeline, from the command line only
    anything else                           a video file, or a folder of pictures, ?fps=

A query is understood only where every key is one of those, so a file may be called `why?.mp4`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from runtime.sources.redact import redact

SourceKind: TypeAlias = Literal["file", "camera", "csi", "network", "pipeline"]

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")
ACCEPTED = (
    "a video file, a folder of pictures, a camera (0, /dev/video0, v4l2:///dev/video0, csi://0), "
    "rtsp:// or http://"
)
SIDE_PX = (16, 16384)
HIGHEST_FPS = 1000.0
_QUERY_KEYS = {
    "camera": ("width", "height", "fps", "format"),
    "csi": ("width", "height", "fps", "flip"),
    "file": ("fps",),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ONE_SLASH = re.compile(r"(rtsps?|https?):", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,4}")
_FPS_QUERY = re.compile(r"(.+)\?(fps=[^?&=]*)", re.DOTALL)
_LOGIN = re.compile(r"[^\s/]*:\S*@")
_ELEMENT = re.compile(r"\s*([a-z][a-z0-9_-]*)(?=\s|!|$)")


@dataclass(frozen=True)
class Wish:
    """What the user asks a camera for; None leaves it to the camera.

    Attributes:
        width_px: Width of the pictures.
        height_px: Height of the pictures.
        fps: Frames a second; for a folder of pictures its rate.
        fourcc: Pixel format of a V4L2 camera, four characters such as MJPG.
        flip: nvvidconv's flip-method of a CSI camera, 0..7; 2 turns it upside down.
    """

    width_px: int | None = None
    height_px: int | None = None
    fps: float | None = None
    fourcc: str | None = None
    flip: int = 0


@dataclass(frozen=True)
class SourceUri:
    """A parsed source.

    Attributes:
        kind: What it is; a folder of pictures is a `file` until someone looks.
        target: What to open: a path, a device path, a camera's number as digits, a pipeline, or a
            URL with its password. Never print it: print `name`.
        name: The same for people, without credentials.
        wish: What its query asks for.
    """

    kind: SourceKind
    target: str
    name: str
    wish: Wish = Wish()

    def __repr__(self) -> str:
        return f"SourceUri({self.kind}, {self.name})"


def parse_source(text: str, *, allow_pipeline: bool = False) -> SourceUri:
    """Tell what a source is.

    Args:
        text: What the user wrote.
        allow_pipeline: Accept `gst:`. A pipeline can read and write any file, so only a command
            line may give one, never a web page or a file.

    Raises:
        ValueError: Nothing was written, a scheme that is not known, or a wrong value; the message
            holds no part of a URL that could be secret.

    Example:
        >>> parse_source("0")
        SourceUri(camera, camera 0)
        >>> parse_source("rtsp://admin:pass@10.0.0.7:554/h264?token=1")
        SourceUri(network, rtsp://***@10.0.0.7:554/h264?***)
        >>> parse_source("/dev/video0?width=1280&height=720&fps=30").wish.width_px
        1280
    """
    if not text.strip():
        raise ValueError(f"a source must not be empty; accepted: {ACCEPTED}")
    if text.startswith("gst:"):
        return _pipeline(text.removeprefix("gst:"), allowed=allow_pipeline)
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("a source must not hold control characters or line breaks")
    match = _SCHEME.match(text)
    if match is None:
        return _without_scheme(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme in NETWORK_SCHEMES:
        return _network(text, scheme)
    if scheme == "v4l2" and rest.startswith("/dev/"):
        return _camera(rest)
    if scheme == "csi":
        return _csi(rest)
    if scheme == "file" and rest.startswith("/"):
        return _file(unquote(rest))
    raise ValueError(f"a source of the kind {scheme}:// is not known; accepted: {ACCEPTED}")


def _without_scheme(text: str) -> SourceUri:
    number, _, query = text.partition("?")
    if _NUMBER.fullmatch(number):
        return SourceUri(
            "camera", str(int(number)), f"camera {int(number)}", _wish("camera", query)
        )
    if text.startswith("/dev/"):
        return _camera(text)
    if match := _ONE_SLASH.match(text):
        raise ValueError(f"a URL begins with {match[1].lower()}:// and two slashes")
    return _file(text)


def _camera(text: str) -> SourceUri:
    path, _, query = text.partition("?")
    return SourceUri("camera", path, path, _wish("camera", query))


def _csi(text: str) -> SourceUri:
    number, _, query = text.partition("?")
    if not _NUMBER.fullmatch(number):
        raise ValueError("a CSI camera is csi:// and its number, such as csi://0")
    return SourceUri("csi", str(int(number)), f"csi://{int(number)}", _wish("csi", query))


def _file(text: str) -> SourceUri:
    wish = Wish()
    if match := _FPS_QUERY.fullmatch(text):
        text, wish = match[1], _wish("file", match[2])
    # someone who forgot rtsp:// wrote a password all the same
    name = redact(_LOGIN.sub("***@", text)).encode("utf-8", "backslashreplace").decode()
    return SourceUri("file", text, name, wish)


def _network(text: str, scheme: str) -> SourceUri:
    if any(char.isspace() for char in text):
        raise ValueError(f"a {scheme}:// URL must not hold spaces; write %20")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:  # its message holds the URL
        host = None
    if not host:
        raise ValueError(
            f"a {scheme}:// URL needs a host and, if any, a port number; in a password write "
            "@ as %40, / as %2F, : as %3A, # as %23, ? as %3F"
        ) from None
    return SourceUri("network", text, redact(text))


def _pipeline(text: str, *, allowed: bool) -> SourceUri:
    if not allowed:
        raise ValueError("gst: pipelines are accepted from the command line only")
    if not text.strip() or "\0" in text:
        raise ValueError("gst: needs a pipeline, such as 'gst:v4l2src ! jpegdec'")
    element = _ELEMENT.match(text)
    return SourceUri("pipeline", text, f"gst:{element[1] if element else ''}…")


def _wish(kind: str, query: str) -> Wish:
    """Read a query.

    Raises:
        ValueError: A key that this kind does not have, one given twice, or a wrong value.
    """
    if not query:
        return Wish()
    found: dict[str, str] = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in _QUERY_KEYS[kind] or key in found:
            accepted = ", ".join(f"{name}=" for name in _QUERY_KEYS[kind])
            raise ValueError(f"a source's query takes {accepted} each once, got {part[:40]!r}")
        found[key] = value
    if ("width" in found) != ("height" in found):
        raise ValueError("give width= and height= together")
    return Wish(
        _side_px(found.get("width")),
        _side_px(found.get("height")),
        _fps(found.get("fps")),
        _fourcc(found.get("format")),
        _flip(found.get("flip", "0")),
    )


def _side_px(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not SIDE_PX[0] <= int(text) <= SIDE_PX[1]:
        raise ValueError(
            f"width and height must be in {SIDE_PX[0]}..{SIDE_PX[1]}, got {text[:40]!r}"
        )
    return int(text)


def _fps(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= HIGHEST_FPS:
        raise ValueError(f"fps must be in (0, {HIGHEST_FPS:g}], got {text[:40]!r}")
    return float(text)


def _fourcc(text: str | None) -> str | None:
    if text is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9]{4}", text):
        raise ValueError(f"format must be four letters such as MJPG or YUYV, got {text[:40]!r}")
    return text.upper()


def _flip(text: str) -> int:
    if not re.fullmatch(r"[0-7]", text):
        raise ValueError(f"flip must be in 0..7, got {text[:40]!r}")
    return int(text)
