"""Something-Something V2: webm videos (or frame folders made of them), and json lists.

    20bn-something-something-v2/ID.webm
    something-something-v2-labels.json       {"class": "number"}     or labels.json
    something-something-v2-train.json        [{"id", "template"}]    or train.json; also validation

A class is a template without its brackets. The order of the logits is that of the numbers, which
is also the sorted one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.errors import DataError
from train.data.formats.base import Clip, Format, find_file, ordered, require_file, require_label
from train.data.formats.spec import DataSpec
from train.data.formats.table import read_text
from train.data.formats.twentybn import clips_of, require_split

PREFIX = "something-something-v2"
USUAL_FOLDERS = (
    "20bn-something-something-v2",
    "20bn-something-something-v2-frames",
    "something-something-v2",
)


def fits(root: Path) -> bool:
    """Whether the list of classes and the training list are there, under either name."""
    return all(find_file(root, _file_names(name)) is not None for name in ("labels", "train"))


def labels(spec: DataSpec) -> tuple[str, ...]:
    """Class names in the order of their numbers.

    Raises:
        DataError: The file is missing or wrong.
    """
    path = require_file(spec.root, _file_names("labels"))
    values = _read_json(path)
    if not isinstance(values, dict):
        raise DataError(f'{path} line 1 must hold {{"class": "number"}}, got a {_kind(values)}')
    by_number: dict[int, str] = {}
    for name, number in values.items():
        where = f"{path} line {_line_of(path, name)}"
        if not str(number).isdecimal() or int(number) >= len(values):
            raise DataError(f"{where}: {name!r} has no number 0..{len(values) - 1}: {number!r}")
        if int(number) in by_number:
            raise DataError(f"{where}: {name!r} has {by_number[int(number)]!r}'s number {number}")
        by_number[int(number)] = name
    return ordered(spec, [by_number[number] for number in range(len(by_number))])


def clips(spec: DataSpec, split: str) -> list[Clip]:
    """Clips of a split, see `Format`."""
    require_split(spec, split)
    path = listed(spec, split)
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} line 1 must hold a list of clips, got a {_kind(entries)}")
    known = frozenset(labels(spec))
    return clips_of(
        spec,
        split,
        USUAL_FOLDERS,
        [_entry(path, i, entry, known) for i, entry in enumerate(entries)],
    )


def listed(spec: DataSpec, split: str) -> Path:
    """The json file of a split."""
    return require_file(spec.root, _file_names(split))


def _file_names(name: str) -> tuple[str, str]:
    return f"{PREFIX}-{name}.json", f"{name}.json"


def _entry(path: Path, index: int, entry: Any, known: frozenset[str]) -> tuple[str, str]:
    """Id and class of one clip."""
    if not isinstance(entry, dict) or not entry.get("id"):
        raise DataError(f"{path} entry {index + 1} must hold an id and a template, got {entry!r}")
    number = str(entry["id"])
    template = entry.get("template")
    label = template.replace("[", "").replace("]", "") if isinstance(template, str) else ""
    if label not in known:  # the line is looked for only when it is needed
        require_label(label, known, f"{path} line {_line_of(path, number)} (id {number})")
    return number, label


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise DataError(f"{path} line {err.lineno} is no JSON: {err.msg}") from err


def _line_of(path: Path, text: str) -> int:
    """The line on which a text first stands in quotes."""
    return read_text(path).partition(json.dumps(text, ensure_ascii=False))[0].count("\n") + 1


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else type(value).__name__


FORMAT = Format(
    "something_v2",
    f"{PREFIX}-{{labels,train,validation}}.json (or labels.json …) and {USUAL_FOLDERS[0]}/ID.webm",
    fits,
    labels,
    clips,
    listed,
)
