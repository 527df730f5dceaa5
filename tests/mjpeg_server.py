"""A real HTTP camera for tests: MJPEG over multipart, as IP cameras serve it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import cv2
import numpy as np

from tests.http_server import http_server


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mjpeg_camera(
    port: int,
    *,
    fps: float = 50.0,
    flows: threading.Event | None = None,
    spoil: Callable[[bytes], bytes] = bytes,
) -> Iterator[str]:
    """Serve grey pictures that get brighter by one level a frame; gives the URL.

    While `flows` is clear nothing is sent and nothing is closed. `spoil` changes each JPEG.
    """
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            try:
                while not closing.is_set():
                    picture = np.full((48, 64, 3), number % 250, np.uint8)
                    jpeg = spoil(cv2.imencode(".jpg", picture)[1].tobytes())
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    while not (flows is None or flows.is_set() or closing.is_set()):
                        time.sleep(0.02)
                    self.wfile.write(b"--frame\r\n" + head.encode() + jpeg + b"\r\n")
                    number += 1
                    time.sleep(1 / fps)
            except OSError:
                pass  # the client left

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler, port):
        try:
            yield f"http://127.0.0.1:{port}/video"
        finally:
            closing.set()
