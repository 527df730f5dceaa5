"""A data set in numbers: class by class and all together, for a terminal, a page and a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from train.data.check import CheckedClip, Survey
from train.data.finding import SEVERITIES, Finding
from train.data.packet_index import VideoFacts

MOST_ROWS = 30
MOST_NAME = 32


@dataclass(frozen=True)
class Spread:
    """Least, median, largest and sum of some numbers."""

    min: float
    median: float
    max: float
    total: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no numbers."""
        if not values:
            return None
        found = (min(values), median(values), max(values), sum(values))
        return cls(*(round(float(value), 3) for value in found))


@dataclass(frozen=True)
class ClassFacts:
    """One class.

    Attributes:
        label: Its name.
        clips: Number of clips by split.
        unreadable: How many of them cannot be read.
        length_s: Lengths of those that can, seconds.
        frames: Frames in them.
        sizes: Number of clips by picture size, such as `320×240`.
        fps: Number of clips by frame rate.
    """

    label: str
    clips: Mapping[str, int]
    unreadable: int
    length_s: Spread | None
    frames: Spread | None
    sizes: Mapping[str, int]
    fps: Mapping[str, int]


@dataclass(frozen=True)
class RecordingFacts:
    """All recordings.

    Attributes:
        number: How many there are.
        unreadable: How many cannot be opened.
        duration_s: Their lengths, seconds.
        frames: Frames in them.
        sizes: Number of recordings by picture size.
        fps: By frame rate.
        codecs: By codec.
    """

    number: int
    unreadable: int
    duration_s: Spread | None
    frames: Spread | None
    sizes: Mapping[str, int]
    fps: Mapping[str, int]
    codecs: Mapping[str, int]


def class_facts(seen: Survey) -> list[ClassFacts]:
    """Every class, in the order of the logits."""
    facts = {str(r.path): r.facts for r in seen.recordings if r.facts is not None}
    by_class: dict[str, list[CheckedClip]] = {label: [] for label in seen.labels}
    for clip in seen.clips:
        by_class[clip.label].append(clip)
    return [_class_facts(label, clips, seen, facts) for label, clips in by_class.items()]


def recording_facts(seen: Survey) -> RecordingFacts:
    """All recordings together."""
    facts = [recording.facts for recording in seen.recordings if recording.facts is not None]
    return RecordingFacts(
        number=len(seen.recordings),
        unreadable=len(seen.recordings) - len(facts),
        duration_s=Spread.of([one.duration_s for one in facts]),
        frames=Spread.of([one.num_frames for one in facts]),
        sizes=_counted(_size(one) for one in facts),
        fps=_counted(f"{one.fps:.4g}" for one in facts),
        codecs=_counted(one.codec for one in facts),
    )


def to_json(seen: Survey, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `prepare.json` holds."""
    return {
        "data": str(seen.spec.where),
        "format": seen.format,
        "labels": list(seen.labels),
        "splits": {name: len(seen.clips_of(name)) for name in seen.splits},
        "window_s": seen.window_s,
        "classes": [asdict(one) for one in class_facts(seen)],
        "recordings": asdict(recording_facts(seen)),
        "decoded": asdict(seen.decoding),
        "tapes": [
            {"name": tape.name, "path": str(tape.video.path), "actions": len(tape.truth)}
            for tape in seen.tapes
        ],
        "findings": [asdict(finding) for finding in findings],
    }


def table(seen: Survey, findings: Sequence[Finding]) -> str:
    """What the terminal shows: a line a class, and the findings."""
    splits = list(seen.splits)
    facts = class_facts(seen)
    width = max([5, *(len(short_name(one.label)) for one in facts[:MOST_ROWS])])
    head = f"{'class':<{width}}" + "".join(f"{name:>12}" for name in splits)
    lines = [f"{head}{'length s: min':>15}{'median':>9}{'max':>9}{'total':>11}"]
    for one in facts[:MOST_ROWS]:
        counts = "".join(f"{one.clips[name]:>12}" for name in splits)
        lines.append(f"{short_name(one.label):<{width}}{counts}{_lengths(one.length_s)}")
    if len(facts) > MOST_ROWS:
        lines.append(f"… and {len(facts) - MOST_ROWS} more classes, see the page")
    totals = "".join(f"{len(seen.clips_of(name)):>12}" for name in splits)
    every = Spread.of([clip.length_s for clip in seen.clips if not clip.problem])
    lines.append(f"{'all':<{width}}{totals}{_lengths(every)}")
    return "\n".join([*lines, *facts_lines(seen), *(_line(finding) for finding in findings)])


def facts_lines(seen: Survey) -> list[str]:
    """Format, recordings and how much was decoded, one sentence each."""
    found = recording_facts(seen)
    lines = [f"format {seen.format}, {len(seen.labels)} classes, {len(seen.clips)} clips"]
    if found.number:
        total_s = found.duration_s.total if found.duration_s else 0.0
        lines.append(
            f"{found.number} recordings, {duration(total_s)}, {found.unreadable} that cannot be "
            f"opened; pixels {most(found.sizes)}; frames a second {most(found.fps)}; codec "
            f"{most(found.codecs)}"
        )
        lines.append(_decoded(seen))
    if seen.window_s is not None:
        lines.append(f"window (median training clip): {seen.window_s:g} s")
    return lines


def summary_line(findings: Sequence[Finding]) -> str:
    """How many findings of each severity.

    Example:
        >>> summary_line([Finding("note", "x", "…"), Finding("error", "y", "…")])
        '1 error, 0 warnings, 1 note'
    """
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in SEVERITIES)


def short_name(label: str) -> str:
    """A label that fits a table."""
    return label if len(label) <= MOST_NAME else label[: MOST_NAME - 1] + "…"


def most(counts: Mapping[str, int], named: int = 3) -> str:
    """The most frequent ones.

    Example:
        >>> most({"25": 9, "30": 1, "24": 1, "12": 1})
        '25 (9), 30 (1), 24 (1) and 1 more'
    """
    if len(counts) == 1:
        return next(iter(counts))
    shown = ", ".join(f"{value} ({count})" for value, count in list(counts.items())[:named])
    return f"{shown} and {len(counts) - named} more" if len(counts) > named else shown


def duration(seconds: float) -> str:
    """A length for people.

    Example:
        >>> duration(12.34), duration(754), duration(9000)
        ('12.3 s', '12.6 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _class_facts(
    label: str, clips: Sequence[CheckedClip], seen: Survey, facts: Mapping[str, VideoFacts]
) -> ClassFacts:
    good = [clip for clip in clips if not clip.problem]
    counts = Counter(clip.split for clip in clips)
    videos = [facts[str(clip.path)] for clip in good if clip.path is not None]
    arrays = [a for clip in good if (a := seen.splits[clip.split].arrays) is not None]
    sizes = [_size(one) for one in videos] + [
        f"{a.frames.shape[3]}×{a.frames.shape[2]}" for a in arrays
    ]
    return ClassFacts(
        label=label,
        clips={name: counts[name] for name in seen.splits},
        unreadable=len(clips) - len(good),
        length_s=Spread.of([clip.length_s for clip in good]),
        frames=Spread.of([clip.num_frames for clip in good]),
        sizes=_counted(sizes),
        fps=_counted(f"{one.fps:.4g}" for one in videos),
    )


def _counted(values: Iterable[str]) -> dict[str, int]:
    """Numbers by value, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _size(facts: VideoFacts) -> str:
    return f"{facts.width_px}×{facts.height_px}"


def _lengths(length_s: Spread | None) -> str:
    if length_s is None:
        return f"{'-':>15}{'-':>9}{'-':>9}{'-':>11}"
    total = duration(length_s.total)
    return f"{length_s.min:>15.2f}{length_s.median:>9.2f}{length_s.max:>9.2f}{total:>11}"


def _decoded(seen: Survey) -> str:
    done, of = seen.decoding.recordings, seen.decoding.of
    if done == of:
        return "first, middle and last frame of every clip were decoded"
    if not done:
        return "no clip was decoded beyond its recording's first frame (--decode does)"
    return (
        f"the clips of {done} of {of} recordings were decoded, a sample of all classes "
        "(--decode takes them all)"
    )


def _line(finding: Finding) -> str:
    return f"{finding.severity}: {finding.text}"
