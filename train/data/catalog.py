"""The door to a data set: its classes, splits and live tapes, whatever its format.

Each format has its file in train/data/formats/. The format is read off the folder, or named in a
data.yaml, whose fields are described in train/data/formats/spec.py. `data` is a folder, a yaml
file, or what `read_spec` made of one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.errors import DataError
from train.data.arrow_of_time import load_arrays
from train.data.entry import VideoSegment
from train.data.folds import read_folds
from train.data.formats import (
    folders,
    jester,
    kinetics,
    lists,
    own,
    segments,
    something_v1,
    something_v2,
    ucf101,
)
from train.data.formats.base import Clip, Format, NoSplitError, missing_of
from train.data.formats.spec import DataSpec, read_spec, require_used
from train.data.formats.table import near_match
from train.data.rounds import in_rounds
from train.data.split import Split
from train.data.truth import Segment, read_truth

__all__ = [
    "FORMATS",
    "Split",
    "detect_format",
    "has_tape",
    "load_split",
    "load_tape",
    "load_tapes",
    "read_labels",
]

TAPE_CSV = "tape.csv"
TAPES = {"tape": ("test", "validation"), "tape_validation": ("validation",)}
CALIBRATION_CLIPS = 500

# In the order in which they are tried: the more particular ones first.
FORMATS: tuple[Format, ...] = (
    own.FORMAT,
    something_v1.FORMAT,
    something_v2.FORMAT,
    jester.FORMAT,
    kinetics.FORMAT,
    ucf101.FORMAT,
    segments.FORMAT,
    lists.FORMAT,
    folders.FORMAT,
)


def detect_format(data: Path | DataSpec) -> str:
    """Name of a data set's format: as its data.yaml says, or read off the folder.

    Raises:
        DataError: No folder, a wrong data.yaml, or a folder of no known format.
    """
    return _format_of(_spec_of(data)).name


def read_labels(data: Path | DataSpec, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names of a data set in the order of the logits.

    Args:
        data: The data folder or yaml file.
        exclude: Classes to leave out.

    Raises:
        DataError: The data do not say their classes, fewer than two are left, or a class to leave
            out is not there.
    """
    spec = _spec_of(data)
    kind = _format_of(spec)
    known = tuple(dict.fromkeys(_final_names(spec, kind.labels(spec)).values()))
    where = spec.root / own.LABELS_TXT if kind is own.FORMAT else spec.where_of("labels")
    unknown = [name for name in exclude if name not in known]
    if unknown:
        raise DataError(f"exclude names {unknown[0]!r}, which {where} does not list")
    labels = tuple(name for name in known if name not in exclude)
    if len(labels) < 2:
        raise DataError(f"{where} must list at least two different classes, got {list(labels)}")
    return labels


def load_split(
    data: Path | DataSpec, name: str, labels: Sequence[str], *, every_class: bool = True
) -> Split:
    """One split of a data set.

    A missing `calibration` is a part of `train`: up to 500 clips, the same every time, all classes
    equally. Clips whose files are missing are left out and listed in `Split.skipped`.

    Args:
        data: The data folder or yaml file.
        name: `train`, `validation`, `calibration` or `test`.
        labels: Classes to use; clips of the data's other classes are left out.
        every_class: Refuse training clips that lack a class.

    Raises:
        DataError: The split is missing, holds no clips (`train`: of one of the classes), a list is
            wrong, or too many files are missing.
    """
    spec = _spec_of(data)
    kind = _format_of(spec)
    if kind is own.FORMAT and (spec.root / name / own.ARRAYS_NPY).is_file():
        return Split(tuple(labels), load_arrays(spec.root / name), ())
    try:
        clips = _clips(spec, kind, name)
    except NoSplitError as err:
        if name != "calibration":
            raise
        train = load_split(spec, "train", labels)
        if train.arrays is not None:
            raise DataError(str(err)) from err
        return Split(train.labels, None, calibration_part(train.segments), train.skipped)
    final = _final_names(spec, kind.labels(spec))
    place = {label: number for number, label in enumerate(labels)}
    wanted = [(clip, place[final[clip.label]]) for clip in clips if final.get(clip.label) in place]
    listed = kind.listed(spec, name)
    if not wanted:
        raise DataError(f"no clips in {listed} of the classes {', '.join(labels)} (split {name})")
    skipped = _missing(spec, kind, listed, [clip for clip, _ in wanted])
    found = tuple(
        VideoSegment(c.path, c.start_s, c.end_s, label, c.group, c.fps, c.template)
        for c, label in wanted
        if not skipped or str(c.path) not in skipped
    )
    if name == "train" and every_class:
        _require_every_class(found, labels, listed)
    return Split(tuple(labels), None, found, tuple(Path(path) for path in sorted(skipped)))


def calibration_part(
    train: Sequence[VideoSegment], most: int = CALIBRATION_CLIPS, seed: int = 0
) -> tuple[VideoSegment, ...]:
    """A part of the training clips, all classes equally, the same every time, in their order."""
    chosen = in_rounds([clip.label for clip in train], seed)[:most]
    return tuple(train[index] for index in sorted(chosen))


def has_tape(data: Path | DataSpec, name: str, labels: Sequence[str]) -> bool:
    """Whether there are tapes, and a model of these classes can be judged on them.

    A model that leaves classes out cannot: their actions have no right answer.
    """
    spec = _spec_of(data)
    is_there = (spec.root / name).is_dir() or (
        name in TAPES and _format_of(spec) is segments.FORMAT
    )
    return is_there and set(read_labels(spec)) <= set(labels)


def load_tapes(
    data: Path | DataSpec, name: str, labels: Sequence[str]
) -> list[tuple[Path, list[Segment]]]:
    """Live tapes and their truth.

    They are those of the folder NAME/ with its tape.csv. Of untrimmed recordings with a list of
    segments, `tape` is every recording of the split `test` if there is one, else of the
    validation; `tape_validation` is every recording of the validation. Segments that data.yaml
    drops or filters out are not in the truth.

    Args:
        data: The data folder or yaml file.
        name: `tape` or `tape_validation`.
        labels: The classes that may occur.

    Returns:
        The videos, each with the actions on it, in order of time.

    Raises:
        DataError: No tape, a missing video, or a wrong truth file.
    """
    spec = _spec_of(data)
    if (spec.root / name).is_dir() or _format_of(spec) is not segments.FORMAT:
        csv = spec.root / name / TAPE_CSV
        return _by_video(csv.parent, read_truth(csv, labels), csv)
    clips = _tape_clips(spec, name)
    final = _final_names(spec, segments.labels(spec))
    rows = []
    for clip in clips:
        label = final.get(clip.label)
        if label is None:
            continue
        if label not in labels:
            raise DataError(f"{segments.listed(spec)} holds {label!r}, the model does not know it")
        rows.append(Segment(clip.group, clip.start_s, clip.end_s or 0.0, label))
    return _by_video(segments.video_folder(spec), rows, segments.listed(spec))


def load_tape(
    data: Path | DataSpec, name: str, labels: Sequence[str]
) -> tuple[Path, list[Segment]]:
    """The one live tape of a data set and its truth; see `load_tapes`.

    Raises:
        DataError: No tape, more than one video, or a wrong truth file.
    """
    tapes = load_tapes(data, name, labels)
    if len(tapes) != 1:
        csv = _spec_of(data).root / name / TAPE_CSV
        raise DataError(f"{csv} must describe one video, got {len(tapes)}")
    return tapes[0]


def _spec_of(data: Path | DataSpec) -> DataSpec:
    return data if isinstance(data, DataSpec) else read_spec(data)


def _format_of(spec: DataSpec) -> Format:
    """The format that data.yaml names, or the first that fits.

    Raises:
        DataError: It is unknown, does not use what data.yaml says, or none fits.
    """
    names = [kind.name for kind in FORMATS]
    if spec.format is not None:
        if spec.format not in names:
            hint = near_match(spec.format, names)
            where = spec.where_of("format")
            raise DataError(f"{where}: unknown format {spec.format!r}; {hint}")
        kind = FORMATS[names.index(spec.format)]
    else:
        fitting = [kind for kind in FORMATS if kind.fits(spec.root)]
        if spec.lists:
            fitting.insert(0, lists.FORMAT)
        elif spec.segments:
            fitting.insert(0, segments.FORMAT)
        elif not fitting and (spec.root / own.LABELS_TXT).is_file():
            fitting = [own.FORMAT]
        if not fitting:
            known = "; ".join(f"{kind.name} ({kind.layout})" for kind in FORMATS)
            raise DataError(
                f"{spec.root} holds data of no known format; known are: {known}; or say more in "
                "a data.yaml, see train/data/formats/spec.py"
            )
        kind = fitting[0]
    require_used(spec, kind.name)
    return kind


def _clips(spec: DataSpec, kind: Format, name: str) -> list[Clip]:
    """Clips of a split; train and validation as the folds say, if there are any."""
    if spec.folds is None or name not in ("train", "validation"):
        return kind.clips(spec, name)
    folds = read_folds(spec.folds, spec.root)
    if spec.fold not in folds.values():
        raise DataError(
            f"{spec.where_of('fold')}: {spec.folds} has no fold {spec.fold}; there are "
            f"{', '.join(map(str, sorted(set(folds.values()))))}"
        )
    clips = [*kind.clips(spec, "train"), *kind.clips(spec, "validation")]
    unknown = next((clip.path for clip in clips if clip.path not in folds), None)
    if unknown is not None:
        raise DataError(f"{spec.folds} does not name {unknown}; make the folds again")
    is_validation = name == "validation"
    return [clip for clip in clips if (folds[clip.path] == spec.fold) == is_validation]


def _final_names(spec: DataSpec, names: Sequence[str]) -> dict[str, str]:
    """Classes after merging, by their names in the data, without those that are dropped.

    Raises:
        DataError: data.yaml names a class that is not there.
    """
    into = {member: new for new, members in spec.merge.items() for member in members}
    for field, given in (("merge", into), ("drop", spec.drop)):
        for name in given:
            if name not in names:
                hint = near_match(name, names)
                where = spec.where_of(field)
                raise DataError(f"{where}: {field} names the class {name!r}; {hint}")
    return {name: into.get(name, name) for name in names if name not in spec.drop}


def _missing(spec: DataSpec, kind: Format, listed: Path, clips: Sequence[Clip]) -> set[str]:
    """Recordings that are not there.

    Raises:
        DataError: They are too many.
    """
    missing = missing_of(clip.path for clip in clips)
    if not missing:
        return missing
    limit = kind.max_missing if spec.max_missing is None else spec.max_missing
    number = sum(str(clip.path) in missing for clip in clips)
    if number > limit * len(clips):
        raise DataError(
            f"{listed} names {len(missing)} files that are not there, first {min(missing)}; "
            f"{number} of {len(clips)} clips are missing, at most {limit:.0%} may "
            "(max_missing in data.yaml)"
        )
    return missing


def _require_every_class(
    found: Sequence[VideoSegment], labels: Sequence[str], listed: Path
) -> None:
    counts = Counter(segment.label for segment in found)
    without = [label for number, label in enumerate(labels) if not counts[number]]
    if without:
        raise DataError(
            f"{listed} has no training clip of {', '.join(without[:5])}; add some, or leave the "
            "class out (exclude in the recipe, drop in data.yaml)"
        )


def _tape_clips(spec: DataSpec, name: str) -> list[Clip]:
    """Segments and whole gaps of the recordings that are tapes."""
    for split in TAPES.get(name, ()):
        try:
            chosen = {clip.group for clip in _clips(spec, segments.FORMAT, split)}
        except NoSplitError:
            continue
        return segments.clips_of(spec, sorted(chosen), whole_gaps=True)
    raise DataError(f"{segments.listed(spec)} has no recordings for {name}")


def _by_video(
    folder: Path, rows: Sequence[Segment], listed: Path
) -> list[tuple[Path, list[Segment]]]:
    """Actions by video, in order of time; videos in the order of the list.

    Raises:
        DataError: A video is missing.
    """
    found: Mapping[str, list[Segment]] = defaultdict(list)
    for row in rows:
        found[row.path].append(row)
    for name in found:
        if not (folder / name).is_file():
            raise DataError(f"{listed} describes {folder / name}, which is not there")
    return [
        (folder / name, sorted(actions, key=lambda row: row.start_s))
        for name, actions in found.items()
    ]
