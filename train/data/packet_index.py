"""Which frames a video file holds, and when each is shown, without decoding them.

The packets of a file are listed (milliseconds), their times sorted, and the keyframes noted. A
frame can then be reached from the keyframe before it and recognised by its exact timestamp. Where
the packets do not tell the truth (a broken start, fields or hidden pictures in packets of their
own, no timestamps), the file is decoded once instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.sources.clock import DEFAULT_FPS, FileClock
from runtime.sources.container import missing_bytes
from train.data.video_stream import VideoFile, VideoPacket, frames_of, rotation_of

# Above this share of packets that the decoder refuses, a file is called damaged.
MAX_BROKEN = 0.1
# A frame without a timestamp.
NO_PTS = -(2**63)


@dataclass(frozen=True)
class VideoFacts:
    """What a video, or a folder of pictures, holds.

    Attributes:
        num_frames: Frames that can be decoded.
        duration_s: Seconds from the start of the stream to the end of the last frame.
        fps: Frames a second: the median spacing's reciprocal.
        height_px: Height of an upright picture.
        width_px: Width of an upright picture.
        codec: FFmpeg's name of the codec; a folder's is the pictures' suffix.
        pix_fmt: FFmpeg's name of the pixel format; empty for a folder.
        rotation: Degrees by which the pictures are turned clockwise to stand upright.
    """

    num_frames: int
    duration_s: float
    fps: float
    height_px: int
    width_px: int
    codec: str
    pix_fmt: str
    rotation: int


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The frames of a video file in the order they are shown.

    Attributes:
        pts: Timestamps in the container's ticks, shape (F,), int64, strictly ascending; empty
            where the packets could not be trusted: frames are then counted while decoding.
        keys: Frames at which decoding can start, shape (K,), int64, ascending, the first is 0.
        key_stamps: Timestamps (pts, dts) of the packets to go to for these frames, shape (K, 2).
        times_s: Stream times as the runtime's file source states them, shape (F,), float64.
        frame_s: Median spacing of the frames, seconds; 0 for a single frame.
        facts: Size, codec and so on.
    """

    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    key_stamps: NDArray[np.int64]
    times_s: NDArray[np.float64]
    frame_s: float
    facts: VideoFacts

    @property
    def from_packets(self) -> bool:
        """Whether frames can be reached from the keyframe before them."""
        return len(self.pts) > 0

    def key_before(self, frame: int) -> int:
        """Position in `keys` of the last keyframe at or before a frame."""
        return int(np.searchsorted(self.keys, frame, side="right")) - 1


class _Listed(NamedTuple):
    """What is kept of a packet."""

    pts: int
    dts: int
    is_key: bool
    is_discarded: bool
    is_corrupt: bool

    @classmethod
    def of(cls, packet: VideoPacket) -> _Listed:
        pts = NO_PTS if packet.pts is None else packet.pts
        dts = pts if packet.dts is None else packet.dts
        return cls(pts, dts, packet.is_keyframe, packet.is_discard, packet.is_corrupt)


def index_from_packets(video: VideoFile) -> PacketIndex | None:
    """List the packets of a file and decode its first frame.

    Args:
        video: A file that was just opened.

    Returns:
        The index; None where it takes `index_by_decoding`.

    Raises:
        DataError: The file is cut short.
    """
    listed = [_Listed.of(packet) for packet in video.packets() if packet.size]
    _check_whole(video, sum(not packet.is_corrupt for packet in listed))
    shown = [packet for packet in listed if not packet.is_discarded]
    pts = np.unique(np.array([packet.pts for packet in shown], np.int64))
    if not shown or len(pts) < len(shown) or _has_made_up_pts(video, shown):
        return None
    head = listed[0]  # a packet that is not shown may come before the first frame
    keys = sorted(packet for packet in shown if packet.is_key and packet.pts > pts[0])
    place = video.packets_at((head.pts, head.dts), (head.pts,))
    first = next(decoded(place[1]), None) if place else None
    if first is None or first.pts != pts[0]:
        return None
    key_stamps = np.array([(packet.pts, packet.dts) for packet in (head, *keys)], np.int64)
    key_frames = np.searchsorted(pts, [pts[0], *key_stamps[1:, 0]])
    return _index(video, pts.tolist(), first, (pts, key_frames, key_stamps))


def index_by_decoding(video: VideoFile) -> PacketIndex:
    """Decode a whole file, keeping its times only.

    Args:
        video: An open file.

    Raises:
        DataError: Nothing decodes, or too many packets are broken.
    """
    video.reopen()
    first, stamps, num_packets, num_broken = None, [], 0, 0
    for packet in video.packets():
        frames = frames_of(packet)
        num_packets += 1
        num_broken += frames is None
        for frame in frames or []:
            first = first or frame
            stamps.append((frame.pts, frame.dts))
    if first is None:
        raise DataError(f"{video.path} holds no video frame that decodes; replace the file")
    if num_broken > MAX_BROKEN * num_packets:
        raise DataError(
            f"{video.path} is damaged: {num_broken} of {num_packets} packets do not decode; "
            "replace the file"
        )
    shown = [NO_PTS if pts is None else pts for pts, _ in stamps]
    if np.any(np.diff(shown) <= 0):
        shown = [NO_PTS if dts is None else dts for _, dts in stamps]
    none = np.zeros(0, np.int64)
    return _index(video, shown, first, (none, none, none))


def decoded(packets: Iterable[VideoPacket]) -> Iterator[av.VideoFrame]:
    """Frames of packets; broken packets are passed over, as OpenCV does."""
    for packet in packets:
        yield from frames_of(packet) or []


def _index(
    video: VideoFile,
    stamps: Sequence[int],
    first: av.VideoFrame,
    places: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
) -> PacketIndex:
    times_s = _stream_times(video, stamps)
    frame_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    rotation = rotation_of(first)
    size = (first.height, first.width) if rotation % 180 == 0 else (first.width, first.height)
    facts = VideoFacts(
        num_frames=len(times_s),
        duration_s=float(times_s[-1]) + frame_s,
        fps=round(1 / frame_s, 3) if frame_s else float(video.stream.guessed_rate or DEFAULT_FPS),
        height_px=size[0],
        width_px=size[1],
        codec=video.stream.codec_context.name,
        pix_fmt=first.format.name,
        rotation=rotation,
    )
    return PacketIndex(*places, times_s, frame_s, facts)


def _has_made_up_pts(video: VideoFile, shown: Sequence[_Listed]) -> bool:
    """AVI has no pts; FFmpeg makes them up wrongly where pictures are coded out of order."""
    ascending = all(a.pts < b.pts for a, b in pairwise(shown))
    return _is_avi(video) and ascending and bool(video.stream.codec_context.has_b_frames)


def _stream_times(video: VideoFile, stamps: Sequence[int]) -> NDArray[np.float64]:
    """Times as OpenCV states them, then through the clock that the runtime's source uses."""
    stream = video.stream
    start, tick_s = stream.start_time or 0, float(stream.time_base or 0)
    clock = FileClock(float(stream.guessed_rate or DEFAULT_FPS))
    stated_ms = [0.0 if pts == NO_PTS else (pts - start) * tick_s * 1000 for pts in stamps]
    return np.array([clock.time_of(ms) for ms in stated_ms], np.float64)


def _check_whole(video: VideoFile, num_packets: int) -> None:
    """Refuse a file that was cut off, by the sizes that its container states.

    Frame counts in headers lie: alone they prove nothing. An AVI that has all frames it counts
    lost only the index behind them. A container that states no sizes (MPEG-TS, ...) is taken for
    what it holds.
    """
    missing, promised = missing_bytes(video.path), video.stream.frames
    if not missing or (_is_avi(video) and num_packets >= promised > 0):
        return
    video.reopen()
    found = sum(1 for _ in decoded(video.packets()))
    frames = f"{found} of {promised} frames" if promised > found else f"{found} frames"
    raise DataError(
        f"{video.path} is cut short: {frames} decode, at least {missing} bytes are missing; "
        "copy the file again"
    )


def _is_avi(video: VideoFile) -> bool:
    return "avi" in video.container.format.name.split(",")
