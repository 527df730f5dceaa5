"""Recordings in folds: whole recordings, classes balanced as well as possible, the same every time.

Pieces of one recording are near duplicates. A model that has seen some of them must not be judged
on others, so a recording (or a session) is never cut.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from runtime.files import whole_file
from train.data.entry import VideoSegment
from train.data.formats.table import read_table

COLUMNS = ("path", "fold")
# Groups up to this number are also moved and exchanged until nothing gets better.
MOST_IMPROVED = 200

Counts = NDArray[np.float64]


def grouped_folds(
    segments: Sequence[VideoSegment], num_folds: int, seed: int = 0
) -> dict[Path, int]:
    """Put recordings into folds.

    Args:
        segments: Clips of the data; a clip's group is what stays together, its path if empty.
        num_folds: Folds K, >= 2.
        seed: Of the choice among equals.

    Returns:
        Fold 0..K-1 by path, for every path of the clips.

    Raises:
        ValueError: Fewer than two folds.
        DataError: Fewer groups than folds.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be >= 2, got {num_folds}")
    groups = [segment.group or str(segment.path) for segment in segments]
    if len(set(groups)) < num_folds:
        raise DataError(
            f"{len(set(groups))} recordings are too few for {num_folds} folds; record more, or "
            "take fewer folds"
        )
    labels = [segment.label for segment in segments]
    place = grouped_split(labels, groups, [1 / num_folds] * num_folds, seed)
    return {segment.path: place[group] for segment, group in zip(segments, groups, strict=True)}


def grouped_split(
    labels: Sequence[Hashable], groups: Sequence[str], shares: Sequence[float], seed: int
) -> dict[str, int]:
    """Put groups of clips into parts so that each part has its share of every class.

    Large groups are placed first, each where it helps most; then groups are moved and exchanged
    as long as that helps. Clips that are alone in their group fill up class by class.

    Args:
        labels: Class of every clip.
        groups: Group of every clip.
        shares: Share of each part, > 0, together 1.
        seed: Of the choice among equals.

    Returns:
        Part 0..len(shares)-1 by group.

    Example:
        >>> part = grouped_split("aabb", ["x", "y", "x", "y"], [0.5, 0.5], seed=0)
        >>> sorted(part.values())
        [0, 1]
    """
    classes = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    members: defaultdict[str, list[int]] = defaultdict(list)
    for label, group in zip(labels, groups, strict=True):
        members[group].append(classes[label])
    totals = np.bincount([classes[label] for label in labels], minlength=len(classes))
    rng = np.random.default_rng(seed)
    parts = _Parts(np.zeros((len(shares), len(classes))), totals.astype(float), np.array(shares))
    large = [group for group, found in members.items() if len(found) > 1]
    counts = np.zeros((len(large), len(classes)))
    for row, group in enumerate(large):
        np.add.at(counts[row], members[group], 1)
    place = _placed(parts, counts, rng)
    chosen = dict(zip(large, place.tolist(), strict=True))
    single = [group for group, found in members.items() if len(found) == 1]
    by_class: defaultdict[int, list[str]] = defaultdict(list)
    for group in single:
        by_class[members[group][0]].append(group)
    for number in sorted(by_class):
        chosen.update(_filled(parts, number, by_class[number], rng))
    return chosen


def fill_part(
    part: dict[str, int], number: int, among: Sequence[str], groups: Sequence[str]
) -> None:
    """Where none of some groups is in a part, put the smallest of them there.

    Two groups of one size are both far above a small share, so a split may leave a part empty.

    Args:
        part: What `grouped_split` gave, changed in place.
        number: The part.
        among: The groups that may go there, at least one.
        groups: Group of every clip.
    """
    if not any(part[group] == number for group in among):
        part[min(among, key=groups.count)] = number


def write_folds(path: Path, folds: Mapping[Path, int], root: Path) -> None:
    """Write a csv file `path,fold`, paths relative to the data's root; whole or not at all."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for recording, fold in sorted(folds.items()):
            inside = recording.is_relative_to(root)
            writer.writerow([recording.relative_to(root) if inside else recording, fold])


def read_folds(path: Path, root: Path) -> dict[Path, int]:
    """Read what `write_folds` wrote.

    Raises:
        DataError: The file cannot be read, or a line is wrong.
    """
    table = read_table(path, COLUMNS)
    folds: dict[Path, int] = {}
    for row, (name, fold) in enumerate(
        zip(table.column("path"), table.column("fold"), strict=True)
    ):
        if not fold.isdecimal():
            raise DataError(f"{table.where(row)}: fold must be a number 0, 1, …, got {fold!r}")
        if not name or root / name in folds:
            raise DataError(f"{table.where(row)}: the path {name!r} is empty or there twice")
        folds[root / name] = int(fold)
    if not folds:
        raise DataError(f"{path} lists no recording")
    return folds


@dataclass(frozen=True, eq=False)
class _Parts:
    """Clips of each part and class so far, shape (B, C), and what they should come to."""

    counts: Counts
    totals: Counts
    shares: Counts

    def cost(self, counts: Counts, part: int | NDArray[np.int64]) -> Counts:
        """How far a part with these counts (…, C) is from its share; large where a class lacks."""
        share = self.shares[part]
        found = counts / self.totals
        lacking = (counts == 0).sum(-1)
        distance: Counts = ((found - share[..., None]) ** 2).sum(-1) / share + lacking * share
        return distance


def _placed(parts: _Parts, counts: Counts, rng: np.random.Generator) -> NDArray[np.int64]:
    """Part of each group; `parts.counts` is brought up to date."""
    place = np.zeros(len(counts), np.int64)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    every = np.arange(len(parts.shares))
    for group in order:
        gain = parts.cost(parts.counts + counts[group], every) - parts.cost(parts.counts, every)
        place[group] = int(np.argmin(np.round(gain, 9)))
        parts.counts[place[group]] += counts[group]
    if len(counts) <= MOST_IMPROVED:
        while _improved(parts, counts, place):
            pass
    return place


def _improved(parts: _Parts, counts: Counts, place: NDArray[np.int64]) -> bool:
    """Make the best single move or exchange of each group; whether there was any."""
    any_better = False
    every = np.arange(len(parts.shares))
    for group in range(len(counts)):
        own = int(place[group])
        # row g < G: exchange with group g; row G + b: move to part b
        given = np.concatenate([counts, np.zeros((len(every), counts.shape[1]))])
        to = np.concatenate([place, every])
        own_after = parts.counts[own] - counts[group] + given
        to_after = parts.counts[to] + counts[group] - given
        before = parts.cost(parts.counts[own], np.array(own)) + parts.cost(parts.counts[to], to)
        gain = parts.cost(own_after, np.array(own)) + parts.cost(to_after, to) - before
        gain[to == own] = 0.0
        best = int(np.argmin(np.round(gain, 9)))
        if gain[best] < -1e-9:
            other = int(to[best])
            parts.counts[own] = own_after[best]
            parts.counts[other] = to_after[best]
            place[group] = other
            if best < len(counts):
                place[best] = own
            any_better = True
    return any_better


def _filled(
    parts: _Parts, label: int, groups: Sequence[str], rng: np.random.Generator
) -> dict[str, int]:
    """Parts of the clips of one class that are alone in their groups."""
    wanted = parts.shares * parts.totals[label] - parts.counts[:, label]
    quota = np.maximum(np.floor(wanted + 1e-9), 0)
    # a part without the class gets a clip before the others get their share
    lacking = (quota == 0) & (parts.counts[:, label] == 0)
    for part in np.argsort(-parts.shares, kind="stable"):
        if lacking[part] and quota.sum() < len(groups):
            quota[part] = 1
        elif lacking[part] and quota.max() > 1:
            quota[int(np.argmax(quota))] -= 1
            quota[part] = 1
    while quota.sum() != len(groups):
        step = 1 if quota.sum() < len(groups) else -1
        rest = step * (wanted - quota)
        rest[(quota == 0) & (step < 0)] = -np.inf
        # among equals the part that has fewest clips for its share
        size = step * parts.counts.sum(1) / parts.shares
        quota[int(np.lexsort((size, -np.round(rest, 9)))[0])] += step
    parts.counts[:, label] += quota
    place = np.repeat(np.arange(len(quota)), quota.astype(np.int64))
    order = rng.permutation(len(groups))
    return {groups[index]: int(part) for index, part in zip(order, place, strict=True)}
