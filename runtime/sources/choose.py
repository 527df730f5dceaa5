"""From what the user wrote to an open source."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from runtime.recordings.manifest import is_recording, read_manifest
from runtime.sources.capture import open_capture
from runtime.sources.file import FileSource
from runtime.sources.frame import FrameSource
from runtime.sources.images import ImageFolder
from runtime.sources.live import LiveSource
from runtime.sources.uri import SourceUri, parse_source


def open_source(
    text: str,
    *,
    realtime: bool = False,
    wait: bool = False,
    software_decode: bool = False,
    allow_pipeline: bool = False,
) -> FrameSource:
    """Open a file, folder of pictures, camera or network stream.

    Args:
        text: What the user wrote; see `runtime.sources.uri`.
        realtime: Pace a file like a camera.
        wait: Do not fail where a camera or stream is not there yet: try until it is.
        software_decode: Decode RTSP and Motion-JPEG on the CPU where a Jetson's hardware could.
        allow_pipeline: Accept `gst:`; only for what comes from a command line.

    Raises:
        ValueError: No known kind of source, or a wrong query.
        SourceError: It cannot be opened.
    """
    uri = parse_source(text, allow_pipeline=allow_pipeline)
    if uri.kind == "file":
        return _open_file(uri, realtime=realtime)
    return LiveSource(uri, wait=wait, opener=partial(open_capture, software_decode=software_decode))


def _open_file(uri: SourceUri, *, realtime: bool) -> FrameSource:
    path = Path(uri.target)
    if path.is_dir() and is_recording(path):
        if uri.wish.fps is not None:
            raise ValueError(f"{uri.name}: a recording has its own times; leave ?fps= out")
        times_s = read_manifest(path).times_s
        return ImageFolder(path, name=uri.name, times_s=times_s, realtime=realtime)
    if path.is_dir():
        return ImageFolder(path, name=uri.name, fps=uri.wish.fps, realtime=realtime)
    if uri.wish.fps is not None:
        raise ValueError(
            f"{uri.name}: ?fps= is for a folder of pictures; a video has its own times"
        )
    return FileSource(path, name=uri.name, realtime=realtime)
