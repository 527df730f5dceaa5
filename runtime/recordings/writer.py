"""What the recorder's thread does: JPEG, the last seconds, open recordings. It starts none."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import cv2

from runtime.actions import Action
from runtime.bundle import Bundle
from runtime.command import one_line
from runtime.decision import Decision
from runtime.events import decision_to_json
from runtime.preprocess import Picture
from runtime.recordings.facts import facts_of
from runtime.recordings.manifest import Manifest, RunFacts
from runtime.recordings.ring import FrameRing, Kept
from runtime.recordings.store import OpenRecording, RecordingStore
from runtime.segments import Tick

# What the model saw: colour at full resolution, whose halving, JPEG's default, changes one label in
# a hundred. Frames between are for people and for training clips.
USED_QUALITY = 95
SPARE_QUALITY = 85
LONGEST_S = 120.0  # who sits for hours is not filmed for hours


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame to keep.

    Attributes:
        image_rgb: The picture, shape (H, W, 3), uint8, RGB.
        time_s: Its stream time.
        tick: The tick that it served, if any.
        decision: The decision that it triggered, if any.
        lost_before: Frames to keep right before it that were lost.
    """

    image_rgb: Picture
    time_s: float
    tick: Tick | None
    decision: Decision | None
    lost_before: int = 0


@dataclass(frozen=True)
class Restart:
    """The next frame is the first of a new schedule of so many phases."""

    phases: int


@dataclass(frozen=True)
class Reported:
    """An action started or ended; `utc` is when that was known."""

    action: Action
    utc: str


Message: TypeAlias = Seen | Restart | Reported


class RecordingWriter:
    """Turns a stream's messages into recordings.

    Args:
        store: Where they go.
        bundle: The bundle in use.
        before_s: Seconds before an action's start.
        after_s: Seconds after its end was reported.
        source: Name of the source, without credentials.
        is_live: Whether it is a camera or stream.

    Attributes:
        num_whole: Recordings of this stream that are complete.
        lost_by: Why the last that was lost could not be written; empty where none was.
    """

    def __init__(
        self,
        store: RecordingStore,
        bundle: Bundle,
        *,
        before_s: float,
        after_s: float,
        source: str,
        is_live: bool,
    ) -> None:
        self.num_whole = 0
        self.lost_by = ""
        self._store = store
        self._bundle = bundle
        self._facts = facts_of(bundle, 1)  # read now: the folder may be replaced
        self._before_s = before_s
        self._after_s = after_s
        self._source = source
        self._is_live = is_live
        self._open: list[_Written] = []
        policy, sampling = bundle.operating.policy, bundle.sampling
        # an action is reported so much after its start, and a replay starts on a tick of phase 0
        late_s = policy.lag_s + policy.min_duration_s + policy.max_gap_s
        self._ring = FrameRing(before_s + late_s + 2 * sampling.spacing_s)

    def take(self, message: Message) -> None:
        """Take the next message."""
        if isinstance(message, Seen):
            self._keep(message)
        elif isinstance(message, Reported):
            self._hear(message)
        else:
            self._facts = replace(self._facts, phases=message.phases)
            self._ring.clear()
            self._finish([one for one in self._open if one.until_s is not None])

    def finish(self) -> None:
        """Complete what is open: the stream has ended."""
        self._finish(self._open)

    def _keep(self, seen: Seen) -> None:
        decision = seen.decision
        kept = Kept(
            time_s=seen.time_s,
            jpeg=_jpeg_of(seen.image_rgb, is_used=seen.tick is not None),
            tick_s=None if seen.tick is None else seen.tick.time_s,
            may_start=seen.tick is not None and seen.tick.phase == 0,
            decision=None if decision is None else decision_to_json(decision, self._bundle.labels),
            lost_before=seen.lost_before,
        )
        self._ring.add(kept)
        for one in list(self._open):
            self._add(one, kept)
            is_over = one.until_s is not None and kept.time_s >= one.until_s
            if is_over or kept.time_s - one.first_s > LONGEST_S:
                self._finish([one])

    def _hear(self, reported: Reported) -> None:
        action = reported.action
        if not action.has_ended:
            self._begin(reported)
            return
        for one in self._open:
            if one.until_s is None and one.action.label == action.label:
                one.action = action
                one.until_s = action.reported_s + self._after_s

    def _begin(self, reported: Reported) -> None:
        action = reported.action
        frames = self._ring.since(action.start_s - self._before_s)
        if not frames:  # all were lost on the way here
            self._count_lost("no frame of it could be kept in time")
            return
        try:
            files = self._store.begin(action.label)
        except OSError as err:
            self._count_lost(err.strerror or one_line(err))
            return
        written = _Written(files, action, reported.utc, self._facts)
        self._open.append(written)
        for kept in frames:
            self._add(written, kept)

    def _add(self, one: _Written, kept: Kept) -> None:
        if one not in self._open:  # it was full, or lost
            return
        try:
            has_room = one.files.add(kept.jpeg)
        except OSError as err:
            self._lose(one, err)
            return
        if has_room:
            one.note(kept)
        else:
            self._finish([one])

    def _finish(self, those: Sequence[_Written]) -> None:
        for one in list(those):
            if not one.times_s:
                self._open.remove(one)
                one.files.drop()
                self._count_lost("there is no room for a picture")
                continue
            try:
                one.files.finish(self._manifest(one))
            except OSError as err:
                self._lose(one, err)
            else:
                self._open.remove(one)
                self.num_whole += 1

    def _lose(self, one: _Written, err: OSError) -> None:
        self._open.remove(one)
        one.files.drop()
        self._count_lost(err.strerror or one_line(err))

    def _count_lost(self, reason: str) -> None:
        self.lost_by = reason
        self._store.lose(reason)

    def _manifest(self, one: _Written) -> Manifest:
        return Manifest(
            recording_id=uuid.uuid4().hex,
            source=self._source,
            is_live=self._is_live,
            utc=one.utc,
            label=one.action.label,
            start_s=one.action.start_s,
            end_s=one.action.end_s,
            peak_prob=one.action.peak_prob,
            run=one.run,
            times_s=tuple(one.times_s),
            lost_frames=one.lost_frames,
            decisions=tuple(one.decisions),
        )


@dataclass(eq=False)
class _Written:
    """A recording that is being written."""

    files: OpenRecording
    action: Action
    utc: str
    run: RunFacts
    until_s: float | None = None
    lost_frames: int = 0
    times_s: list[float] = field(default_factory=list)
    decisions: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        """Stream time of its first picture; infinite before there is one."""
        return self.times_s[0] if self.times_s else float("inf")

    def note(self, kept: Kept) -> None:
        """Note a picture that is written."""
        if self.times_s or kept.tick_s is None:
            self.times_s.append(kept.time_s)
            self.lost_frames += kept.lost_before
        else:  # a replay counts ticks from the first picture's time, so it carries its tick's
            self.times_s.append(kept.tick_s)
        if kept.decision is not None:
            self.decisions.append(kept.decision)


def _jpeg_of(image_rgb: Picture, *, is_used: bool) -> bytes:
    image = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, USED_QUALITY if is_used else SPARE_QUALITY]
    if is_used and hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):  # not in OpenCV 4.6
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image, settings)
    if not done:
        raise ValueError(f"a picture of shape {image_rgb.shape} cannot be a JPEG")
    return data.tobytes()
