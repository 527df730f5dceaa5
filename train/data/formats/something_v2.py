"""Something-Something V2: webm videos (or frame folders made of them), and json lists.

    20bn-something-something-v2/ID.webm
    something-something-v2-labels.json       {"class": "number"}     or labels.json
    something-something-v2-train.json        [{"id", "template"}]    or train.json; also validation

A class is a template without its brackets. The order of the logits is that of the numbers, which
is also the sorted one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runtime.errors import DataError
from train.data.formats.base import Clip, Format, find_file, ordered, require_file, require_label
from train.data.formats.spec import DataSpec, at_line
from train.data.formats.table import read_text
from train.data.formats.twentybn import clips_of, require_split

PREFIX = "something-something-v2"
USUAL_FOLDERS = (
    "20bn-something-something-v2",
    "20bn-something-something-v2-frames",
    "something-something-v2",
)

_ITEM = re.compile(r"[^\s,:]")  # where an item of JSON begins
_ID = re.compile(r'"id"\s*:')


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
        where = at_line(path, 1)
        raise DataError(f'{where} must hold {{"class": "number"}}, got a {_kind(values)}')
    lines = _lines_of_names(read_text(path))
    by_number: dict[int, str] = {}
    for name, number in values.items():
        where = at_line(path, lines[name])
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
        raise DataError(f"{at_line(path, 1)} must hold a list of clips, got a {_kind(entries)}")
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
        where = at_line(path, _line_of_entry(path, index))
        raise DataError(f"{where} must hold an id and a template, got {entry!r}")
    number = str(entry["id"])
    template = entry.get("template")
    label = template.replace("[", "").replace("]", "") if isinstance(template, str) else ""
    if label not in known:  # the line is looked for only when it is needed
        where = at_line(path, _line_of_entry(path, index))
        require_label(label, known, f"{where} (id {number})")
    return number, label


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise DataError(f"{at_line(path, err.lineno)} is no JSON: {err.msg}") from err


def _items(text: str) -> Iterator[tuple[int, int]]:
    """Where the items of a JSON list, or the keys and values of an object, begin and end."""
    decoder = json.JSONDecoder()
    end = len(text) - len(text.lstrip()) + 1  # behind the bracket
    while (found := _ITEM.search(text, end)) and found[0] not in "]}":
        _, end = decoder.raw_decode(text, found.start())
        yield found.start(), end


def _lines_of_names(text: str) -> dict[str, int]:
    """The line of every name of an object; of one that is there twice the last, as JSON has it."""
    keys = islice(_items(text), 0, None, 2)
    return {json.loads(text[begin:end]): text.count("\n", 0, begin) + 1 for begin, end in keys}


def _line_of_entry(path: Path, index: int) -> int:
    """The line of an entry's id, or on which it begins where it has none."""
    text = read_text(path)
    begin, end = next(islice(_items(text), index, None))
    found = _ID.search(text, begin, end)
    return text.count("\n", 0, found.start() if found else begin) + 1


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
