"""`--record`: the frames around every action of one stream.

The recognition loop only chooses frames and hands them over; a thread turns them into JPEG, holds
the last seconds and writes. A recording begins some seconds before its action, at a frame from
which a replay meets the same ticks, and ends some seconds after the action's end was reported.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from runtime.actions import Action
from runtime.bundle import Bundle
from runtime.decision import utc_now
from runtime.errors import OutputError
from runtime.recordings.inbox import Inbox
from runtime.recordings.ring import SPARE_GAP_S
from runtime.recordings.store import RecordingStore
from runtime.recordings.writer import Message, RecordingWriter, Reported, Restart, Seen
from runtime.sampling import SamplingContract
from runtime.stepper import Moment

MORE_BEFORE_S = 2.0
AFTER_S = 1.0
CLOSE_TIMEOUT_S = 30.0
# Resets with which stream times or ticks start anew.
RESTARTS = ("start", "reconnect", "time_went_back", "scene_cut")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordSpan:
    """How much is kept around an action.

    Attributes:
        before_s: Seconds before its start, >= 0.
        after_s: Seconds after its end was reported, >= 0.
    """

    before_s: float
    after_s: float = AFTER_S

    def __post_init__(self) -> None:
        for name in ("before_s", "after_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


def default_before_s(sampling: SamplingContract) -> float:
    """What the first decision of an action averages, and two seconds more for the states.

    Example:
        >>> default_before_s(SamplingContract(num_segments=8, window_s=2.0, consensus_len=8))
        4.0
    """
    averaged_s = sampling.consensus_len * sampling.spacing_s
    return max(sampling.window_s, averaged_s) + MORE_BEFORE_S


class Recorder:
    """Records the actions of one stream.

    Args:
        store: Where recordings go; the caller closes it, after this.
        bundle: The bundle, with the window and policy in use.
        span: How much is kept around an action.
        source: Name of the source, without credentials.
        is_live: Whether it is a camera or stream.
        waits: Wait where the disk is too slow, instead of leaving frames out; for files alone.
        phases: Interleaved phases.

    Attributes:
        lost_frames: Frames that should have been kept and were not.
        failure: After `close`: why there is no recording, where there should be some; else None.
    """

    def __init__(
        self,
        store: RecordingStore,
        bundle: Bundle,
        span: RecordSpan,
        *,
        source: str,
        is_live: bool,
        waits: bool,
        phases: int,
    ) -> None:
        self.lost_frames = 0
        self.failure: OutputError | None = None
        self._store = store
        self._source = source
        self._phases = phases
        self._last_kept_s: float | None = None
        self._lost_since = 0
        self._inbox: Inbox[Message] = Inbox(waits=waits)
        self._writer = RecordingWriter(
            store,
            bundle,
            before_s=span.before_s,
            after_s=span.after_s,
            source=source,
            is_live=is_live,
        )
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def see(self, moment: Moment) -> None:
        """Take the next moment, after the actions that it ended or started were reported."""
        time_s, tick = moment.frame.stream_time_s, moment.tick
        for event in moment.events:
            if event.kind == "phase_dropped":
                self._phases = int(event.details["phases"])
        if _restarts(moment):
            self._inbox.put(Restart(self._phases))
            self._last_kept_s = None
        if tick is not None or self._is_sparse(time_s):
            self._last_kept_s = time_s
            image = moment.frame.image_rgb
            seen = Seen(image, time_s, tick, moment.decision, self._lost_since)
            if self._inbox.put(seen, image.nbytes):
                self._lost_since = 0
            else:
                self._lose_frame()

    def report(self, action: Action) -> None:
        """Take an action that started or ended."""
        self._inbox.put(Reported(action, utc_now()))

    def counts(self) -> dict[str, int]:
        """What became of all streams' recordings and of this one's frames, for the last event."""
        store = self._store.counts
        return {
            "recordings": store.written,
            "recordings_lost": store.lost,
            "recordings_removed": store.removed,
            "record_frames_lost": self.lost_frames,
        }

    def close(self) -> None:
        """Write what is open to its end; a second call does nothing."""
        self._inbox.close()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.error("the last recordings were not written within %g s", CLOSE_TIMEOUT_S)
            reason = "the disk is too slow"
        else:
            reason = self._writer.lost_by
        if reason and not self._writer.num_whole:
            self.failure = OutputError(
                f"{self._store.root}: all recordings of {self._source} are lost: {reason}; make "
                "room there, or give --record another folder"
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _is_sparse(self, time_s: float) -> bool:
        last_s = self._last_kept_s
        return last_s is None or not 0 <= time_s - last_s < SPARE_GAP_S

    def _lose_frame(self) -> None:
        self.lost_frames += 1
        self._lost_since += 1
        if self.lost_frames == 1:
            logger.warning("recording is slower than the camera: frames are left out, and counted")

    def _write(self) -> None:
        try:
            while (message := self._inbox.take()) is not None:
                self._writer.take(message)
            self._writer.finish()
        finally:
            self._inbox.close()  # a file's loop must not wait for a thread that is gone


def _restarts(moment: Moment) -> bool:
    """Whether states, ticks or stream times start anew at this frame."""
    if moment.tick is not None and moment.tick.index == 0:
        return True
    return any(e.kind == "reset" and e.details["reason"] in RESTARTS for e in moment.events)
