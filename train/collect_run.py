"""One session of `train.collect`: frames to the recorder, takes to the folder, keys to both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from runtime.command import say
from runtime.errors import DataError, SourceError, SourceLostError
from runtime.preprocess import Picture
from runtime.sources.frame import FrameSource
from runtime.window import ESCAPE
from train.collect_folder import ClipFolder, delete_clip
from train.collect_overlay import draw
from train.collect_recorder import Action, Discarded, Recorder, Take, View
from train.data.video_file import read_video

MAX_TRIES = 3  # of one clip in a row, headless
ACTIONS: dict[int, Action] = {
    ord(" "): "record",
    ord("n"): "next",
    ord("p"): "previous",
    ord("r"): "review",
    ord("d"): "delete",
    ord("q"): "quit",
    ESCAPE: "quit",
}
KEY_HELP = """\
keys in the window:
  space   countdown, then record one clip
  n  p    next class, previous class
  r       review: the last clip in a loop; any key ends it
  d       delete the last clip of this run; while recording: throw it away
  q  Esc  end
"""


class KeyWindow(Protocol):
    """The part of `runtime.window.Window` that is used here."""

    def key_after(self, image_rgb: Picture) -> int | None:
        """Show a picture and read a key."""
        ...

    def __enter__(self) -> Any:
        """Return the window itself."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        ...


class CollectRun:
    """Records until the user, the schedule or the camera ends it.

    Args:
        folder: Where clips go.
        recorder: What frames and keys go to.
        source: The open camera.

    Attributes:
        made: Clips of this run that are there, oldest first.
    """

    def __init__(self, folder: ClipFolder, recorder: Recorder, source: FrameSource) -> None:
        self.made: list[Path] = []
        self._folder = folder
        self._recorder = recorder
        self._source = source

    def by_keys(self, window: KeyWindow, signals: Sequence[int]) -> None:
        """Show every frame and do what the keys say, until the user ends it.

        Raises:
            SourceLostError: The source ended first.
            OutputError: A clip cannot be written.
        """
        recorder = self._recorder
        say(KEY_HELP)
        for frame in self._source:
            event = recorder.see(frame)
            keys = []
            if isinstance(event, Take):
                recorder.say("saving ...")
                keys.append(window.key_after(draw(recorder.picture(), recorder.view())))
                self._say(self._save(event))
            elif isinstance(event, Discarded):
                self._say(f"thrown away: {event.reason}")
            keys.append(window.key_after(draw(recorder.picture(), recorder.view())))
            if not all(self._press(ACTIONS.get(key)) for key in keys if key is not None):
                return
        if not signals:
            raise SourceLostError(f"{self._source.name} ended; clips so far are kept")

    def by_schedule(self, clips: int, signals: Sequence[int]) -> None:
        """Record so many clips of each class, one class after the other.

        Raises:
            SourceLostError: The source ended first.
            SourceError: A clip failed again and again.
            OutputError: A clip cannot be written.
        """
        speech = _Speech(clips)
        try:
            is_whole = self._follow(clips, speech)
        finally:
            speech.end("stopped")
        if not is_whole and not signals:
            raise SourceLostError(
                f"{self._source.name} ended after {len(self.made)} of "
                f"{clips * len(self._folder.labels)} clips; they are kept"
            )

    def _follow(self, clips: int, speech: _Speech) -> bool:
        """Whether the schedule came to its end before the source did."""
        recorder = self._recorder
        number, fails = 1, 0
        for frame in self._source:
            if recorder.state == "ready":
                speech.begin(recorder.label, number)
                recorder.press("record")
            event = recorder.see(frame)
            speech.tell(recorder.view())
            if isinstance(event, Discarded):
                fails += 1
                speech.end(f"thrown away: {event.reason}")
                if event.is_lasting or fails == MAX_TRIES:
                    raise SourceError(f"{self._source.name}: {event.reason}; clips so far are kept")
            elif event is not None:
                speech.end(self._save(event))
                number, fails = number + 1, 0
                if number > clips:
                    if recorder.label == self._folder.labels[-1]:
                        return True
                    number = 1
                    recorder.press("next")
        return False

    def _press(self, action: Action | None) -> bool:
        """Do what a key says; False where it ends the run."""
        request = None if action is None else self._recorder.press(action)
        if request == "review":
            self._review()
        elif request == "delete":
            self._delete()
        return request != "quit"

    def _save(self, take: Take) -> str:
        path = self._folder.write(take)
        self.made.append(path)
        self._recorder.count(take.label, 1)
        return f"saved {path} ({len(take.pictures)} frames, {float(take.fps):.1f} fps)"

    def _review(self) -> None:
        if not self.made:
            self._say("no clip of this run to review")
            return
        try:
            pictures, times_s = read_video(self.made[-1])
        except DataError as err:  # someone else may have deleted it
            self._say(str(err))
            return
        self._recorder.replay(list(pictures), times_s.tolist())
        self._say(f"review of {self.made[-1]}")

    def _delete(self) -> None:
        if not self.made:
            self._say("no clip of this run to delete")
            return
        path = self.made.pop()
        self._recorder.count(path.parent.name, -1)
        try:
            delete_clip(path)
        except DataError as err:
            self._say(str(err))
            return
        self._say(f"deleted {path}")

    def _say(self, message: str) -> None:
        """Say something on the picture and on the terminal."""
        self._recorder.say(message)
        say(message)


class _Speech:
    """The schedule on the terminal: `wave 1/5: 3 2 1 REC`, and what came of it."""

    def __init__(self, clips: int) -> None:
        self._clips = clips
        self._said = ""
        self._is_open = False

    def begin(self, label: str, number: int) -> None:
        """Announce a clip."""
        self._print(f"{label} {number}/{self._clips}:")
        self._is_open, self._said = True, ""

    def tell(self, view: View) -> None:
        """Say the countdown's next number, or that the camera records."""
        word = {"countdown": str(view.left), "recording": "REC"}.get(view.state, "")
        if word not in ("", self._said):
            self._print(f" {word}")
            self._said = word

    def end(self, result: str) -> None:
        """End the line, if one is open."""
        if self._is_open:
            self._print(f" {result}\n")
        self._is_open = False

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)  # noqa: T201
