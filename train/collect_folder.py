"""The data folder that `train.collect` writes, as train/data/formats/folders.py reads it.

DATA/labels.txt                    the classes, in the order of the logits
DATA/CLASS/SESSION_0001.mp4        clips; SESSION is one run of the command
DATA/.collected.txt                what was written, oldest first, for --delete-last
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.command import one_line
from runtime.errors import DataError, OutputError
from runtime.files import whole_file
from train.collect_recorder import Take
from train.data.formats import lists, own, segments
from train.data.formats.base import folders_in, is_video
from train.data.formats.folders import NO_CLASSES, SPLIT_FOLDERS
from train.data.formats.spec import read_spec
from train.data.formats.table import near_match, read_text
from train.data.video_file import write_h264

LABELS_TXT = own.LABELS_TXT
JOURNAL = ".collected.txt"
MAX_NAME_BYTES = 120

_NUMBERED = re.compile(r"(?P<session>.+)_(?P<number>\d+)")
_SESSION = re.compile(r"\w[\w.-]*")
# A folder of these names is no class to train/data/formats/folders.py.
_TAKEN = NO_CLASSES | frozenset(SPLIT_FOLDERS["train"])


@dataclass(frozen=True)
class ClipFolder:
    """A data folder and the session that is recorded into it.

    Attributes:
        root: The folder.
        labels: Its classes.
        session: Name of this session.
    """

    root: Path
    labels: tuple[str, ...]
    session: str

    def create(self) -> None:
        """Make the folder, its list of classes and their folders.

        Raises:
            OSError: The folder cannot be written.
        """
        path = self.root / LABELS_TXT
        text = "".join(f"{label}\n" for label in self.labels)
        if not path.is_file() or read_text(path) != text:
            with whole_file(path) as part:
                part.write_text(text, encoding="utf-8")
        for label in self.labels:
            (self.root / label).mkdir(exist_ok=True)

    def write(self, take: Take) -> Path:
        """Write a clip, whole or not at all.

        Returns:
            Its file.

        Raises:
            OutputError: The disk is full, or the encoder failed.
        """
        path = self._next_path(take.label)
        try:
            # noted first: so every clip that is there is noted, and a note without a clip is none
            _note(self.root, path)
            # its rate goes to PyAV as it is, which takes fractions
            write_h264(path, map(_even, take.pictures), take.fps)
        except (DataError, OSError) as err:
            raise OutputError(
                f"the clip was not written, earlier ones are kept: {one_line(err)}"
            ) from err
        return path

    def _next_path(self, label: str) -> Path:
        taken = [
            int(match["number"])
            for path in (self.root / label).glob("*.mp4")
            if (match := _NUMBERED.fullmatch(path.stem)) and match["session"] == self.session
        ]
        return self.root / label / f"{self.session}_{max(taken, default=0) + 1:04d}.mp4"


def open_folder(root: Path, labels_file: Path | None, session: str) -> ClipFolder:
    """Check a data folder and its classes; nothing is written.

    Args:
        root: The folder; it need not be there.
        labels_file: One class a line; None takes the classes that the folder has.
        session: Name of the session.

    Raises:
        DataError: The classes are wrong, missing or other than the folder's, or the folder holds
            data of another format.
        ValueError: The session is no file name.
    """
    if not _SESSION.fullmatch(session) or len(session.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"--session must be letters, digits, '.', '_' or '-', at most {MAX_NAME_BYTES} bytes, "
            f"got {session!r}"
        )
    if root.exists():
        _require_folders(root)
    there = _labels_of(root)
    if labels_file is not None:
        labels = read_label_file(labels_file)
        # a folder's list keeps its order: it is that of the logits
        is_listed = (root / LABELS_TXT).is_file()
        if labels[: len(there)] != there if is_listed else not set(there) <= set(labels):
            raise DataError(
                f"{labels_file} lists {', '.join(labels)}, but {root} has the classes "
                f"{', '.join(there)}; leave --labels out, or add new classes at the end"
            )
        return ClipFolder(root, labels, session)
    if len(there) < 2:
        raise DataError(
            f"{root} has {len(there)} classes, two are the least; give --labels, one class a line"
        )
    return ClipFolder(root, there, session)


def read_label_file(path: Path) -> tuple[str, ...]:
    """Classes, one a line, each fit to be a folder's name.

    Raises:
        DataError: It cannot be read, a line is blank, a class is there twice or cannot be a
            folder, or there are fewer than two.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        del lines[-1]
    found: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, lines), start=1):
        where = f"{path} line {number}"
        _require_name(name, where)
        twin = name.casefold()
        if twin in found:
            raise DataError(f"{where} names {name!r} again (line {found[twin]})")
        found[twin] = number
    if len(found) < 2:
        raise DataError(f"{path} must list at least two classes, one a line, got {len(found)}")
    return tuple(map(str.strip, lines))


def count_clips(root: Path, labels: Sequence[str]) -> dict[str, int]:
    """Number of clips by class."""
    return {label: sum(by.values()) for label, by in sessions_of(root, labels).items()}


def sessions_of(root: Path, labels: Sequence[str]) -> dict[str, Counter[str]]:
    """Number of clips by class and session; the session is empty where it is unknown."""
    return {label: _sessions_in(root / label) for label in labels}


def delete_clip(path: Path) -> None:
    """Delete one clip.

    Raises:
        DataError: It is gone.
    """
    try:
        path.unlink()
    except FileNotFoundError as err:
        raise DataError(f"{path} is gone already") from err


def newest_clip(root: Path) -> Path:
    """The clip that was written last by this command and is still there.

    Raises:
        DataError: There is none.
    """
    journal = root / JOURNAL
    names = read_text(journal).split("\n") if journal.is_file() else []
    for name in reversed(names):
        folder, _, file = name.partition("/")
        path = root / folder / file
        if folder and file and "/" not in file and ".." not in (folder, file) and path.is_file():
            return path
    raise DataError(f"{root} holds no clip that this command wrote; nothing was deleted")


def split_note(sessions: Mapping[str, Mapping[str, int]]) -> str:
    """What a split into train and validation will do with the clips, for the last line."""
    every = {name for by in sessions.values() for name in by}
    empty = [label for label, by in sessions.items() if not by]
    alone = [label for label, by in sessions.items() if by and len(set(by) - {""}) < 2]
    notes = []
    if empty:
        notes.append(f"no clip yet of {', '.join(empty)}")
    if alone:
        whose = "" if len(alone) + len(empty) == len(sessions) else f" ({', '.join(alone)})"
        notes.append(
            f"one session only{whose}: train and validation will be split clip by clip, and clips "
            "of one session look alike, which flatters the accuracy; record a second session "
            "(the same command again) for an honest validation"
        )
    elif every:
        notes.append(f"{len(every)} sessions: whole sessions will validate")
    return "; ".join(notes)


def _require_folders(root: Path) -> None:
    """Refuse a folder whose clips would not be read as folders of classes."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder; --out takes the folder of the data")
    spec = read_spec(root)
    other = spec.format not in (None, "folders") or bool(spec.lists) or spec.segments is not None
    if other or spec.root.resolve() != root.resolve():
        raise DataError(
            f"{spec.where} says that the data are read in another way; give another --out"
        )
    is_split = any((root / name).is_dir() for name in SPLIT_FOLDERS["train"])
    if is_split or any(kind.fits(root) for kind in (own, segments, lists)):
        raise DataError(
            f"{root} holds data that are split already; clips beside them would not be read: "
            "give another --out"
        )


def _labels_of(root: Path) -> tuple[str, ...]:
    """Classes that a folder has: those it lists, else its folders.

    Raises:
        DataError: It lists them and has a folder of another name, which no training takes.
    """
    names = tuple(name for name in folders_in(root) if name not in NO_CLASSES)
    path = root / LABELS_TXT
    if not path.is_file():
        return names
    listed = read_label_file(path)
    for name in names:
        if name not in listed:
            raise DataError(f"{path} does not name the folder {name!r}; {near_match(name, listed)}")
    return listed


def _require_name(name: str, where: str) -> None:
    if not name:
        raise DataError(f"{where} is blank; one class a line")
    if name in _TAKEN:
        raise DataError(f"{where}: a class cannot be called {name!r}, which means a split here")
    if (
        name.startswith(".")
        or any(char in '/\\:*?"<>|' or not char.isprintable() for char in name)
        or len(name.encode()) > MAX_NAME_BYTES
    ):
        raise DataError(
            f"{where}: {name!r} cannot be the name of a folder; no leading dot, none of "
            f'/ \\ : * ? " < > |, at most {MAX_NAME_BYTES} bytes'
        )


def _sessions_in(folder: Path) -> Counter[str]:
    sessions: Counter[str] = Counter()
    for path in folder.glob("*"):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            inside = [one for one in path.glob("*") if is_video(one.name)]
            sessions[path.name] += sum(not one.name.startswith(".") for one in inside)
        elif is_video(path.name):
            match = _NUMBERED.fullmatch(path.stem)
            sessions[match["session"] if match else ""] += 1
    return +sessions


def _note(root: Path, path: Path) -> None:
    """Add a clip to the journal; a line that a full disk tore stays a line of its own."""
    with (root / JOURNAL).open("a+b") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        gap = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(gap + f"{path.relative_to(root).as_posix()}\n".encode())


def _even(picture: np.ndarray) -> np.ndarray:
    """Without a last odd row and column, which H.264 cannot have."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[: height // 2 * 2, : width // 2 * 2])
