"""Add a recording of `runtime/stream.py --record` to a training set, as a clip.

The clip is the action as the model timed it, and at least a window long; --from-s and --to-s, in
seconds from the recording's first picture, say otherwise. It goes into the folder of its class, as
`train.collect` writes them. All recordings of one camera and day are one session, and all of one
video file, so the split by session never puts two that look alike into train and validation.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.command import run_command, say
from runtime.errors import DataError
from runtime.recordings.manifest import Manifest, read_manifest
from train.collect import last_line
from train.collect_folder import ClipFolder, delete_clip, open_folder
from train.data.formats.table import near_match
from train.recorded_clip import Span, digest_of, pictures_in, session_of, span_of, take_of
from train.recording_journal import Entry, Journal

EXAMPLES = """\
examples:
  python -m train.add_clip recordings/20261125T011748.123Z-fall --label sitting --data my_data
  python -m train.add_clip recordings/20261125T011748.123Z-fall --as-decided --data my_data
  python -m train.add_clip recordings/20261125T011748.123Z-fall --label fall --from-s 3 --to-s 5 \\
    --data my_data
"""


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """What to add.

    Attributes:
        recording: The recording's folder.
        data: The data folder.
        label: Its class; None takes what the model said.
        from_s: Where the clip begins, seconds from the first picture; None takes the action's.
        to_s: Where it ends.
    """

    recording: Path
    data: Path
    label: str | None
    from_s: float | None = None
    to_s: float | None = None


def add_clip(options: AddOptions) -> Path:
    """Write the clip, whole or not at all.

    Returns:
        Its file.

    Raises:
        SourceError: It is no recording, or damaged.
        DataError: The folder has no such class, cannot take clips, or has this one already.
        ValueError: A span that the recording does not have.
        OutputError: The clip cannot be written.
    """
    kept = read_manifest(options.recording)
    if not options.data.is_dir():
        raise DataError(
            f"{options.data} is no folder; give one with a folder for each class, as "
            "python -m train.collect makes it"
        )
    label = kept.label if options.label is None else options.label
    folder = open_folder(options.data, None, session_of(kept))
    if label not in folder.labels:
        raise DataError(
            f"{options.data} has no class {label!r}; {near_match(label, folder.labels)}"
        )
    span = span_of(kept, options.from_s, options.to_s)
    pictures = pictures_in(options.recording, kept, span)
    take = take_of(label, pictures, span, options.recording)
    folder.create()
    with Journal(options.data) as journal:
        digest = digest_of(pictures)
        _refuse_double(journal, folder, kept, span, digest)
        path = folder.write(take)
        name = path.relative_to(options.data).as_posix()
        try:
            journal.add(Entry(name, kept.recording_id, span.start_s, span.end_s, digest))
        except OSError:
            delete_clip(path)
            raise
    return path


def _refuse_double(
    journal: Journal, folder: ClipFolder, kept: Manifest, span: Span, digest: str
) -> None:
    for entry in journal.entries():
        is_same = entry.recording_id == kept.recording_id
        overlaps = is_same and entry.start_s < span.end_s and span.start_s < entry.end_s
        if (overlaps or entry.digest == digest) and (folder.root / entry.clip).is_file():
            raise DataError(
                f"{folder.root / entry.clip} shows this already; delete it, or give another part "
                "of the recording by --from-s and --to-s"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.add_clip",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recording", type=Path, help="folder of a recording")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="data folder")
    label = parser.add_mutually_exclusive_group()
    label.add_argument("--label", metavar="CLASS", help="what it shows, a class of the data")
    label.add_argument(
        "--as-decided", action="store_true", help="it shows what the model said it does"
    )
    parser.add_argument("--from-s", type=float, metavar="S", help="where the clip begins")
    parser.add_argument("--to-s", type=float, metavar="S", help="where it ends")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.add_clip`."""
    given = _parser().parse_args(argv)
    if given.label is None and not given.as_decided:
        kept = read_manifest(given.recording)
        raise ValueError(
            f"which class does it show? --label CLASS; the model said {kept.label!r} "
            f"({kept.peak_prob:.0%}), and --as-decided takes its word"
        )
    path = add_clip(
        AddOptions(
            recording=given.recording,
            data=given.data,
            label=given.label,
            from_s=given.from_s,
            to_s=given.to_s,
        )
    )
    labels = open_folder(given.data, None, "none").labels
    say(f"added {path}\n{last_line(given.data, labels)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
