"""Live pictures as JPEG: encoded only while somebody watches, once for all who do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Literal, get_args

import cv2

from runtime.decision import Decision
from runtime.overlay import annotate
from runtime.preprocess import Picture, fit_picture
from runtime.sources.frame import Frame
from runtime.web.board import StreamBoard

View = Literal["camera", "overlay", "model"]
VIEWS: tuple[View, ...] = get_args(View)
MAX_FPS = 10
LONGEST_SIDE_PX = 960
JPEG_QUALITY = 80

logger = logging.getLogger(__name__)


class Feed:
    """One view of one stream. All methods belong to the server's event loop.

    Each watcher takes the newest picture when it is ready for one, so a slow one skips pictures.

    Args:
        stream: Whose pictures.
        view: The camera's picture, the same with what is decided on it, or the model's input.
        encoder: Runs the encoding.

    Attributes:
        encoded: Pictures encoded so far.
        watchers: Who watches now.
    """

    def __init__(self, stream: StreamBoard, view: View, encoder: Executor) -> None:
        self.encoded = 0
        self.watchers = 0
        self._stream = stream
        self._view: View = view
        self._encoder = encoder
        self._jpeg = b""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    async def pictures(self) -> AsyncIterator[bytes]:
        """JPEG files, the newest each time, until `close`."""
        self.watchers += 1
        if self._task is None:
            self._jpeg = b""  # what was seen before may be hours old
            self._task = asyncio.create_task(self._encode())
        seen = -1
        try:
            while not self._is_over:
                if self._jpeg and self.encoded != seen:
                    seen = self.encoded
                    yield self._jpeg
                else:
                    await self._news.wait()
        finally:
            self.watchers -= 1
            if not self.watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    def close(self) -> None:
        """End all watchers' pictures."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        self._tell()

    async def _encode(self) -> None:
        loop = asyncio.get_running_loop()
        last: Frame | None = None
        while True:
            frame, decision = self._stream.picture()
            if frame is not None and frame is not last:
                last = frame
                self._jpeg = await loop.run_in_executor(
                    self._encoder, self._render, frame, decision
                )
                self.encoded += 1
                self._tell()
            await asyncio.sleep(1 / MAX_FPS)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _render(self, frame: Frame, decision: Decision | None) -> bytes:
        try:
            return jpeg_of(self._drawn(frame, decision))
        except cv2.error as err:
            logger.warning("a picture for the page cannot be made: %s", err)
            return b""

    def _drawn(self, frame: Frame, decision: Decision | None) -> Picture:
        bundle = self._stream.bundle
        if self._view == "model":
            return fit_picture(frame.image_rgb, bundle.picture)
        if self._view == "overlay":
            return annotate(frame.image_rgb, decision, bundle.labels, bundle.picture)
        return frame.image_rgb


def jpeg_of(image_rgb: Picture) -> bytes:
    """A picture, shape (H, W, 3), uint8, RGB, as a JPEG file whose sides are at most 960 px."""
    height, width = image_rgb.shape[:2]
    shrink = LONGEST_SIDE_PX / max(height, width)
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        image_rgb = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
