"""A camera or network stream: the newest frame wins, and a lost connection comes back.

One thread reads for each source, because a consumer slower than the camera would otherwise fall
seconds behind: FFmpeg keeps every frame it received. The thread keeps one frame, the newest, and
counts those that nobody took. Only what FFmpeg received while it opened an RTSP stream, a second or
more, is handed over frame by frame: the window is full that much sooner.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
from numpy.typing import NDArray

from runtime.backoff import backoff_s
from runtime.errors import SourceError, SourceLostError, SourceRefusedError
from runtime.sources.bgr_frame import frame_from_bgr
from runtime.sources.capture import (
    READ_TIMEOUT_S,
    RTSP_SCHEMES,
    Capture,
    nominal_fps,
    open_capture,
)
from runtime.sources.clock import DEFAULT_FPS, LiveClock
from runtime.sources.frame import Frame, SourceCounts
from runtime.sources.uri import SourceUri

POLL_S = 0.1
# Longest wait for the reading thread: within an attempt to open, for which there is no way back.
CLOSE_TIMEOUT_S = 10.0
# So many pictures in a row, each failing within the time, may be damaged.
DAMAGED_IN_A_ROW = 3
DAMAGED_S = 0.5
OVERDUE_SHARE = 0.95  # of the time limit: it is kept to a few milliseconds
# A new connection's frames that were there already; after that the newest wins, whatever is left.
CATCH_UP_S = 2.0
ARRIVED_SHARE = 0.5  # of a frame interval: a grab this long waited for its frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReconnectRule:
    """How to come back after a loss: waits double from first to last, each with jitter.

    Attributes:
        first_wait_s: Wait before the first attempt.
        last_wait_s: The longest wait.
        refused_wait_s: The wait after a refused password, because cameras lock accounts.
        give_up_after_s: Seconds without success until the source counts as lost for good.
    """

    first_wait_s: float = 0.25
    last_wait_s: float = 5.0
    refused_wait_s: float = 60.0
    give_up_after_s: float = math.inf

    def wait_s(self, attempt: int) -> float:
        """Wait before an attempt, 0 the first; see `backoff_s`."""
        return backoff_s(attempt, self.first_wait_s, self.last_wait_s)


@dataclass(frozen=True, eq=False)
class _Grabbed:
    """A frame as the reading thread hands it over, still BGR."""

    image_bgr: NDArray[Any]
    index: int
    stream_time_s: float
    grabbed_ns: int
    connection: int


class LiveSource:
    """Reads a camera or network stream on its own thread.

    Args:
        uri: The camera or stream.
        reconnect: How to come back after a loss; for ever by default.
        wait: Do not fail where it cannot be opened yet: the thread tries until it can.
        opener: Opens a capture; replaced in tests that inject a failure.

    Attributes:
        fps: Frames a second that the connection states; None before the first, or unstated.

    Raises:
        SourceError: It cannot be opened, or gives no first frame; not with `wait`.
    """

    is_live = True

    def __init__(
        self,
        uri: SourceUri,
        *,
        reconnect: ReconnectRule | None = None,
        wait: bool = False,
        opener: Callable[[SourceUri], Capture] = open_capture,
    ) -> None:
        self.name = uri.name
        self._uri = uri
        self._rule = reconnect or ReconnectRule()
        self._opener = opener
        self._slot = _Slot()
        self._stopped = False
        self._failure: SourceLostError | None = None
        self._captured = 0
        self._reconnects = 0
        self._attempts = 0
        self._reasons: set[str] = set()
        # Timestamps of RTSP mean something. Cameras and MJPEG over HTTP get made-up ones, counted
        # from a frame rate that nobody keeps.
        self._is_timed = uri.target.lower().startswith(RTSP_SCHEMES)
        self._origin_ns = time.monotonic_ns()
        self.fps: float | None = None
        self._capture: Capture | None = None
        if not wait:
            self._slot.put(self._connect())
        self._thread = threading.Thread(target=self._run, name=f"read {self.name}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> SourceCounts:
        """Frames captured, dropped, reconnects and attempts to reconnect so far."""
        return SourceCounts(self._captured, self._slot.dropped, self._reconnects, self._attempts)

    def __iter__(self) -> Iterator[Frame]:
        """Give the newest frame each time one is asked for; waits for it.

        Raises:
            SourceLostError: The source did not come back within the reconnect rule's limit.
        """
        while not self._stopped:
            grabbed = self._slot.take(POLL_S)
            if grabbed is not None:
                yield frame_from_bgr(
                    grabbed.image_bgr,
                    grabbed.index,
                    grabbed.stream_time_s,
                    grabbed.grabbed_ns,
                    grabbed.connection,
                )
            elif not self._thread.is_alive() and not self._stopped:
                raise self._failure or SourceLostError(f"reading {self.name} failed; see the log")

    def stop(self) -> None:
        """Make the iteration end within a tenth of a second; safe in a signal handler."""
        self._stopped = True

    def close(self) -> None:
        """Stop the reading thread, which then frees the device."""
        self._stopped = True
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("%s still waits for a frame; leaving it behind", self.name)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self) -> None:
        """The reading thread: read until it fails, open again, read on."""
        try:
            while not self._stopped:
                grabbed = None if self._capture is None else self._grab(self._capture)
                if grabbed is None:
                    self._release()
                    grabbed = self._reopen()
                if grabbed is not None:
                    self._await_consumer()
                    self._slot.put(grabbed)
        except SourceLostError as err:
            self._failure = err
        finally:
            self._release()

    def _connect(self) -> _Grabbed:
        """Open the source and take its first frame.

        Raises:
            SourceError: It cannot be opened, or gives no frame.
        """
        capture = self._capture = self._opener(self._uri)
        self.fps = nominal_fps(capture)
        self._clock = LiveClock(self.fps or DEFAULT_FPS)
        # the frames of other sources get the time at which they are grabbed
        self._catch_up_until_s = time.monotonic() + CATCH_UP_S if self._is_timed else 0.0
        grabbed = self._grab(capture)
        if grabbed is None:
            self._release()
            raise SourceError(f"{self.name} opened but gave no frame; is another program using it?")
        return grabbed

    def _await_consumer(self) -> None:
        """Wait until the last frame was taken, while a connection gives what it held ready."""
        while not self._stopped and time.monotonic() < self._catch_up_until_s:
            if self._slot.await_empty(POLL_S):
                break

    def _release(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _grab(self, capture: Capture) -> _Grabbed | None:
        """Grab and decode one frame; None when the source has none to give.

        A damaged picture fails at once and the next one is fine, so a few are passed over; a dead
        connection fails at once too, and goes on failing; a silent one takes its time.
        """
        for _ in range(DAMAGED_IN_A_ROW):
            began_s = time.monotonic()
            grabbed = self._grab_once(capture)
            if grabbed is not None or self._stopped or time.monotonic() - began_s > DAMAGED_S:
                return grabbed
        return None

    def _grab_once(self, capture: Capture) -> _Grabbed | None:
        began_s = time.monotonic()
        try:
            # After its time limit FFmpeg first gives the pictures that its decoder held back, each
            # after another wait as long; they are old, and the connection is dead.
            if not capture.grab() or time.monotonic() - began_s > OVERDUE_SHARE * READ_TIMEOUT_S:
                return None
            if time.monotonic() - began_s > ARRIVED_SHARE / (self.fps or DEFAULT_FPS):
                self._catch_up_until_s = 0.0
            grabbed_ns = time.monotonic_ns()
            decoded, image = capture.retrieve()
        except cv2.error as err:
            logger.warning("%s failed to read: %s", self.name, type(err).__name__)
            return None
        if not decoded:
            return None
        time_s = self._time_of(capture, grabbed_ns)
        self._captured += 1
        return _Grabbed(image, self._captured - 1, time_s, grabbed_ns, self._reconnects)

    def _time_of(self, capture: Capture, grabbed_ns: int) -> float:
        """Stream time of the frame just grabbed."""
        if self._is_timed:
            return self._clock.time_of(capture.get(cv2.CAP_PROP_POS_MSEC), grabbed_ns)
        return (grabbed_ns - self._origin_ns) / 1e9

    def _reopen(self) -> _Grabbed | None:
        """Open the source again, or for the first time, for as long as the rule allows.

        Returns:
            The first frame after the loss; None when the source was stopped meanwhile.

        Raises:
            SourceLostError: It did not come back in time, or cannot within this process.
        """
        lost_s = time.monotonic()
        was_there = self._captured > 0
        if was_there:
            logger.warning(
                "%s was lost after %d frames; connecting again", self.name, self._captured
            )
        wait_s = 0.0
        for attempt in itertools.count():
            self._nap(max(wait_s, self._rule.wait_s(attempt)))
            if self._stopped:
                break
            grabbed, wait_s = self._try_open()
            away_s = time.monotonic() - lost_s
            if grabbed is not None:
                news = "is back" if was_there else "is there"
                logger.warning("%s %s after %.1f s", self.name, news, away_s)
                return grabbed
            if away_s > self._rule.give_up_after_s:
                raise SourceLostError(
                    f"{self.name} was lost and did not come back within "
                    f"{self._rule.give_up_after_s:g} s; check power and network"
                )
        return None

    def _try_open(self) -> tuple[_Grabbed | None, float]:
        """One attempt.

        Returns:
            The first frame of the new connection, and the least wait before the next attempt.

        Raises:
            SourceLostError: Only a new process helps.
        """
        self._attempts += 1
        before = self._captured
        try:
            grabbed = self._connect()
        except SourceLostError:  # only a new process helps
            raise
        except SourceError as err:
            if str(err) not in self._reasons:  # each reason once, not at every attempt
                self._reasons.add(str(err))
                logger.warning("%s; trying on", err)
            is_refused = isinstance(err, SourceRefusedError)
            return None, self._rule.refused_wait_s if is_refused else 0.0
        self._reasons.clear()
        self._reconnects += before > 0
        return replace(grabbed, connection=self._reconnects), 0.0

    def _nap(self, wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        while not self._stopped and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))


class _Slot:
    """Hands the newest frame from the reading thread to the consumer."""

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._newest: _Grabbed | None = None

    def put(self, grabbed: _Grabbed) -> None:
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = grabbed
            self._changed.notify_all()

    def take(self, timeout_s: float) -> _Grabbed | None:
        """The newest frame not taken yet; None where none came in time."""
        with self._changed:
            if self._newest is None:
                self._changed.wait(timeout_s)
            grabbed, self._newest = self._newest, None
            self._changed.notify_all()
            return grabbed

    def await_empty(self, timeout_s: float) -> bool:
        """Whether the newest frame was taken, within a time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest is None, timeout_s)
