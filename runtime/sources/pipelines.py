"""GStreamer pipelines as text. Only numbers and our own words are ever put into one.

A URL or password never is: it could close its quotes and start elements of its own, and it would
be printed with the pipeline's errors. It is a property, set on the element after parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from runtime.sources.uri import Wish

CSI_WIDTH_PX, CSI_HEIGHT_PX, CSI_FPS = 1280, 720, 30.0
# what OpenCV asks a camera for by itself; v4l2src would take the largest
USB_WIDTH_PX, USB_HEIGHT_PX, USB_FPS = 640, 480, 30
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
        kinds: Values by kind of element and property, for those that decodebin puts in; a
            property that such an element does not have is left out.
    """

    text: str
    properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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
    return Pipeline(
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width_px},"
        f"height={height_px},format=NV12,framerate={_rate(wish.fps or CSI_FPS)} ! "
        f"nvvidconv flip-method={wish.flip} ! {JETSON_TO_BGR} ! {APPSINK}"
    )


def usb_pipeline(device: str, wish: Wish) -> Pipeline:
    """A USB camera's Motion-JPEG through a Jetson's JPEG decoder.

    Args:
        device: The device file.
        wish: A size and rate that the camera has; 640 x 480 and at most 30 without.

    Example:
        >>> usb_pipeline("/dev/video0", Wish(1280, 720, 30)).text.split(" ! ")[1]
        'image/jpeg,width=1280,height=720,framerate=30/1'
    """
    width_px, height_px = wish.width_px or USB_WIDTH_PX, wish.height_px or USB_HEIGHT_PX
    rate = _rate(wish.fps) if wish.fps else f"(fraction)[1/1,{USB_FPS}/1]"
    return Pipeline(
        f"v4l2src name=source io-mode=2 ! image/jpeg,width={width_px},height={height_px},"
        f"framerate={rate} ! nvv4l2decoder mjpeg=1 ! nvvidconv ! {JETSON_TO_BGR} ! {APPSINK}",
        {"source": {"device": device}},
    )


def rtsp_pipeline(url: str, *, hardware: bool) -> Pipeline:
    """An RTSP stream of any codec; decodebin takes the decoder of the highest rank.

    On a Jetson that is nvv4l2decoder, whose pictures stay in the video hardware's memory until
    nvvidconv has made BGRx of them. Buffer mode `none` keeps the camera's own times; the default
    mixes in when packets came, which made steps of 0 to 110 ms of a stream's 40. Packets are not
    dropped for being late: that cost key frames at the start, and grey pictures until the next one.
    The hardware decoder keeps its highest clock, because a live picture is worth most at once.

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
        {"nvv4l2decoder": {"enable-max-performance": True}} if hardware else {},
    )


def user_pipeline(text: str) -> Pipeline:
    """A pipeline of the user's own; BGR and a sink are added where it has no appsink."""
    if "appsink" in text:
        return Pipeline(text)
    return Pipeline(f"{text} ! {TO_BGR} ! {APPSINK}")


def _rate(fps: float) -> str:
    rate = Fraction(fps).limit_denominator(1000)
    return f"{rate.numerator}/{rate.denominator}"


def _rtsp_properties(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    location = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    found = {"location": location}
    if parts.username is not None:
        found["user-id"] = unquote(parts.username)
        found["user-pw"] = unquote(parts.password or "")
    return found
