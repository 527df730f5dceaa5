"""A camera that changes its codec on the way: MPEG-TS says so, FFmpeg does not follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.uri import parse_source
from tests.http_server import http_server
from tests.videos import drifting_pattern

TS_PACKET_BYTES = 188
PIECE_BYTES = 8 * TS_PACKET_BYTES
STEPS, FPS = 50, 25
LONGEST_S = 20.0
FAST = ReconnectRule(first_wait_s=0.05, last_wait_s=0.2, refused_wait_s=0.2)


def transport_stream(path: Path, codec: Literal["libx264", "mpeg2video"]) -> bytes:
    """Two seconds of a moving picture."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in drifting_pattern(STEPS, 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@contextmanager
def camera(before: bytes, after: bytes) -> Iterator[str]:
    """Sends one stream, then another on the same connection; to all who come later the other."""
    seen = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with suppress(OSError):
                if len(seen) == 1:
                    self.send_slowly(before)
                while not ended.is_set():
                    self.send_slowly(after)

        def send_slowly(self, part: bytes) -> None:
            pieces = range(0, len(part), PIECE_BYTES)
            for at in pieces:
                self.wfile.write(part[at : at + PIECE_BYTES])
                if ended.wait(STEPS / FPS / len(pieces)):
                    return

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        try:
            yield f"http://127.0.0.1:{port}/live.ts"
        finally:
            ended.set()


@pytest.mark.slow
def test_another_codec_on_the_same_connection_is_a_new_connection(tmp_path):
    before = transport_stream(tmp_path / "before.ts", "libx264")
    after = transport_stream(tmp_path / "after.ts", "mpeg2video")
    began_s = time.monotonic()
    frames = []
    with (
        camera(before, after) as url,
        LiveSource(parse_source(url), reconnect=FAST) as source,
    ):
        for frame in source:
            frames.append(frame)
            if frame.connection > 0 or time.monotonic() - began_s > LONGEST_S:
                break
        counts = source.counts
    last = frames[-1]
    assert (last.connection, counts.reconnects) == (1, 1)
    assert sum(frame.connection == 0 for frame in frames) > STEPS // 2
    # it is a picture of the new stream, not what an old decoder makes of it
    pictures = drifting_pattern(STEPS, 64, 96).astype(np.int16)
    away = np.abs(pictures - last.image_rgb.astype(np.int16)).mean(axis=(1, 2, 3))
    assert away.min() < 12 < away.max()
