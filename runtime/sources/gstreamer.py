"""A GStreamer pipeline as a capture, through PyGObject.

OpenCV can open pipelines too, where it was built for it, and three things speak against it: a URL
could only be pasted into the text; it does not say why a pipeline failed; and
`pip install opencv-python` replaces it by one without GStreamer.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError, SourceLostError, SourceRefusedError
from runtime.sources.pipelines import Pipeline
from runtime.sources.redact import redact

DEVICE_TREE = Path("/proc/device-tree/compatible")
JETSON_ELEMENTS = ("nvv4l2decoder", "nvvidconv")
# h264parse stands for all of gstreamer1.0-plugins-bad: decodebin puts a parser before a decoder
RTSP_ELEMENTS = ("rtspsrc", "h264parse", *JETSON_ELEMENTS)
USB_ELEMENTS = ("v4l2src", *JETSON_ELEMENTS)
# https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvvideo4linux2.html
THOR = b"nvidia,tegra264"  # has no JPEG decoder
RELEASE_TIMEOUT_S = 2.0
MOST_STUCK = 8
BGR_CAPS = "video/x-raw,format=BGR"
HOW_TO_MEND = (
    "apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad, and make the .venv with the system's Python and "
    "--system-site-packages"
)

logger = logging.getLogger(__name__)


class GstCapture:
    """An open pipeline that keeps its newest picture.

    Args:
        pipeline: What to run.
        name: Name for people, without credentials.
        open_timeout_s: Longest wait for the first picture.
        read_timeout_s: Longest wait for each later one.

    Raises:
        SourceRefusedError: The camera refuses user or password.
        SourceLostError: It cannot be opened, and this process has too many stuck pipelines.
        SourceError: No GStreamer, a wrong pipeline, or no picture in time.
    """

    def __init__(
        self, pipeline: Pipeline, name: str, *, open_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._gst = load_gstreamer(name)
        self._name = name
        self._read_timeout_s = read_timeout_s
        self._pipeline, self._sink = self._build(pipeline)
        self._sample: Any = None
        self._end: Any = None  # the message that ended the pipeline
        self._is_fresh = False
        try:
            self._start(open_timeout_s)
        except SourceError:
            self.release()
            _end_where_stuck(name)
            raise

    def isOpened(self) -> bool:  # noqa: N802  cv2's name
        """Whether it can still give pictures."""
        return self._pipeline is not None

    def grab(self) -> bool:
        """Wait for the next picture; False where none came in time, or never will.

        Raises:
            SourceLostError: This process has too many stuck pipelines, whichever source's.
        """
        if self._pipeline is None:
            return False
        if self._is_fresh:  # the one that proved that the pipeline runs
            self._is_fresh = False
            return True
        _end_where_stuck(self._name)
        self._sample = self._pull(self._read_timeout_s)
        return self._sample is not None

    def retrieve(self) -> tuple[bool, NDArray[Any]]:
        """The picture grabbed last, (H, W, 3) uint8 BGR; False where it is incomplete."""
        if self._sample is None:
            return False, np.empty((0, 0, 3), np.uint8)
        height_px, width_px = self._size_px()
        buffer = self._sample.get_buffer()
        data = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
        stride = -(-width_px * 3 // 4) * 4  # GStreamer's rows begin at multiples of four bytes
        if len(data) < stride * height_px:
            return False, np.empty((0, 0, 3), np.uint8)
        rows = data[: stride * height_px].reshape(height_px, stride)
        return True, rows[:, : width_px * 3].reshape(height_px, width_px, 3)

    def get(self, propId: int) -> float:  # noqa: N803  cv2's name
        """Time or rate of the picture grabbed last; 0 for any other property, as cv2."""
        if self._sample is None:
            return 0.0
        if propId == cv2.CAP_PROP_POS_MSEC:
            stamp_ns = self._sample.get_buffer().pts
            return 0.0 if stamp_ns == self._gst.CLOCK_TIME_NONE else stamp_ns / 1e6
        if propId == cv2.CAP_PROP_FPS:
            known, above, below = self._structure().get_fraction("framerate")
            return above / below if known and below else 0.0
        return 0.0

    def release(self) -> None:
        """Stop the pipeline, within seconds; a second call does nothing."""
        pipeline, self._pipeline = self._pipeline, None
        self._sample = None
        if pipeline is None:
            return
        # rtspsrc of GStreamer 1.22 locks itself up when a server dies in its first pictures
        thread = _Closing(
            target=pipeline.set_state,
            args=(self._gst.State.NULL,),
            name=f"close {self._name}",
            daemon=True,
        )
        thread.start()
        thread.join(RELEASE_TIMEOUT_S)
        thread.is_overdue = thread.is_alive()
        if thread.is_overdue:
            logger.warning(
                "%s: GStreamer does not end a pipeline; left behind, %d by now",
                self._name,
                stuck_pipelines(),
            )

    def _build(self, pipeline: Pipeline) -> tuple[Any, Any]:
        try:
            built = self._gst.parse_launch(pipeline.text)
        except _glib_error() as err:
            raise SourceError(f"{self._name} cannot be opened: {redact(str(err))}") from None
        if not isinstance(built, self._gst.Pipeline):
            raise SourceError(f"{self._name} cannot be opened: a pipeline has a source and a sink")
        if pipeline.kinds:
            built.connect("deep-element-added", _set_by_kind, pipeline.kinds)
        for element, values in pipeline.properties.items():
            for key, value in values.items():
                built.get_by_name(element).set_property(key, value)
        found, sink = built.iterate_all_by_element_factory_name("appsink").next()
        if found != self._gst.IteratorResult.OK:
            raise SourceError(f"{self._name} cannot be opened: the pipeline needs an appsink")
        sink.set_property("caps", self._gst.Caps.from_string(BGR_CAPS))
        sink.set_property("drop", True)
        sink.set_property("max-buffers", 1)
        return built, sink

    def _start(self, timeout_s: float) -> None:
        state = self._gst.State
        started = self._pipeline.set_state(state.PAUSED)
        if started == self._gst.StateChangeReturn.SUCCESS or self._is_not_live(started):
            self._sink.set_property("sync", True)  # a file plays at its pace, as a camera would
        self._pipeline.set_state(state.PLAYING)
        self._sample = self._pull(timeout_s)
        self._is_fresh = self._sample is not None
        if self._sample is None:
            self._raise_reason()
            raise SourceError(
                f"{self._name} cannot be opened: no picture within {timeout_s:g} s; check address, "
                "network and codec"
            )

    def _is_not_live(self, started: Any) -> bool:
        """Wait shortly for a pipeline to pause; live ones say at once that they are live."""
        if started != self._gst.StateChangeReturn.ASYNC:
            return False
        settled, _, _ = self._pipeline.get_state(self._gst.SECOND // 2)
        return bool(settled == self._gst.StateChangeReturn.SUCCESS)

    def _pull(self, timeout_s: float) -> Any:
        """The newest sample; None after an error, the end, or the time limit.

        An error somewhere before the sink does not wake the sink, so the wait is in short pieces.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic()
            piece_ns = int(max(0.0, min(left_s, 0.1)) * 1e9)
            sample = self._sink.emit("try-pull-sample", piece_ns)
            if sample is not None or left_s <= 0 or self._has_ended():
                return sample

    def _has_ended(self) -> bool:
        if self._end is None:
            kinds = self._gst.MessageType.ERROR | self._gst.MessageType.EOS
            self._end = self._pipeline.get_bus().pop_filtered(kinds)
        return self._end is not None

    def _raise_reason(self) -> None:
        """Say why there is no picture, where the pipeline told.

        Raises:
            SourceRefusedError: The camera refuses user or password.
            SourceError: Anything else.
        """
        if not self._has_ended():
            return
        if self._end.type == self._gst.MessageType.EOS:
            raise SourceError(f"{self._name} cannot be opened: it ended before its first picture")
        error, _ = self._end.parse_error()
        refused = self._gst.ResourceError.NOT_AUTHORIZED
        if error.matches(self._gst.ResourceError.quark(), refused):
            raise SourceRefusedError(
                f"{self._name} cannot be opened: the camera refuses this user and password"
            )
        raise SourceError(f"{self._name} cannot be opened: {redact(error.message)}")

    def _structure(self) -> Any:
        return self._sample.get_caps().get_structure(0)

    def _size_px(self) -> tuple[int, int]:
        structure = self._structure()
        return int(structure.get_value("height")), int(structure.get_value("width"))


class _Closing(threading.Thread):
    """Stops a pipeline; one that is overdue and still alive hangs in GStreamer."""

    is_overdue = False


def stuck_pipelines() -> int:
    """How many pipelines of this process GStreamer could not stop, of all sources."""
    closing = [each for each in threading.enumerate() if isinstance(each, _Closing)]
    return sum(each.is_overdue for each in closing)


def _end_where_stuck(name: str) -> None:
    """End a source where a new process is due: each stuck pipeline keeps threads and memory.

    Raises:
        SourceLostError: GStreamer could not stop more than `MOST_STUCK` pipelines.
    """
    stuck = stuck_pipelines()
    if stuck > MOST_STUCK:
        raise SourceLostError(
            f"{name} is given up: GStreamer could not stop {stuck} pipelines, at most {MOST_STUCK} "
            "may be left behind, and only a new process is rid of them; start again, as the "
            "service does by itself"
        )


def _set_by_kind(_: Any, __: Any, element: Any, kinds: Mapping[str, Mapping[str, Any]]) -> None:
    """Set properties of an element that decodebin chose, those that it has."""
    factory = element.get_factory()
    for key, value in kinds.get(factory.get_name() if factory else "", {}).items():
        if element.find_property(key) is not None:
            element.set_property(key, value)


def load_gstreamer(name: str) -> Any:
    """GStreamer's Python module, initialised.

    Args:
        name: What needs it, for the message.

    Raises:
        SourceError: It is not installed here; the message says how to install it.
    """
    try:
        return _gstreamer()
    except (ImportError, ValueError) as err:
        raise SourceError(f"{name} needs GStreamer in Python ({err}): {HOW_TO_MEND}") from err


def check_gstreamer(name: str) -> None:
    """Refuse early where GStreamer's Python is missing, without loading GStreamer.

    Args:
        name: What needs it, for the message.

    Raises:
        SourceError: It is not installed here; the message says how to install it.
    """
    if sys.modules.get("gi", ...) is None or not _is_there("gi"):
        raise SourceError(f"{name} needs GStreamer in Python (no module gi): {HOW_TO_MEND}")


def _is_there(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def has_jetson_decoder(
    codec: str = "RTSP",
    elements: tuple[str, ...] = RTSP_ELEMENTS,
    device_tree: Path = DEVICE_TREE,
) -> bool:
    """Whether this is a Jetson whose GStreamer can decode in hardware; says once what it lacks.

    Nothing is imported on other machines.

    Args:
        codec: What is to be decoded, for the log.
        elements: What that takes.
        device_tree: The file that names the board.
    """
    if b"nvidia,tegra" not in _board(device_tree):
        return False
    lack = _lack(elements)
    if lack:
        warn_once(f"this Jetson decodes {codec} on the CPU, because {lack}: {HOW_TO_MEND}")
    return not lack


def has_jetson_jpeg_decoder(device_tree: Path = DEVICE_TREE) -> bool:
    """The same for a USB camera's Motion-JPEG, which a Thor has no decoder for."""
    if THOR in _board(device_tree):
        return False
    return has_jetson_decoder("Motion-JPEG", USB_ELEMENTS, device_tree)


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning, the first time in this process: cameras are opened again and again."""
    logger.warning("%s", text)


def _board(device_tree: Path) -> bytes:
    try:
        return device_tree.read_bytes()
    except OSError:
        return b""


def _lack(elements: tuple[str, ...]) -> str:
    """What GStreamer lacks, in words; empty where it lacks nothing."""
    try:
        _gstreamer()
    except (ImportError, ValueError) as err:
        return f"there is no GStreamer in Python ({err})"
    missing = missing_elements(elements)
    return f"its GStreamer has no {' and no '.join(missing)}" if missing else ""


def missing_elements(names: tuple[str, ...]) -> list[str]:
    """Those elements that this GStreamer does not have; all of them without GStreamer."""
    try:
        gst = _gstreamer()
    except (ImportError, ValueError):
        return list(names)
    return [name for name in names if gst.ElementFactory.find(name) is None]


@functools.cache
def _gstreamer() -> Any:
    _keep_exceptions_whole()
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    Gst.init(None)
    return Gst


def _keep_exceptions_whole() -> None:
    """Let C++ libraries that come later find GCC's unwinder before GStreamer's.

    Debian's GStreamer brings libunwind, whose _Unwind_Resume is then everybody's: a C++ exception
    that OpenVINO throws and catches by itself ended the process.
    """
    with contextlib.suppress(OSError):  # another compiler's system has no libgcc
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


def _glib_error() -> type[Exception]:
    from gi.repository import GLib

    error: type[Exception] = GLib.Error
    return error
