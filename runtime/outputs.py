"""Where a run's moments go: event log, annotated video, window, and the log's own lines."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from runtime.actions import Action, ActionTracker
from runtime.bundle import Bundle
from runtime.command import one_line
from runtime.decision import Decision, utc_now
from runtime.errors import OutputError
from runtime.event_log import EventLog
from runtime.events import Event, decision_to_json
from runtime.overlay import annotate
from runtime.policy import Rules
from runtime.recordings.recorder import Recorder
from runtime.segments import LONGEST_GAP
from runtime.sources.frame import Frame
from runtime.stepper import Moment
from runtime.timeline import Timeline
from runtime.video import VideoWriter
from runtime.web.board import StreamBoard
from runtime.webhook import Webhook
from runtime.window import Window

FPS_MEMORY = 0.9
SILENCE_S = 5.0  # a camera that comes back sooner may go on with its action

logger = logging.getLogger(__name__)


class Outputs:
    """Everything that a moment is shown or written to.

    Args:
        bundle: Labels and picture rule.
        source: Name of the source, without credentials.
        fps: Frames a second of the video; the writer's default where it is None.
        board: What a page shows of this stream; None without a page.
        webhook: Takes action events too; the caller opens and closes it.
        video: Annotated video; None for none.
        headless: No window.

    Attributes:
        prefix: Begins each line for people: which of several streams it is about.

    Raises:
        OutputError: No display.
        OSError: A file or its folder cannot be written.
        ValueError: A video name with an unknown suffix.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: str,
        *,
        fps: float | None = None,
        webhook: Webhook | None = None,
        board: StreamBoard | None = None,
        video: Path | None = None,
        headless: bool = True,
    ) -> None:
        self.prefix = ""
        self._video_failure: OutputError | OSError | None = None
        self._log_failure: OutputError | None = None
        self._has_finished = False
        self._bundle = bundle
        self._source = source
        self._actions = ActionTracker(Rules.of(bundle.operating.policy, bundle.labels))
        self._webhook = webhook
        self._board = board
        self._meter = FpsMeter()
        spacing_s = bundle.sampling.spacing_s
        self._silence_ns = 1e9 * max(SILENCE_S, LONGEST_GAP * spacing_s)
        self._latest: Decision | None = None
        self._timeline = Timeline()
        with ExitStack() as opened:
            self._window = None if headless else opened.enter_context(Window(f"TDRL {source}"))
            self._video = (
                None if video is None else opened.enter_context(VideoWriter(video, fps=fps))
            )
            self._opened = opened.pop_all()
        self._log: EventLog | None = None
        self._recorder: Recorder | None = None
        self._lock = threading.RLock()
        self._last_ns: int | None = None
        if board is not None:
            board.count_outputs(self.counts)

    def record_to(self, recorder: Recorder) -> None:
        """Keep frames around actions from now on; the caller opens it, `finish` closes it."""
        self._recorder = recorder

    def log_to(self, log: EventLog) -> None:
        """Write events there from now on, beside other streams; the caller opens and closes it."""
        self._log = log
        log.join()

    @property
    def failure(self) -> OutputError | OSError | None:
        """What was lost though the stream went on; complete after `finish`.

        The video, the last event lines or all recordings: the first of them; None where none is.
        """
        recorder_failure = None if self._recorder is None else self._recorder.failure
        return self._video_failure or self._log_failure or recorder_failure

    def show(self, moment: Moment) -> bool:
        """Pass a moment on. A video that cannot be written is told once and left out from then on.

        Returns:
            False when the user closed the window.

        Raises:
            OutputError: The window failed.
        """
        with self._lock:
            self._last_ns = moment.frame.grabbed_ns
            if self._board is not None:
                self._board.see(moment)
            for event in moment.events:
                self._note(event)
            if moment.decision is not None:
                self._decide(moment.decision)
            if self._recorder is not None:  # after the actions that this moment ended or started
                self._recorder.see(moment)
        return self._draw(moment.frame)

    def note(self, kind: str, **details: Any) -> None:
        """Write an event of the run itself, which has no frame."""
        with self._lock:
            self._write_event(kind, None, details)

    def end_if_silent(self, now_ns: int) -> None:
        """End the action of a camera that gives no frames: nobody knows whether it goes on.

        Safe from another thread.

        Args:
            now_ns: Monotonic clock.
        """
        with self._lock:
            if self._last_ns is not None and now_ns - self._last_ns > self._silence_ns:
                self._end_actions()

    def finish(self) -> None:
        """Write the action that is still going on, and complete the video."""
        with self._lock:
            self._end_actions()
        if self._recorder is not None:
            self._recorder.close()
        video, self._video = self._video, None
        if video is not None:
            try:
                video.close()
            except (OutputError, OSError) as err:
                self._lose_video(err)
        if self._log is not None and not self._has_finished:
            self._log_failure = self._log.leave()
        self._has_finished = True

    def counts(self) -> dict[str, int]:
        """What became of the lines and posts, for those outputs that there are."""
        found: dict[str, int] = {}
        if self._log is not None:
            found["lines_lost"] = self._log.lost
        if self._webhook is not None:
            counts = self._webhook.counts
            found["webhook_sent"], found["webhook_dropped"] = counts.sent, counts.dropped
        if self._recorder is not None:
            found |= self._recorder.counts()
        return found

    def close(self) -> None:
        """Finish and close all files; a second call does nothing."""
        self._opened.close()

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _note(self, event: Event) -> None:
        if event.kind == "reset":
            self._end_actions()
            logger.info("%sstates start from zero: %s", self.prefix, event.details["reason"])
        record = event.to_json()
        if self._log is not None:
            self._log.write(record)
        if self._board is not None:
            self._board.note(record)

    def _decide(self, decision: Decision) -> None:
        self._latest = decision
        self._timeline.see(decision)
        for action in self._actions.see(decision):
            self._report(action)
        if self._log is not None:
            self._log.write(decision_to_json(decision, self._bundle.labels))

    def _end_actions(self) -> None:
        for action in self._actions.finish():
            self._report(action)

    def _report(self, action: Action) -> None:
        kind = "action" if action.has_ended else "action_start"
        record = self._write_event(kind, action.reported_s, action.to_json())
        if self._webhook is not None:
            self._webhook.send(record)
        if self._recorder is not None:
            self._recorder.report(action)
        if action.end_s is None:
            logger.info(
                "%s%8.2f s  %s  %.0f %%",
                self.prefix,
                action.start_s,
                action.label,
                100 * action.peak_prob,
            )
        else:
            logger.debug("%s%8.2f s  %s ended", self.prefix, action.end_s, action.label)

    def _write_event(
        self, kind: str, stream_time_s: float | None, details: dict[str, Any]
    ) -> dict[str, Any]:
        event = Event(
            kind=kind,
            source=self._source,
            stream_time_s=None if stream_time_s is None else round(stream_time_s, 6),
            monotonic_ns=time.monotonic_ns(),
            utc=utc_now(),
            details=details,
        )
        record = event.to_json()
        if self._log is not None:
            self._log.write(record)
        if self._board is not None:
            self._board.note(record)
        return record

    def _draw(self, frame: Frame) -> bool:
        fps = self._meter.tick(frame.grabbed_ns)
        if self._video is None and self._window is None:
            return True
        picture = annotate(
            frame.image_rgb,
            self._latest,
            self._bundle.labels,
            self._bundle.picture,
            fps,
            self._timeline,
        )
        if self._video is not None:
            try:
                self._video.write(picture, frame.stream_time_s)
            except (OutputError, OSError) as err:
                self._lose_video(err, "; the stream goes on without it")
        return self._window is None or self._window.show(picture)

    def _lose_video(self, err: OutputError | OSError, then: str = "") -> None:
        self._video, self._video_failure = None, err
        message = one_line(err)
        logger.error("%svideo lost: %s%s", self.prefix, message, then)
        self.note("video_lost", message=message)


class FpsMeter:
    """Frames a second, smoothed.

    Example:
        >>> meter = FpsMeter()
        >>> meter.tick(0), meter.tick(40_000_000)
        (None, 25.0)
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._interval_ns: float | None = None

    def tick(self, grabbed_ns: int) -> float | None:
        """Count a frame; the rate so far, None before the second frame."""
        last_ns, self._last_ns = self._last_ns, grabbed_ns
        if last_ns is None or grabbed_ns <= last_ns:
            return None
        interval_ns = float(grabbed_ns - last_ns)
        if self._interval_ns is not None:
            interval_ns = FPS_MEMORY * self._interval_ns + (1 - FPS_MEMORY) * interval_ns
        self._interval_ns = interval_ns
        return 1e9 / interval_ns
