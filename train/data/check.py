"""What is in a data set: every split read, every recording opened, and what is wrong with them.

Training refuses wrong data at the first fault. This looks on, so that one look shows them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import one_line
from runtime.errors import DataError
from runtime.preprocess import PictureRule
from runtime.sampling import window_from_lengths
from train.data.arrow_of_time import ArrayClips
from train.data.catalog import detect_format, has_tape, load_tapes, read_labels
from train.data.check_probe import Recording, Span, Task, in_processes, inspect_recording
from train.data.check_read import lines_of, read_splits, reading_warnings, twins_of
from train.data.clips import ArrayClipSet, ClipRule
from train.data.entry import VideoSegment
from train.data.formats.spec import DataSpec, read_spec
from train.data.split import Split
from train.data.truth import Segment

TAPES = ("tape", "tape_validation")
MOST_DECODED = 2000  # recordings; of more than these a sample is decoded

Key = tuple[Path, float | None, str | None]


@dataclass(frozen=True)
class CheckedClip:
    """A clip that was looked at.

    Attributes:
        split: Its split.
        item: Its number in the split.
        label: Its class.
        name: Its recording, for people.
        line: File and line that list it; empty where no csv file does.
        path: Its recording; None for clips in arrays.
        group: Session that it comes from; empty where unknown.
        start_s: Start, seconds of stream time.
        end_s: End.
        listed_end_s: End as the list says; None is the recording's end.
        num_frames: Frames that are shown in it.
        problem: Why it cannot be read; empty if it can.
    """

    split: str
    item: int
    label: str
    name: str
    line: str
    path: Path | None
    group: str
    start_s: float
    end_s: float
    listed_end_s: float | None
    num_frames: int
    problem: str

    @property
    def length_s(self) -> float:
        """Seconds it lasts."""
        return self.end_s - self.start_s

    @property
    def where(self) -> str:
        """The line that lists it and its recording."""
        return f"{self.line}: {self.name}" if self.line else self.name

    @property
    def reason(self) -> str:
        """Why it cannot be read, and the line that lists it."""
        return f"{self.problem} ({self.line})" if self.line else self.problem


@dataclass(frozen=True)
class Tape:
    """A live tape: its video, opened, and what happens on it."""

    name: str
    video: Recording
    truth: tuple[Segment, ...]


@dataclass(frozen=True)
class Decoding:
    """How much was decoded: frames of the clips of so many recordings, of all there are."""

    recordings: int
    of: int


@dataclass(frozen=True, eq=False)
class Survey:
    """All that was seen of a data set.

    Attributes:
        spec: The data and how they are read.
        format: Name of their format.
        labels: Classes in the order of the logits.
        splits: The splits that can be read.
        refused: What training will refuse, by split.
        warned: What reading warned of.
        twins: Splits that are another one, and which.
        clips: All clips.
        recordings: All recordings.
        tapes: Live tapes.
        decoding: How much was decoded.
    """

    spec: DataSpec
    format: str
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    refused: Mapping[str, str]
    warned: tuple[str, ...]
    twins: Mapping[str, str]
    clips: tuple[CheckedClip, ...]
    recordings: tuple[Recording, ...]
    tapes: tuple[Tape, ...]
    decoding: Decoding

    def clips_of(self, split: str) -> list[CheckedClip]:
        """Clips of one split."""
        return [clip for clip in self.clips if clip.split == split]

    @property
    def window_s(self) -> float | None:
        """The window that training takes by default; None without readable training clips."""
        lengths_s = [clip.length_s for clip in self.clips_of("train") if not clip.problem]
        return window_from_lengths(lengths_s) if lengths_s else None


def survey(data: Path, *, decode: bool | None = None, workers: int = 1) -> Survey:
    """Look at a data set.

    Args:
        data: Its folder or yaml file.
        decode: Decode three frames of every clip; None does so for up to 2000 recordings, and for
            a sample of more.
        workers: Processes that read.

    Raises:
        DataError: The classes cannot be read; nothing else can be looked at without them.
    """
    spec = read_spec(data)
    labels = read_labels(spec)
    with reading_warnings() as warned:
        splits, refused = read_splits(spec, labels)
    twins = twins_of(splits)
    for name in twins:
        del splits[name]
    wanted: defaultdict[Key, list[VideoSegment]] = defaultdict(list)
    for split in splits.values():
        for segment in split.segments:
            wanted[_key(segment)].append(segment)
    chosen = _decoded(wanted, decode)
    tasks = [Task(*key, tuple(found), key in chosen) for key, found in wanted.items()]
    opened = dict(
        zip(
            wanted,
            in_processes(inspect_recording, tasks, workers=workers, name="recordings"),
            strict=True,
        )
    )
    tapes = _tapes(spec, labels, {key[0]: recording for key, recording in opened.items()}, refused)
    return Survey(
        spec=spec,
        format=detect_format(spec),
        labels=labels,
        splits=splits,
        refused=refused,
        warned=tuple(dict.fromkeys(warned)),
        twins=twins,
        clips=tuple(_clips(spec, splits, opened)),
        recordings=tuple(opened.values()),
        tapes=tapes,
        decoding=Decoding(len(chosen), len(tasks)),
    )


def _key(segment: VideoSegment) -> Key:
    return segment.path, segment.fps, segment.template


def _decoded(wanted: Mapping[Key, Sequence[VideoSegment]], decode: bool | None) -> set[Key]:
    """The recordings whose clips are decoded; a sample takes all classes in turn."""
    if decode is False:
        return set()
    if decode or len(wanted) < MOST_DECODED:
        return set(wanted)
    by_class: defaultdict[int, list[Key]] = defaultdict(list)
    for key, found in wanted.items():
        by_class[found[0].label].append(key)
    share = MOST_DECODED / len(wanted)
    chosen: set[Key] = set()
    for keys in by_class.values():
        count = max(1, round(share * len(keys)))
        chosen.update(keys[i * len(keys) // count] for i in range(count))
    return chosen


def _clips(
    spec: DataSpec, splits: Mapping[str, Split], opened: Mapping[Key, Recording]
) -> Iterator[CheckedClip]:
    spans = {key: iter(recording.spans) for key, recording in opened.items()}
    for name, split in splits.items():
        if split.arrays is not None:
            yield from _array_clips(name, split, split.arrays)
            continue
        lines = lines_of(spec, name)
        for item, segment in enumerate(split.segments):
            span: Span = next(spans[_key(segment)])
            place = (segment.path, segment.start_s, segment.end_s)
            yield CheckedClip(
                split=name,
                item=item,
                label=split.labels[segment.label],
                name=split.name_of(item),
                line=next(lines.get(place, iter(())), ""),
                path=segment.path,
                group=segment.group,
                start_s=span.start_s,
                end_s=span.end_s,
                listed_end_s=segment.end_s,
                num_frames=span.num_frames,
                problem=span.problem,
            )


def _array_clips(name: str, split: Split, arrays: ArrayClips) -> Iterator[CheckedClip]:
    num_frames, height_px, width_px = arrays.frames.shape[1:4]
    own_size = PictureRule(height_px=height_px, width_px=width_px)
    clips = split.clips(own_size, ClipRule(1, 1.0, "segments"))
    if not isinstance(clips, ArrayClipSet):
        raise TypeError(f"a split of arrays must give an ArrayClipSet, got {type(clips)}")
    for item, (clip, _, label) in enumerate(clips.items):
        length_s = float(arrays.duration_s[clip])
        yield CheckedClip(
            split=name,
            item=item,
            label=split.labels[label],
            name=f"{name} {split.name_of(item)}",
            line="",
            path=None,
            group="",
            start_s=0.0,
            end_s=length_s,
            listed_end_s=length_s,
            num_frames=num_frames,
            problem="",
        )


def _tapes(
    spec: DataSpec,
    labels: Sequence[str],
    opened: Mapping[Path, Recording],
    refused: dict[str, str],
) -> tuple[Tape, ...]:
    found = []
    for name in TAPES:
        try:
            tapes = load_tapes(spec, name, labels) if has_tape(spec, name, labels) else []
        except DataError as err:
            # where a split cannot be read, its tape cannot either: said once
            if one_line(err) not in refused.values():
                refused[name] = one_line(err)
            continue
        for path, truth in tapes:
            video = opened.get(path) or inspect_recording(Task(path, None, None, (), True))
            found.append(Tape(name, video, tuple(truth)))
    return tuple(found)
