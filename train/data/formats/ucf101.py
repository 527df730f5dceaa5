"""UCF101: videos in class folders, and three splits.

    UCF-101/CLASS/v_CLASS_gXX_cYY.avi
    classInd.txt          number class, from 1, in the order of the logits
    trainlist01.txt       CLASS/v_….avi number
    testlist01.txt        CLASS/v_….avi; it is the validation split

The lists are in the root, in ucfTrainTestlist/ or in annotations/. `split: 2` in data.yaml takes
the second split. Clips of one group (`gXX`) were cut from one recording.
"""

from __future__ import annotations

import re
from pathlib import Path

from runtime.errors import DataError
from train.data.formats.base import Clip, Format, NoSplitError, find_file, videos_folder
from train.data.formats.spec import DataSpec
from train.data.formats.table import near_match, numbered_lines

CLASSES = "classInd.txt"
USUAL_FOLDERS = ("UCF-101", "videos")
LISTS = {"train": "trainlist", "validation": "testlist"}

_GROUP = re.compile(r"(?P<group>.*_g\d+)_c\d+")


def fits(root: Path) -> bool:
    """Whether the list of classes and a training list are there."""
    train = (f"trainlist0{split}.txt" for split in (1, 2, 3))
    return _find(root, CLASSES) is not None and any(_find(root, name) for name in train)


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names in the order of their numbers.

    Raises:
        DataError: The file is missing or wrong.
    """
    path = _require(spec, CLASSES)
    names: list[str] = []
    for line, text in numbered_lines(path):
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise DataError(
                f"{path} line {line}: expected `{len(names) + 1} CLASS` (numbers count from 1), "
                f"got {text!r}"
            )
        names.append(name.strip())
    return tuple(names)


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    path = listed(spec, split)
    names = labels(spec)
    known = frozenset(names)
    folder = videos_folder(spec, split, USUAL_FOLDERS)
    found = []
    for line, text in numbered_lines(path):
        name, _, number = text.partition(" ")
        where = f"{path} line {line}"
        label = name.partition("/")[0]
        if label not in known or "/" not in name:
            raise DataError(
                f"{where}: expected `CLASS/VIDEO`, got {name!r}; {near_match(label, names)}"
            )
        if number.strip() and number.strip() != str(names.index(label) + 1):
            raise DataError(
                f"{where}: {label} is number {names.index(label) + 1} in {CLASSES}, "
                f"got {number.strip()}"
            )
        match = _GROUP.match(Path(name).stem)
        found.append(Clip(folder / name, label, group=match["group"] if match else ""))
    return found


def listed(spec: DataSpec, split: str) -> Path:
    """The list of a split.

    Raises:
        NoSplitError: UCF101 has no such split.
    """
    if split not in LISTS:
        raise NoSplitError(f"{spec.where}: UCF101 has no split {split!r}")
    return _require(spec, f"{LISTS[split]}0{spec.split or 1}.txt")


def _find(root: Path, name: str) -> Path | None:
    return find_file(root, (name, f"ucfTrainTestlist/{name}"))


def _require(spec: DataSpec, name: str) -> Path:
    path = _find(spec.root, name)
    if path is None:
        raise DataError(f"{spec.root / name} not found; neither there nor in ucfTrainTestlist/")
    return path


FORMAT = Format(
    "ucf101",
    f"{CLASSES}, trainlist01.txt, testlist01.txt and {USUAL_FOLDERS[0]}/CLASS/VIDEO.avi",
    fits,
    labels,
    clips,
    listed,
)
