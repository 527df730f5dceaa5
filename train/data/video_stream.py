"""One video stream of a file, opened and decoded as OpenCV does it in the runtime.

PyAV and OpenCV are built on the same FFmpeg libraries. The same stream, the same conversion and
the same turning give the same pixels, bit for bit, which the tests prove file kind by file kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import av
import cv2
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from runtime.errors import DataError
from runtime.preprocess import Picture
from runtime.sources.capture import rgb_from_bgr
from runtime.sources.container import missing_bytes

# OpenCV turns pictures for these angles only, clockwise.
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}

VideoPacket: TypeAlias = "av.Packet[VideoStream]"
PacketsAt: TypeAlias = tuple[int, Iterator[VideoPacket]]


class VideoFile:
    """An open video file and the stream in it that holds the film.

    Args:
        path: The file.

    Attributes:
        path: The file.
        container: PyAV's container.
        stream: The video stream; one thread, because loaders are processes already and threads
            cost more than they give on short clips.

    Raises:
        DataError: No file, an empty one, no video stream, or one that cannot be decoded here.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"{path} is not there; make or download the data set again")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes); replace the file")
        self.path = path
        self.container: InputContainer
        self.stream: VideoStream
        self._open()

    def reopen(self) -> None:
        """Start from the first packet again, also where the format cannot seek."""
        self.container.close()
        self._open()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def packets(self) -> Iterator[VideoPacket]:
        """Packets from the current place on; the last one is empty and flushes the decoder.

        A packet that the container cannot read ends the file.
        """
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                return
            yield packet

    def packets_at(self, stamps: Collection[int], accepted: Collection[int]) -> PacketsAt | None:
        """Go to a place in the file.

        Containers index their keyframes by decoding time or by time shown, and some go
        elsewhere than asked: what comes first is looked at.

        Args:
            stamps: Timestamps to ask for, in ticks, one after the other.
            accepted: Timestamps (pts) with which the packets may start.

        Returns:
            The timestamp of the first packet and all packets from there on; None where the
            container went to none of the accepted places.
        """
        for stamp in stamps:
            try:
                self.container.seek(stamp, stream=self.stream)
            except (av.FFmpegError, OSError):
                continue
            packets = self.packets()
            head = next(packets, None)
            if head is not None and head.pts is not None and head.pts in accepted:
                return head.pts, chain([head], packets)
        return None

    def _open(self) -> None:
        try:
            self.container = av.open(str(self.path.resolve()))
        except (av.FFmpegError, OSError) as err:
            raise DataError(
                f"{self.path} is unreadable or cut short ({err.strerror}); replace the file"
            ) from err
        try:
            self.stream = _film(self.path, self.container)
        except DataError:
            self.container.close()
            raise
        self.stream.codec_context.thread_count = 1


class Converter:
    """Decoded frames as pictures, with one conversion context for all of them."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def picture(self, frame: av.VideoFrame) -> Picture:
        """A decoded frame as RGB, upright.

        It goes through BGR with OpenCV's settings: FFmpeg rounds the two orders differently.

        Args:
            frame: The frame, of any pixel format, with its colour matrix and range.

        Returns:
            The picture, shape (H, W, 3), uint8, RGB.
        """
        bgr = self._reformatter.reformat(
            frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1
        ).to_ndarray()
        turn = _TURNS.get(rotation_of(frame))
        return rgb_from_bgr(bgr if turn is None else cv2.rotate(bgr, turn))


def rotation_of(frame: av.VideoFrame) -> int:
    """Degrees by which a frame is turned clockwise to stand upright, 0..359."""
    return -frame.rotation % 360


def frames_of(packet: VideoPacket) -> list[av.VideoFrame] | None:
    """Frames that come out of the decoder with a packet; None where the packet is broken."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return None


def _film(path: Path, container: InputContainer) -> VideoStream:
    """The stream that OpenCV would take: the first, cover pictures aside."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise DataError(f"{path} has a codec that PyAV cannot decode; encode it as H.264")
            return stream
    missing = missing_bytes(path)
    if missing:
        raise DataError(f"{path} is cut short: at least {missing} bytes are missing; replace it")
    kinds = ", ".join(stream.type for stream in container.streams) or "no stream"
    raise DataError(f"{path} holds no film ({kinds}); replace the file")
