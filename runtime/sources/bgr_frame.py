"""Frames as OpenCV decodes them: the model's small picture becomes RGB, the large one on demand."""

from __future__ import annotations

import threading
from typing import Any

from numpy.typing import NDArray

from runtime.preprocess import Colour, Picture, PictureRule, fit_picture
from runtime.sources.capture import rgb_from_bgr
from runtime.sources.frame import Frame


class BgrFrame(Frame):
    """A frame whose picture is BGR until somebody asks for it in RGB; safe from any thread.

    Only one of the two is kept, so a frame that others hold on to takes no more memory than
    before. `frame_from_bgr` makes one; the inherited constructor, which `dataclasses.replace`
    calls, takes RGB as everywhere.
    """

    _lock: threading.Lock
    _kept: tuple[Picture, Colour]

    @property
    def image_rgb(self) -> Picture:
        """The picture, shape (H, W, 3), uint8, RGB; the same array at every call."""
        image, colour = self._kept
        if colour == "RGB":
            return image
        with self._lock:
            image, colour = self._kept
            if colour == "BGR":
                image = rgb_from_bgr(image)
                self._kept = image, "RGB"
        return image

    @image_rgb.setter
    def image_rgb(self, image: Picture) -> None:  # the dataclass's constructor
        self._lock = threading.Lock()
        self._kept = image, "RGB"

    def fitted(self, rule: PictureRule) -> Picture:
        """See `fit_frame`."""
        image, colour = self._kept
        return fit_picture(image, rule, colour)


def frame_from_bgr(
    image: NDArray[Any], index: int, stream_time_s: float, grabbed_ns: int, connection: int = 0
) -> Frame:
    """A frame of a picture as OpenCV gives it.

    Args:
        image: Shape (H, W, 3) BGR or (H, W) grey, uint8; nobody else may write into it.
        index: See `Frame`, as the rest.
        stream_time_s: The same.
        grabbed_ns: The same.
        connection: The same.
    """
    if image.ndim == 2:
        return Frame(rgb_from_bgr(image), index, stream_time_s, grabbed_ns, connection)
    frame = BgrFrame(image, index, stream_time_s, grabbed_ns, connection)
    frame._kept = image, "BGR"
    return frame


def fit_frame(frame: Frame, rule: PictureRule) -> Picture:
    """What the model sees of a frame, without making the whole frame RGB for it.

    Args:
        frame: The frame.
        rule: The bundle's picture rule.

    Returns:
        The same bytes as `fit_picture(frame.image_rgb, rule)`.
    """
    return frame.fitted(rule) if isinstance(frame, BgrFrame) else fit_picture(frame.image_rgb, rule)
