"""What recording does, frame by frame and key by key: no camera, no window, no file.

    ready ── record ─▶ countdown ─▶ recording ─▶ ready, with a take
      └──── review ─▶ review ── any key ─▶ ready

All times are stream times, so a recorder does the same with a camera and with a file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Literal, TypeAlias

from runtime.preprocess import Picture
from runtime.sources.frame import Frame

Action: TypeAlias = Literal["record", "next", "previous", "review", "delete", "quit"]
Request: TypeAlias = Literal["review", "delete", "quit"]
State: TypeAlias = Literal["ready", "countdown", "recording", "review"]

MIN_FRAMES = 8  # what the shipped recipes take of a clip
MAX_CLIP_BYTES = 2 << 30  # a take is in memory until it is whole
TOLERANCE_S = 1e-3  # containers round times to milliseconds
# A gap longer than both counts as a stall: the clip would not show what happened in it.
STALL_S = 0.5
STALL_FACTOR = 4.0
GAP_MEMORY = 30


@dataclass(frozen=True, eq=False)
class Take:
    """A clip as it was recorded.

    Attributes:
        label: Its class.
        pictures: S pictures, each (H, W, 3), uint8, RGB.
        times_s: Their S stream times, seconds, ascending.
    """

    label: str
    pictures: tuple[Picture, ...]
    times_s: tuple[float, ...]

    @property
    def fps(self) -> Fraction:
        """Frames a second, measured."""
        rate = (len(self.times_s) - 1) / (self.times_s[-1] - self.times_s[0])
        return Fraction(rate).limit_denominator(1000)


@dataclass(frozen=True)
class Discarded:
    """A recording that was thrown away.

    Attributes:
        reason: Why, for people.
        is_lasting: Whether the next try would end alike.
    """

    reason: str
    is_lasting: bool = False


@dataclass(frozen=True)
class View:
    """What is to be seen beside the picture.

    Attributes:
        labels: The classes.
        counts: Number of clips of each.
        current: Place of the current class.
        state: What the recorder does.
        share: How far countdown or recording are, 0..1.
        left: Seconds that the countdown still shows.
        message: What happened last.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    current: int
    state: State
    share: float
    left: int
    message: str


class Recorder:
    """Turns frames and keys into takes.

    Args:
        labels: The classes.
        counts: Clips of each that are there already.
        seconds: Length of a clip, > 0.
        countdown_s: Seconds between the key and the first frame, >= 0.

    Raises:
        ValueError: A length that is no such number.
    """

    def __init__(
        self,
        labels: Sequence[str],
        counts: Mapping[str, int],
        *,
        seconds: float,
        countdown_s: float,
    ) -> None:
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"seconds must be > 0, got {seconds}")
        if not (math.isfinite(countdown_s) and countdown_s >= 0):
            raise ValueError(f"countdown_s must be >= 0, got {countdown_s}")
        self.state: State = "ready"
        self._labels = tuple(labels)
        self._counts = dict(counts)
        self._seconds = seconds
        self._countdown_s = countdown_s
        self._current = 0
        self._message = ""
        self._frame: Frame | None = None
        self._start_s: float | None = None  # of countdown, recording or review; the next frame's
        self._kept: list[Frame] = []
        self._gaps_s: deque[float] = deque(maxlen=GAP_MEMORY)
        self._replay: tuple[Sequence[Picture], Sequence[float]] = ((), ())

    @property
    def label(self) -> str:
        """The current class."""
        return self._labels[self._current]

    def press(self, action: Action) -> Request | None:
        """Take a key.

        Returns:
            What the caller has to do: read the last clip and `replay` it, delete it, or end.
        """
        if action == "quit":
            return "quit"
        if self.state in ("countdown", "recording"):
            if action == "delete":
                self._become("ready")
                self.say("recording thrown away")
            return None  # a held space bar repeats, and the class is not changed under a clip
        was_review = self.state == "review"
        self._become("ready")
        if action == "record":
            self._become("countdown")
        elif action == "delete":
            return "delete"
        elif action == "review":
            return None if was_review else "review"
        else:
            step = 1 if action == "next" else -1
            self._current = (self._current + step) % len(self._labels)
        return None

    def see(self, frame: Frame) -> Take | Discarded | None:
        """Take a frame.

        Returns:
            The take that it completed, or why a recording ended without one.
        """
        before, self._frame = self._frame, frame
        fault = None if before is None else self._fault(before, frame)
        if fault is not None and self.state in ("countdown", "recording"):
            return self._discard(fault)
        if fault is not None or self._start_s is None:
            self._start_s = frame.stream_time_s
        if self.state == "countdown" and self._elapsed_s() >= self._countdown_s - TOLERANCE_S:
            self._become("recording")
            self._start_s = frame.stream_time_s
        return self._record(frame) if self.state == "recording" else None

    def replay(self, pictures: Sequence[Picture], times_s: Sequence[float]) -> None:
        """Show a clip in a loop until a key is pressed.

        Args:
            pictures: S pictures, each (H, W, 3), uint8, RGB.
            times_s: Their S times, seconds, ascending.
        """
        self._become("review")
        self._replay = (pictures, times_s)

    def count(self, label: str, change: int) -> None:
        """Note that a clip was written (+1) or deleted (-1)."""
        self._counts[label] += change

    def say(self, message: str) -> None:
        """Set the message on the picture."""
        self._message = message

    def view(self) -> View:
        """What is to be seen beside the picture."""
        share, left = 0.0, 0
        if self.state == "countdown":
            left_s = max(0.0, self._countdown_s - self._elapsed_s())
            left = math.ceil(left_s - TOLERANCE_S)
            share = 1 - left_s / self._countdown_s if self._countdown_s else 1.0
        elif self.state == "recording":
            share = min(1.0, self._elapsed_s() / self._seconds)
        counts = tuple(self._counts[label] for label in self._labels)
        return View(self._labels, counts, self._current, self.state, share, left, self._message)

    def picture(self) -> Picture:
        """The picture to show: the newest frame, or the clip that is replayed.

        Raises:
            ValueError: No frame came yet.
        """
        if self._frame is None:
            raise ValueError("no frame to show; see() one first")
        if self.state != "review":
            return self._frame.image_rgb
        pictures, times_s = self._replay
        length_s = (times_s[-1] - times_s[0]) * len(times_s) / max(1, len(times_s) - 1)
        place_s = times_s[0] + (self._elapsed_s() % length_s if length_s else 0.0)
        shown = [i for i, time_s in enumerate(times_s) if time_s <= place_s + TOLERANCE_S]
        return pictures[shown[-1]]

    def _record(self, frame: Frame) -> Take | Discarded | None:
        self._kept.append(frame)
        number = len(self._kept)
        if number * frame.image_rgb.nbytes > MAX_CLIP_BYTES:
            return self._discard(
                f"{number} frames of {frame.image_rgb.shape[1]}×{frame.image_rgb.shape[0]} are "
                f"more than {MAX_CLIP_BYTES >> 30} GiB of memory; take shorter --seconds",
                is_lasting=True,
            )
        # the last frame lasts as long as the others, so no later one is waited for
        if number < 2 or self._elapsed_s() * number / (number - 1) < self._seconds - TOLERANCE_S:
            return None
        if number < MIN_FRAMES:
            return self._discard(
                f"the clip has {number} frames in {self._seconds:g} s, at least {MIN_FRAMES} are "
                "needed; take longer --seconds or a faster camera mode",
                is_lasting=True,
            )
        take = Take(
            self.label,
            tuple(kept.image_rgb for kept in self._kept),
            tuple(kept.stream_time_s for kept in self._kept),
        )
        self._become("ready")
        return take

    def _fault(self, before: Frame, frame: Frame) -> str | None:
        """Why two frames are not neighbours in one recording; None where they are."""
        if frame.connection != before.connection:
            self._gaps_s.clear()
            return "the camera was lost and is back"
        gap_s = frame.stream_time_s - before.stream_time_s
        if gap_s <= 0:
            return f"the camera's time jumped back by {-gap_s:.2f} s"
        if frame.image_rgb.shape != before.image_rgb.shape:
            return "the camera changed its picture size"
        usual_s = median(self._gaps_s) if self._gaps_s else 0.0
        self._gaps_s.append(gap_s)
        if self.state == "recording" and gap_s > max(STALL_S, STALL_FACTOR * usual_s):
            return f"the camera stalled for {gap_s:.1f} s"
        return None

    def _discard(self, reason: str, *, is_lasting: bool = False) -> Discarded:
        self._become("ready")
        self.say(f"thrown away: {reason}")
        return Discarded(reason, is_lasting)

    def _become(self, state: State) -> None:
        self.state = state
        self._start_s = None
        self._kept = []
        self._replay = ((), ())

    def _elapsed_s(self) -> float:
        """Seconds since countdown, recording or review began."""
        if self._frame is None or self._start_s is None:
            return 0.0
        return self._frame.stream_time_s - self._start_s
