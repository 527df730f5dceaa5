"""Clips that are in a data set twice, or so near to each other that one gives the other away."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from runtime.files import sha256_of
from train.data.check import CheckedClip, Survey
from train.data.finding import Finding, count_of, named

OVERLAP_S = 0.05


def leaks(seen: Survey) -> Iterator[Finding]:
    """Recordings in two splits, with overlapping clips or without."""
    by_recording: defaultdict[str, defaultdict[str, list[CheckedClip]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for clip in seen.clips:
        if clip.path is not None:
            by_recording[os.path.realpath(clip.path)][clip.split].append(clip)
    shared: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    overlaps: defaultdict[tuple[str, str], list[tuple[CheckedClip, CheckedClip]]] = defaultdict(
        list
    )
    for path, splits in by_recording.items():
        for pair in combinations([name for name in seen.splits if name in splits], 2):
            # calibration only measures ranges, mostly on training clips: that is no leak
            if pair == ("train", "calibration"):
                continue
            shared[pair].append(path)
            overlaps[pair] += _overlapping(splits[pair[0]], splits[pair[1]])
    for pair, paths in shared.items():
        one, other = pair
        if found := overlaps[pair]:
            yield Finding(
                "error" if one == "train" else "warning",
                "overlap",
                f"{len(found)} of {len(seen.clips_of(other))} clips of {other} overlap clips of "
                f"{one}, the first one: {found[0][1].where} and {found[0][0].where}; the accuracy "
                f"on {other} would be flattered: put every recording into one split",
            )
        else:
            yield Finding(
                "warning",
                "same-recording",
                f"{count_of(paths, 'recording')} in {one} and in {other} ({named(paths)}); pieces "
                "of one recording are near duplicates: put every recording into one split",
            )


def _overlapping(
    one: Sequence[CheckedClip], other: Sequence[CheckedClip]
) -> list[tuple[CheckedClip, CheckedClip]]:
    """Clips of the second split with the first clip of the first split that each overlaps."""
    found = []
    for clip in other:
        for known in one:
            shared_s = min(clip.end_s, known.end_s) - max(clip.start_s, known.start_s)
            if shared_s > OVERLAP_S:
                found.append((known, clip))
                break
    return found


def sessions(seen: Survey) -> Iterator[Finding]:
    """Sessions in two splits; a group that is the recording itself says nothing new."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    of_class: defaultdict[str, set[str]] = defaultdict(set)
    for clip in seen.clips:
        if clip.group and clip.path is not None and not clip.path.as_posix().endswith(clip.group):
            groups[clip.group].add(clip.split)
            of_class[clip.label].add(clip.group)
    # a name that all clips of a class share is no session: wave_0001.mp4, wave_0002.mp4
    telling = {name for found in of_class.values() if len(found) > 1 for name in found}
    for one, other in combinations(seen.splits, 2):
        if (one, other) == ("train", "calibration"):
            continue
        both = sorted(g for g in telling if {one, other} <= groups[g])
        if both:
            yield Finding(
                "warning",
                "same-session",
                f"{count_of(both, 'session')} in {one} and in {other} ({named(both)}); clips of "
                "one session look alike, which flatters the accuracy: put a session into one split",
            )


def copies(seen: Survey) -> Iterator[Finding]:
    """Files of the same bytes under different names."""
    clips: defaultdict[str, list[CheckedClip]] = defaultdict(list)
    for clip in seen.clips:
        if clip.path is not None:
            clips[os.path.realpath(clip.path)].append(clip)
    for paths in _identical(path for path in clips if Path(path).is_file()):
        splits = {clip.split for path in paths for clip in clips[path]}
        labels = {clip.label for path in paths for clip in clips[path]}
        whole = all(clip.listed_end_s is None for path in paths for clip in clips[path])
        shown = f"{named(paths)} hold the same bytes under different names"
        if "train" in splits and splits & {"validation", "test"}:
            others = " and ".join(sorted(splits - {"train"}))
            yield Finding("error", "copies", f"{shown}, in train and in {others}; keep one of them")
        elif whole and len(labels) > 1:
            yield Finding(
                "error",
                "copies",
                f"{shown} and different labels ({named(sorted(labels))}); keep the right one",
            )
        else:
            yield Finding("warning", "copies", f"{shown}; keep one of them")


def _identical(paths: Iterable[str]) -> list[list[str]]:
    """Groups of files with the same bytes; only files of equal size are read."""
    sizes: defaultdict[int, list[str]] = defaultdict(list)
    for path in sorted(paths):
        sizes[Path(path).stat().st_size].append(path)
    alike = [path for found in sizes.values() if len(found) > 1 for path in found]
    digests: defaultdict[str, list[str]] = defaultdict(list)
    for path in tqdm(alike, desc="files of equal size", disable=None, leave=False):
        digests[sha256_of(Path(path))].append(path)
    return [found for found in digests.values() if len(found) > 1]


def label_conflicts(seen: Survey) -> Iterator[Finding]:
    """The very same clip listed twice."""
    spans: defaultdict[tuple[str, float, float | None], list[CheckedClip]] = defaultdict(list)
    for clip in seen.clips:
        if clip.path is not None and not clip.problem:
            spans[str(clip.path), clip.start_s, clip.listed_end_s].append(clip)
    twice = []
    for found in spans.values():
        names = {clip.split for clip in found} - {"calibration"}
        if len(found) > 1 and len(names) == 1:
            twice.append(found)
    torn = [found for found in twice if len({clip.label for clip in found}) > 1]
    for code, chosen, what in (
        ("label-conflict", torn, "different labels; keep the right one"),
        ("listed-twice", [f for f in twice if f not in torn], "the same label; keep one"),
    ):
        if chosen:
            yield Finding(
                "error" if code == "label-conflict" else "warning",
                code,
                f"{count_of(chosen, 'clip')} listed twice with {what}; the first one: "
                f"{chosen[0][0].where} and {chosen[0][1].where}",
            )
