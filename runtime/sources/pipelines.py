"""GStreamer pipelines as text. Only numbers and our own words are ever put into one.

A URL or password never is: it could close its quotes and start elements of its own, and it would
be printed with the pipeline's errors. It is a property, set on the element after parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from urllib.parse import unquote, urlsplit, urlunsplit

from runtime.sources.uri import Wish

CSI_WIDTH_PX, CSI_HEIGHT_PX, CSI_FPS = 1280, 720, 30.0
RTSP_LATENCY_MS = 100
RTSP_TIMEOUT_US = 5_000_000
# Past the sink nothing waits: the newest picture replaces one that nobody took.
APPSINK = "appsink drop=true max-buffers=1 sync=false"
TO_BGR = "videoconvert ! video/x-raw,format=BGR"
# The Jetson's video hardware resizes, turns and makes BGRx; videoconvert only drops the x.
JETSON_TO_BGR = "video/x-raw,format=BGRx ! " + TO_BGR


@dataclass(frozen=True)
class Pipeline:
    """A pipeline's text, and what is set on its elements afterwards.

    Attributes:
        text: The pipeline in gst-launch's syntax. Holds no secret, unless the user wrote one.
        properties: Values by element name and property.
    """

    text: str
    properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)


def csi_pipeline(sensor: int, wish: Wish) -> Pipeline:
    """A Jetson's CSI camera through the Argus image processor, which scales to the wished size.

    Args:
        sensor: Number of the camera, from 0.
        wish: Size, rate and flip; 1280 x 720 at 30 without.

    Example:
        >>> csi_pipeline(0, Wish()).text.split(" ! ")[1]
        'video/x-raw(memory:NVMM),width=1280,height=720,format=NV12,framerate=30/1'
    """
    width_px, height_px = wish.width_px or CSI_WIDTH_PX, wish.height_px or CSI_HEIGHT_PX
    rate = Fraction(wish.fps or CSI_FPS).limit_denominator(1000)
    return Pipeline(
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width_px},"
        f"height={height_px},format=NV12,framerate={rate.numerator}/{rate.denominator} ! "
        f"nvvidconv flip-method={wish.flip} ! {JETSON_TO_BGR} ! {APPSINK}"
    )


def rtsp_pipeline(url: str, *, hardware: bool) -> Pipeline:
    """An RTSP stream of any codec; decodebin takes the decoder of the highest rank.

    On a Jetson that is nvv4l2decoder, whose pictures stay in the video hardware's memory until
    nvvidconv has made BGRx of them. Buffer mode `none` keeps the camera's own times; the default
    mixes in when packets came, which made steps of 0 to 110 ms of a stream's 40. Packets are not
    dropped for being late: that cost key frames at the start, and grey pictures until the next one.

    Args:
        url: rtsp:// or rtsps://, with its credentials percent-encoded.
        hardware: Convert with nvvidconv.
    """
    convert = f"nvvidconv ! {JETSON_TO_BGR}" if hardware else TO_BGR
    return Pipeline(
        f"rtspsrc name=source protocols=tcp latency={RTSP_LATENCY_MS} buffer-mode=none "
        f"tcp-timeout={RTSP_TIMEOUT_US} ! application/x-rtp,media=video ! decodebin ! "
        f"{convert} ! {APPSINK}",
        {"source": _rtsp_properties(url)},
    )


def user_pipeline(text: str) -> Pipeline:
    """A pipeline of the user's own; BGR and a sink are added where it has no appsink."""
    if "appsink" in text:
        return Pipeline(text)
    return Pipeline(f"{text} ! {TO_BGR} ! {APPSINK}")


def _rtsp_properties(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    location = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    found = {"location": location}
    if parts.username is not None:
        found["user-id"] = unquote(parts.username)
        found["user-pw"] = unquote(parts.password or "")
    return found
