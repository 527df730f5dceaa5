"""What is wrong with a data set, or worth knowing, one sentence each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from train.data.check import Survey
from train.data.check_leaks import copies, label_conflicts, leaks, sessions
from train.data.clips import MAX_BROKEN
from train.data.finding import MOST_NAMED, SEVERITIES, Finding, Severity, count_of, named
from train.data.flips import unpaired

FEW_CLIPS = 20
IMBALANCE = 10.0  # largest class over smallest
FAR = 2.0  # a length beyond window × and ÷ this is far from it
FAR_SHARE = 0.25  # of the training clips
SLACK_S = 0.25  # lists round their times; ends may lie so far past a recording's


def findings_of(seen: Survey, num_segments: int = 8) -> list[Finding]:
    """All findings, errors first.

    Args:
        seen: What was seen of the data.
        num_segments: Frames T of a clip, as the recipe will have it.
    """
    found = [finding for rule in RULES for finding in rule(seen)]
    found += _few_frames(seen, num_segments)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _refused(seen: Survey) -> Iterator[Finding]:
    for name, reason in seen.refused.items():
        yield Finding("error", "refused", f"{name}: {reason}")
    for reason in seen.warned:
        yield Finding("warning", "format", reason)
    for name, twin in seen.twins.items():
        yield Finding(
            "note",
            "twin-split",
            f"{name} holds the very clips of {twin}: these data have one list for both, and an "
            f"accuracy on {name} is one on {twin}",
        )


def _missing(seen: Survey) -> Iterator[Finding]:
    for name, split in seen.splits.items():
        if split.skipped and name not in seen.refused:
            yield Finding(
                "warning",
                "missing",
                f"{name}: {count_of(split.skipped, 'listed recording')} not there and left out "
                f"({named(split.skipped)}); copy them, or take them off the list",
            )


def _unreadable(seen: Survey) -> Iterator[Finding]:
    for name in seen.splits:
        clips = seen.clips_of(name)
        broken = [clip for clip in clips if clip.problem]
        if not broken:
            continue
        is_too_much = len(broken) > MAX_BROKEN * len(clips)
        share = f"{len(broken)} of {len(clips)} clips of {name} cannot be read"
        limit = f"training stops at more than {MAX_BROKEN:.0%}"
        yield Finding(
            "error" if is_too_much else "warning",
            "unreadable",
            f"{share} ({len(broken) / len(clips):.1%}, {limit}); mend or remove what broken.txt "
            f"lists, the first one: {broken[0].reason}",
        )


def _classes(seen: Survey) -> Iterator[Finding]:
    counts = {name: Counter(clip.label for clip in seen.clips_of(name)) for name in seen.splits}
    elsewhere = {label for found in counts.values() for label in found}
    severity: dict[str, Severity] = {"train": "error", "validation": "warning"}
    for name, found in counts.items():
        without = [label for label in seen.labels if not found[label]]
        if not without:
            continue
        mismatch = [label for label in without if label in elsewhere]
        have = [other for other in counts if any(counts[other][label] for label in mismatch)]
        though = f", though {' and '.join(have)} have some of {named(mismatch)}" if have else ""
        what = (
            "a class that is not trained cannot be recognised; record some, or leave the class out "
            "(exclude in the recipe, drop in data.yaml)"
            if name == "train"
            else "they are not judged there"
        )
        yield Finding(
            severity.get(name, "note"),
            f"class-without-clips-{name}",
            f"{name} has no clip of {named(without)}{though}; {what}",
        )


def _class_sizes(seen: Survey) -> Iterator[Finding]:
    found = Counter(clip.label for clip in seen.clips_of("train") if not clip.problem)
    few = [f"{label} ({n})" for label in seen.labels if 0 < (n := found[label]) < FEW_CLIPS]
    if few:
        yield Finding(
            "warning",
            "few-clips",
            f"train has fewer than {FEW_CLIPS} clips of {named(few)}; record more",
        )
    if found:
        (most, many), (least, few_of) = found.most_common()[0], found.most_common()[-1]
        if many >= IMBALANCE * few_of:
            yield Finding(
                "warning",
                "imbalance",
                f"train has {many} clips of {most} and {few_of} of {least}; record more of the "
                "small classes, or set class_weights: true in the recipe",
            )


def _labels(seen: Survey) -> Iterator[Finding]:
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in seen.labels:
        alike["".join(c for c in label.casefold() if not (c.isspace() or c in "_-"))].append(label)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(repr(name) for name in names)
            yield Finding(
                "warning",
                "labels-alike",
                f"the classes {shown} differ only in case or spaces; if they are one, say so "
                "(merge in data.yaml)",
            )
    if alone := unpaired(seen.labels):
        yield Finding(
            "note",
            "unpaired",
            f"{named(alone)} {'names' if len(alone) == 1 else 'name'} a direction without a "
            "partner class: with flip: true in the recipe these clips are not mirrored",
        )


def _few_frames(seen: Survey, num_segments: int) -> Iterator[Finding]:
    short = [c for c in seen.clips if not c.problem and c.num_frames < num_segments]
    if short:
        least = min(short, key=lambda clip: clip.num_frames)
        yield Finding(
            "warning",
            "few-frames",
            f"{count_of(short, 'clip')} shorter than {num_segments} frames, which repeats some; "
            f"the shortest has {least.num_frames}: {least.where}; correct the list, or train with "
            "a smaller num_segments",
        )


def _lengths(seen: Survey) -> Iterator[Finding]:
    clips = [clip for clip in seen.clips_of("train") if not clip.problem]
    window_s = seen.window_s
    if window_s is None:
        return
    short = [clip for clip in clips if clip.length_s < window_s / FAR]
    long = [clip for clip in clips if clip.length_s > window_s * FAR]
    if len(short) + len(long) > FAR_SHARE * len(clips):
        classes = Counter(clip.label for clip in (*short, *long)).most_common(MOST_NAMED)
        yield Finding(
            "warning",
            "lengths",
            f"the lengths of the training clips differ widely: the window would be {window_s:g} s "
            f"(their median), {len(short)} of {len(clips)} are shorter than half of it and "
            f"{len(long)} longer than twice, most of them "
            f"{', '.join(f'{label} ({n})' for label, n in classes)}; cut long clips to the action, "
            "or set window_s in the recipe",
        )


def _beyond_the_end(seen: Survey) -> Iterator[Finding]:
    ends = {str(r.path): r.facts.duration_s for r in seen.recordings if r.facts is not None}
    late = [
        clip
        for clip in seen.clips
        if not clip.problem
        and clip.listed_end_s is not None
        and clip.path is not None
        and clip.listed_end_s > ends[str(clip.path)] + SLACK_S
    ]
    if late:
        first = late[0]
        yield Finding(
            "warning",
            "past-the-end",
            f"{count_of(late, 'clip')} listed past the end of the recording and cut there, the "
            f"first one: {first.where} ends at {first.listed_end_s:g} s, the recording at "
            f"{ends[str(first.path)]:.2f} s; correct the list",
        )


def _tapes(seen: Survey) -> Iterator[Finding]:
    in_splits = {recording.path for recording in seen.recordings}
    told: set[Path] = set()
    for tape in seen.tapes:
        video = tape.video
        if video.path in in_splits or video.path in told:
            continue
        told.add(video.path)
        if video.facts is None:
            yield Finding(
                "error", "tape-unreadable", f"{tape.name}: {video.problem}; live accuracy needs it"
            )
            continue
        end_s = video.facts.duration_s
        late = [action for action in tape.truth if action.end_s > end_s + SLACK_S]
        if late:
            yield Finding(
                "error",
                "tape-truth",
                f"{tape.name}: {len(late)} of {len(tape.truth)} actions lie past the end of "
                f"{video.path} ({end_s:.2f} s), the first one {late[0].label} at "
                f"{late[0].start_s:g}..{late[0].end_s:g} s; correct the truth file",
            )


def _pictures(seen: Survey) -> Iterator[Finding]:
    read = [recording for recording in seen.recordings if recording.facts is not None]
    turned = [r.path for r in read if r.facts is not None and r.facts.rotation]
    upright = [r.path for r in read if r.facts is not None and r.facts.height_px > r.facts.width_px]
    uneven = [r.path for r in read if r.is_uneven]
    if turned:
        yield Finding(
            "note",
            "rotated",
            f"{count_of(turned, 'recording')} stored turned, as phones do, and read upright "
            f"({named(turned)})",
        )
    if upright and len(upright) < len(read):
        yield Finding(
            "note",
            "portrait",
            f"{len(upright)} of {len(read)} recordings are higher than wide ({named(upright)}); "
            "with crop full they get bars at their sides: film as the camera will",
        )
    if uneven:
        yield Finding(
            "note",
            "uneven-rate",
            f"{count_of(uneven, 'recording')} of a variable frame rate ({named(uneven)}); frames "
            "are taken by time, so this does no harm",
        )


RULES: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
    _refused,
    _missing,
    _unreadable,
    _classes,
    leaks,
    copies,
    label_conflicts,
    sessions,
    _tapes,
    _class_sizes,
    _labels,
    _lengths,
    _beyond_the_end,
    _pictures,
)
