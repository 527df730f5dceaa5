"""data.yaml: what a data folder does not say itself.

The file is optional. It lies in the folder (DATA/data.yaml), beside it (DATA.yaml) or anywhere:
`--data my.yaml` with `root:` leaves the data's folder untouched. All fields are optional too.

    root: /data/ssv2          folder of the data, relative to this file; its own folder by default;
                              may name environment variables: $ROOMS
    format: something_v2      own, segments, something_v1, something_v2, jester, kinetics, ucf101,
                              lists or folders; read off the folder by default
    videos: clips             folder of the videos or frame folders, relative to root; also one
                              for each split: {train: train_256, validation: val_256}
    labels: names.txt         class names, one a line (or a list here), in the order of the logits
    class_order: file         `file` or `sorted`: how the logits are ordered where a file of names
                              is there. SSv1's own order is `file`, TSM's and TDN's is `sorted`
    fps: 12                   pictures a second of frame folders
    template: img_{:05d}.jpg  names of their pictures; read off the folder by default
    max_missing: 0.05         share of listed clips that may be missing, in [0, 1)
    merge: {lie: [falled, sleeping]}      classes that become one
    drop: [active]                        classes to leave out

Lists of TSM, TDN, MMAction2 (`lists`), and recordings with one list of segments (`segments`):

    train: train.txt          list of a split; also validation, calibration, test
    separator: ","            what separates the fields of a line; `lists` reads it off by default
    kind: videos              `videos` (path label) or `rawframes` (path num_frames label)
    split: 1                  UCF101's split, 1 to 3
    segments: segments.csv    path,start_s,end_s,label[,split][,more columns]
    filter:                   keep only those segments of a class whose column is in a range
      - {label: walk, column: motion, above: 0.6}     `above` and/or `below`, both exclusive
    background: true          a class `background` from the gaps between segments, or
    background: {guard_s: 0.5, min_s: 1.0, piece_s: 10.0}    seconds kept away from segments,
                              shortest gap after that, longest clip
    validation_share: 0.2     share of the clips for validation where the data have no split
    seed: 0                   of that split
    folds: folds.csv          path,fold: which recording is in which fold (train/data/folds.py)
    fold: 2                   fold for validation, the others train
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import DataError
from runtime.files import whole_file

DATA_YAML = "data.yaml"
BACKGROUND = "background"
SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Background:
    """How a background class is cut from the gaps between segments.

    Attributes:
        guard_s: Seconds that stay away from every segment, >= 0.
        min_s: Shortest clip, > 0.
        piece_s: Longest clip: longer gaps are cut into equal pieces; >= min_s.
    """

    guard_s: float = 0.5
    min_s: float = 1.0
    piece_s: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.guard_s) and self.guard_s >= 0):
            raise ValueError(f"guard_s must be >= 0, got {self.guard_s}")
        if not (math.isfinite(self.min_s) and self.min_s > 0):
            raise ValueError(f"min_s must be > 0, got {self.min_s}")
        if not self.piece_s >= self.min_s:
            raise ValueError(f"piece_s must be >= min_s {self.min_s}, got {self.piece_s}")


@dataclass(frozen=True)
class Filter:
    """Keep only those segments of a class whose number in a column is inside a range.

    Attributes:
        label: The class, by its name in the list.
        column: The column.
        above: The number must be larger.
        below: The number must be smaller.
    """

    label: str
    column: str
    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        if self.above == -math.inf and self.below == math.inf:
            raise ValueError(f"a filter of {self.label!r} needs above or below")
        if not self.above < self.below:
            raise ValueError(f"above must be < below, got {self.above} and {self.below}")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A data set and how to read it; see this file's head for the fields.

    Attributes:
        root: Folder of the data.
        source: The yaml file that says so; None where there is none.
        videos: Folder of the videos by split; `""` stands for all splits.
        labels: A file of names, relative to the root, or the names; None where the data say.
        lists: Lists of clips by split, relative to the root.
        segments: The list of all segments, relative to the root.
        filter: What to keep of a class.
        folds: File of the folds.
        fold: Fold for validation.
        lines: Line of every field in `source`, for messages.

    The other attributes are the fields of the same names.
    """

    root: Path
    source: Path | None = None
    format: str | None = None
    videos: Mapping[str, str] = field(default_factory=dict)
    labels: str | tuple[str, ...] | None = None
    class_order: str | None = None
    fps: float | None = None
    template: str | None = None
    max_missing: float | None = None
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    kind: str | None = None
    split: int | None = None
    segments: str | None = None
    filter: tuple[Filter, ...] = ()
    background: Background | None = None
    validation_share: float = 0.2
    seed: int = 0
    folds: Path | None = None
    fold: int | None = None
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        choices = {
            "class_order": ("file", "sorted"),
            "kind": ("videos", "rawframes"),
            "split": (1, 2, 3),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                near = " or ".join(str(choice) for choice in known)
                raise ValueError(f"{name} must be {near}, got {value!r}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be > 0, got {self.fps}")
        if self.max_missing is not None and not 0 <= self.max_missing < 1:
            raise ValueError(f"max_missing must be in [0, 1), got {self.max_missing}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), got {self.validation_share}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.fold is not None and self.fold < 0:
            raise ValueError(f"fold must be >= 0, got {self.fold}")
        if (self.fold is None) != (self.folds is None):
            raise ValueError("fold and folds belong together: give both or neither")

    @property
    def where(self) -> Path:
        """What to name in messages: the yaml file, or the folder."""
        return self.source or self.root

    def where_of(self, name: str) -> str:
        """What to name in messages about a field: the yaml file and its line, where it has one."""
        if self.source is None or name not in self.lines:
            return str(self.where)
        return at_line(self.source, self.lines[name])

    def path_of(self, name: str) -> Path:
        """A path of the file, relative to the root."""
        return self.root / name


# The fields that formats may leave unused, and which formats use them; all others are for all.
USERS = {
    "separator": ("lists",),
    "kind": ("lists",),
    "split": ("ucf101",),
    "segments": ("segments",),
    "filter": ("segments",),
    "background": ("segments",),
    "validation_share": ("segments", "folders"),
    "class_order": ("segments", "something_v1", "something_v2", "jester", "lists", "folders"),
    "videos": ("segments", "something_v1", "something_v2", "jester", "kinetics", "ucf101", "lists"),
    "labels": ("segments", "kinetics", "lists", "folders"),
    "template": ("something_v1", "something_v2", "jester", "lists", "folders"),
    "fps": ("something_v1", "something_v2", "jester", "lists", "folders"),
    "lists": ("lists",),
}


def at_line(path: Path, line: int) -> str:
    """File and line, for messages."""
    return f"{path} line {line}"


def values_and_lines(
    text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader
) -> tuple[Any, dict[str, int]]:
    r"""What a YAML text says, and the line of each of its fields.

    Args:
        text: The text.
        loader: What makes values of it.

    Returns:
        The value, None of an empty text; and the lines, none where it holds no fields.

    Raises:
        yaml.YAMLError: The text is no YAML.

    Example:
        >>> values_and_lines("epochs: 3\n\nlr: {a: 1}")
        ({'epochs': 3, 'lr': {'a': 1}}, {'epochs': 1, 'lr': 3})
    """
    reader = loader(text)
    node = reader.get_single_node()
    if node is None:
        return None, {}
    values = reader.construct_document(node)
    if not isinstance(node, yaml.MappingNode):
        return values, {}
    keys = [key for key, _ in node.value]
    return values, {str(reader.construct_object(key)): key.start_mark.line + 1 for key in keys}


def read_spec(data: Path) -> DataSpec:
    """What is said about a data set.

    Args:
        data: Its folder, or a yaml file.

    Raises:
        DataError: No such folder, or a wrong yaml file: the message names file, line and field.
    """
    source = _source_of(data)
    if source is None:
        if not data.is_dir():
            raise DataError(
                f"{data} is no folder; give a data folder or a .yaml file that names it"
            )
        return DataSpec(root=data)
    spec = _parsed(source)
    if not spec.root.is_dir():
        raise DataError(f"{spec.where_of('root')}: root is {spec.root}, which is no folder")
    return spec


def write_spec(path: Path, spec: DataSpec) -> None:
    """Write a data.yaml that says what `spec` says, with absolute paths; whole or not at all."""
    values: dict[str, Any] = {"root": str(spec.root.resolve())}
    plain = DataSpec(root=spec.root)
    for one in fields(spec):
        value = getattr(spec, one.name)
        if one.name not in ("root", "source", "lines") and value != getattr(plain, one.name):
            values[one.name] = value
    for name in ("drop", "labels"):
        if isinstance(values.get(name), tuple):
            values[name] = list(values[name])
    if "videos" in values:
        given = dict(values["videos"])
        values["videos"] = given.get("", given)
    if "merge" in values:
        values["merge"] = {name: list(members) for name, members in values["merge"].items()}
    if "filter" in values:
        values["filter"] = [_finite(vars(one)) for one in values["filter"]]
    if "background" in values:
        values["background"] = _finite(vars(values["background"]))
    if "folds" in values:
        values["folds"] = str(values["folds"].resolve())
    values.update(values.pop("lists", {}))
    with whole_file(path) as part:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        part.write_text(text, encoding="utf-8")


def with_fold(spec: DataSpec, fold: int, folds: Path | None = None) -> DataSpec:
    """The same data with one fold for validation.

    Args:
        spec: The data.
        fold: The fold, 0..K-1.
        folds: File of the folds; None keeps the data's own.

    Raises:
        ValueError: No file of folds, or a negative fold.
    """
    return replace(spec, fold=fold, folds=folds or spec.folds)


def require_used(spec: DataSpec, name: str) -> None:
    """Refuse fields that the format would ignore.

    Raises:
        DataError: A field is given that the format does not use.
    """
    plain = DataSpec(root=spec.root)
    for one, users in USERS.items():
        if name not in users and getattr(spec, one) != getattr(plain, one):
            shown = next(iter(spec.lists)) if one == "lists" else one
            raise DataError(
                f"{spec.where_of(shown)}: {shown} means nothing to data of the format {name}; it "
                f"is for {', '.join(users)}"
            )


def _source_of(data: Path) -> Path | None:
    if data.suffix in (".yaml", ".yml"):
        if not data.is_file():
            raise DataError(f"{data} not found; give a data folder or a .yaml file that names it")
        return data
    inside = data / DATA_YAML
    beside = data.parent / f"{data.name}.yaml"
    found = [path for path in (inside, beside) if data.name and path.is_file()]
    if len(found) > 1:
        raise DataError(f"both {inside} and {beside} describe the data; remove one")
    return found[0] if found else None


def _parsed(source: Path) -> DataSpec:
    try:
        text = source.read_text(encoding="utf-8-sig")
        values, lines = values_and_lines(text)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{source} cannot be read: {err}") from err
    except yaml.YAMLError as err:
        raise DataError(f"{source} is no valid YAML: {err}") from err
    if values is None:
        return DataSpec(root=_root_of(source, None), source=source)
    if not isinstance(values, dict):
        raise DataError(
            f"{at_line(source, 1)} must hold `field: value` lines, got {type(values).__name__}"
        )
    given: dict[str, Any] = {}
    for name, value in values.items():
        try:
            _take(given, str(name), value, source)
            DataSpec(root=source.parent, **{k: given[k] for k in _alone(given, str(name))})
        except ValueError as err:
            raise DataError(f"{at_line(source, lines[str(name)])}: {err}") from err
    given.setdefault("root", _root_of(source, None))
    try:
        return DataSpec(source=source, lines=lines, **given)
    except ValueError as err:  # fold and folds are the fields that cannot be checked alone
        line = lines.get("fold", lines.get("folds", 1))
        raise DataError(f"{at_line(source, line)}: {err}") from err


def _alone(given: Mapping[str, Any], name: str) -> list[str]:
    """The field itself, where it can be checked without the others."""
    return [name] if name in given and name not in ("root", "fold", "folds") else []


def _root_of(source: Path, given: str | None) -> Path:
    """The root as said; else the folder that the file is named like; else the file's folder.

    Raises:
        ValueError: It names an environment variable that is not set.
    """
    if given is not None:
        expanded = os.path.expandvars(given)
        if "$" in expanded:
            raise ValueError(f"root is {given!r}: set that environment variable to the folder")
        return source.parent / Path(expanded).expanduser()
    folder = source.with_suffix("")
    return folder if folder.is_dir() else source.parent


def _take(given: dict[str, Any], name: str, value: Any, source: Path) -> None:
    """Check one field and put it under its attribute's name.

    Raises:
        ValueError: It is unknown, or of a wrong kind.
    """
    if name in SPLITS:
        given.setdefault("lists", {})[name] = _text(name, value)
    elif name in _READERS:
        given[name] = _READERS[name](name, value)
    elif name == "root":
        given[name] = _root_of(source, _text(name, value))
    elif name == "folds":
        given[name] = source.parent / Path(_text(name, value)).expanduser()
    else:
        known = [*_READERS, *SPLITS, "root", "folds"]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
        raise ValueError(f"unknown field {name!r}{hint}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    try:
        # YAML reads `1e-3` as text
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of names, got {value!r}")
    return tuple(_name(name, item) for item in value)


def _name(name: str, value: Any) -> str:
    # YAML reads a class `no`, `on` or `3` as something else
    if isinstance(value, bool) or value is None:
        raise ValueError(f'{name}: put quotes around a name that YAML reads as {value}: "no"')
    if not isinstance(value, (str, int, float)) or value == "":
        raise ValueError(f"{name} must hold names, got {value!r}")
    return str(value)


def _labels(name: str, value: Any) -> str | tuple[str, ...]:
    return _names(name, value) if isinstance(value, list) else _text(name, value)


def _videos(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {"": _text(name, value)}
    for split, folder in value.items():
        if split not in SPLITS:
            raise ValueError(f"{name} names the split {split!r}; known are {', '.join(SPLITS)}")
        _text(f"{name}: {split}", folder)
    return dict(value)


def _merge(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name} must be {{new name: [old names]}}, got {value!r}")
    merged = {_name(name, new): _names(f"{name}: {new}", old) for new, old in value.items()}
    members = [member for old in merged.values() for member in old]
    for member in members:
        if members.count(member) > 1:
            raise ValueError(f"{name} names {member!r} twice")
    return merged


def _filters(name: str, value: Any) -> tuple[Filter, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of {{label, column, above, below}}, got {value!r}")
    return tuple(_filter(name, item) for item in value)


def _filter(name: str, value: Any) -> Filter:
    _require_keys(name, value, ("label", "column", "above", "below"))
    for needed in ("label", "column"):
        if needed not in value:
            raise ValueError(f"{name} needs {needed}, got {value!r}")
    bounds = {key: _number(key, value[key]) for key in ("above", "below") if key in value}
    return Filter(_name(name, value["label"]), _text("column", value["column"]), **bounds)


def _background(name: str, value: Any) -> Background | None:
    if isinstance(value, bool):
        return Background() if value else None
    _require_keys(name, value, ("guard_s", "min_s", "piece_s"))
    return Background(**{key: _number(key, number) for key, number in value.items()})


def _require_keys(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be {{{', '.join(known)}}}, got {value!r}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{name} has an unknown field {key!r}; {hint}")


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


_READERS = {
    "format": _text,
    "videos": _videos,
    "labels": _labels,
    "class_order": _text,
    "fps": _number,
    "template": _text,
    "max_missing": _number,
    "merge": _merge,
    "drop": _names,
    "separator": _text,
    "kind": _text,
    "split": _whole,
    "segments": _text,
    "filter": _filters,
    "background": _background,
    "validation_share": _number,
    "seed": _whole,
    "fold": _whole,
}
