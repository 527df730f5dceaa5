"""From what the user wrote to an open source."""

from __future__ import annotations

from pathlib import Path

from runtime.sources.file import FileSource
from runtime.sources.frame import FrameSource
from runtime.sources.live import LiveSource
from runtime.sources.uri import parse_source


def open_source(text: str, *, realtime: bool = False) -> FrameSource:
    """Open a file, camera or network stream.

    Args:
        text: What the user wrote; see `runtime.sources.uri`.
        realtime: Pace a file like a camera.

    Raises:
        ValueError: No known kind of source.
        SourceError: It cannot be opened.
    """
    uri = parse_source(text)
    if uri.kind == "file":
        return FileSource(Path(uri.target), realtime=realtime)
    return LiveSource(uri)
