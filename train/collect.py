"""Record clips of your own classes with a camera: countdown, record, review, delete.

The clips go into a folder for each class, DATA/CLASS/SESSION_0001.mp4, one session for each run of
this command. Clips of one session look alike, so the split never puts one session into both train
and validation, as soon as every class was recorded in two: record on another day, in other light,
with other people.

A clip is in memory until it is whole, then written in one go: Ctrl-C, a lost camera or a full disk
leave no half clip, and earlier ones are kept.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from runtime.command import run_command, say
from runtime.errors import SourceLostError
from runtime.interrupt import stop_on_signals
from runtime.sources.choose import open_source
from runtime.window import Window
from train.collect_folder import (
    count_clips,
    delete_clip,
    newest_clip,
    open_folder,
    sessions_of,
    split_note,
)
from train.collect_recorder import Recorder
from train.collect_run import KEY_HELP, CollectRun, KeyWindow

EXAMPLES = """\
examples:
  python -m train.collect --camera 0 --labels labels.txt            into my_data
  python -m train.collect --camera 0                                a second session, same classes
  python -m train.collect --camera rtsp://user:password@10.0.0.7/stream --out kitchen --headless
  python -m train.collect --delete-last
"""
OUT = Path("my_data")
HINT = "pass --headless to be led through the classes on the terminal"
MAX_CLIP_S = 60.0
SIGNALLED = 128  # the shell's base for a command that a signal ended


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What to record.

    Attributes:
        out: The data folder.
        camera: Camera, stream or file, see `runtime.sources.uri`.
        labels: File with one class a line; None takes the folder's classes.
        session: Name of the session; None makes one of date and time.
        seconds: Length of a clip, in (0, 60].
        countdown_s: Seconds before it.
        headless: No window: go through the classes alone.
        clips: Clips of each class, headless.
    """

    out: Path
    camera: str = "0"
    labels: Path | None = None
    session: str | None = None
    seconds: float = 2.0
    countdown_s: float = 3.0
    headless: bool = False
    clips: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= MAX_CLIP_S:
            raise ValueError(f"--seconds must be in (0, {MAX_CLIP_S:g}], got {self.seconds}")
        if not 0 <= self.countdown_s <= MAX_CLIP_S:
            raise ValueError(f"--countdown must be in [0, {MAX_CLIP_S:g}], got {self.countdown_s}")
        if self.clips < 1:
            raise ValueError(f"--clips must be >= 1, got {self.clips}")


def collect(
    options: CollectOptions,
    *,
    open_window: Callable[[str], KeyWindow] = lambda title: Window(title, hint=HINT),
) -> int:
    """Record clips until the user, the schedule or the camera ends it; says what is there.

    Args:
        options: What to record.
        open_window: Makes the window of a title.

    Returns:
        The status: 0, or 128 plus a signal's number where one came before the first clip.

    Raises:
        DataError: The classes or the folder cannot be used; nothing was opened.
        SourceError: The camera cannot be opened, was lost, or ended too soon.
        OutputError: No display, or a clip cannot be written.
        ValueError: The session or the camera is no such name.
    """
    session = options.session or datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = open_folder(options.out, options.labels, session)
    counts = count_clips(folder.root, folder.labels)
    recorder = Recorder(
        folder.labels, counts, seconds=options.seconds, countdown_s=options.countdown_s
    )
    with ExitStack() as opened:
        source = opened.enter_context(
            open_source(options.camera, realtime=not options.headless, allow_pipeline=True)
        )
        run = CollectRun(folder, recorder, source)
        signals = opened.enter_context(stop_on_signals(source.stop))
        window = None
        if not options.headless:
            window = opened.enter_context(open_window(f"TDRL collect {source.name}"))
        folder.create()
        try:
            if window is None:
                run.by_schedule(options.clips, signals)
            else:
                run.by_keys(window, signals)
        except SourceLostError as err:
            lost = recorder.state == "recording"
            more = "; the clip that was being recorded is thrown away" if lost else ""
            raise SourceLostError(f"{err}{more}") from err
        finally:
            say(last_line(folder.root, folder.labels))
    return SIGNALLED + signals[0] if signals and not run.made else 0


def delete_last(root: Path) -> None:
    """Delete the newest clip that this command wrote into a data folder, after naming it.

    Raises:
        DataError: There is none.
    """
    labels = open_folder(root, None, "none").labels
    path = newest_clip(root)
    say(f"deleting {path}")
    delete_clip(path)
    say(last_line(root, labels))


def last_line(root: Path, labels: Sequence[str]) -> str:
    """Where the clips are, how many, how they will be split, and what to do next."""
    sessions = sessions_of(root, labels)
    counts = ", ".join(f"{label} {sum(by.values())}" for label, by in sessions.items())
    where = shlex.quote(str(root))
    return (
        f"{root}: {counts}; {split_note(sessions)}; next: python -m train.prepare --data {where}, "
        f"then make train DATA={where} RECIPE=own"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.collect",
        description=__doc__,
        epilog=f"{KEY_HELP}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--camera", default="0", metavar="N", help="number, /dev path, URL or file (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DATA", help=f"data folder (default: {OUT})"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="one class a line (default: those of --out)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="length of a clip (default: 2)"
    )
    parser.add_argument(
        "--countdown", type=float, default=3.0, metavar="S", help="seconds before it (default: 3)"
    )
    parser.add_argument(
        "--session", metavar="NAME", help="name of the session (default: UTC date and time)"
    )
    parser.add_argument(
        "--headless", action="store_true", help="no window: count down on the terminal"
    )
    parser.add_argument(
        "--clips", type=int, default=5, metavar="N", help="clips a class, headless (default: 5)"
    )
    parser.add_argument(
        "--delete-last", action="store_true", help="delete the newest clip of --out, and end"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m train.collect`."""
    given = _parser().parse_args(argv)
    if given.delete_last:
        delete_last(given.out)
        return 0
    options = CollectOptions(
        out=given.out,
        camera=given.camera,
        labels=given.labels,
        session=given.session,
        seconds=given.seconds,
        countdown_s=given.countdown,
        headless=given.headless,
        clips=given.clips,
    )
    return collect(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
