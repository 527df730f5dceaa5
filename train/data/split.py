"""One split of a data set: its clips, how long they are, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import DataError
from runtime.preprocess import PictureRule
from train.data.arrow_of_time import LABELS, PAIRS, ArrayClips
from train.data.augment import AugmentRule
from train.data.clips import MAX_BROKEN, ArrayClipSet, ClipRule, VideoClipSet
from train.data.decode import DEFAULT_FPS, probe
from train.data.entry import VideoSegment

MOST_PROBED = 500


@dataclass(frozen=True)
class Split:
    """One split of a data set: clips in arrays or segments of recordings.

    Attributes:
        labels: Class names in the order of the logits.
        arrays: Clips in arrays, or None.
        segments: Segments of recordings; empty where there are arrays.
        skipped: Recordings that are listed and not there; their clips are left out.
    """

    labels: tuple[str, ...]
    arrays: ArrayClips | None
    segments: tuple[VideoSegment, ...]
    skipped: tuple[Path, ...] = ()

    @property
    def lengths_s(self) -> list[float]:
        """Lengths of the clips, seconds.

        Clips that are whole files are opened for it, so at most 500 of a split with such clips
        are measured, evenly chosen.

        Raises:
            DataError: Too many of them cannot be read.
        """
        if self.arrays is not None:
            used = sorted({clip for clip, _, _ in self._array_items(self.arrays)})
            return [float(length) for length in self.arrays.duration_s[used]]
        chosen: Sequence[VideoSegment] = self.segments
        if any(segment.end_s is None for segment in chosen):
            count = min(len(chosen), MOST_PROBED)
            chosen = located([chosen[i * len(chosen) // count] for i in range(count)])
        return [s.end_s - s.start_s for s in chosen if s.end_s is not None]

    @property
    def clip_labels(self) -> list[int]:
        """Class index of every clip, in the order of the set."""
        if self.arrays is not None:
            return [label for _, _, label in self._array_items(self.arrays)]
        return [segment.label for segment in self.segments]

    def name_of(self, item: int) -> str:
        """One clip for people: its recording and where it starts, or its number."""
        if self.arrays is not None:
            clip, backwards, label = self._array_items(self.arrays)[item]
            way = " backwards" if backwards else ""
            return f"clip {clip}{way} ({self.labels[label]})"
        segment = self.segments[item]
        start = f" from {segment.start_s:g} s" if segment.start_s else ""
        return f"{segment.path}{start} ({self.labels[segment.label]})"

    def located(self) -> tuple[VideoSegment, ...]:
        """The segments with their ends; whole files are opened, unreadable ones are left out.

        Raises:
            DataError: Too many cannot be read.
        """
        return located(self.segments)

    def clips(
        self,
        picture: PictureRule,
        rule: ClipRule,
        augment: AugmentRule | None = None,
        *,
        cache: Path | None = None,
        broken_list: Path | None = None,
    ) -> ArrayClipSet | VideoClipSet:
        """The split as a set of clips.

        Args:
            picture: How a frame becomes the model's input.
            rule: How clips are cut.
            augment: How clips are varied.
            cache: Folder of decoded recordings, see `VideoClipSet`.
            broken_list: File that gets the clips that cannot be read, see `VideoClipSet`.

        Raises:
            DataError: Arrays of another size than the picture rule asks for.
        """
        if self.arrays is None:
            return VideoClipSet(
                self.segments, picture, rule, augment, cache=cache, broken_list=broken_list
            )
        found = self.arrays.frames.shape[2:4]
        if found != (picture.height_px, picture.width_px):
            raise DataError(
                f"the training arrays hold {found[0]}×{found[1]} pictures, the recipe asks for "
                f"{picture.height_px}×{picture.width_px}; make the data with that --picture-px"
            )
        items = self._array_items(self.arrays)
        return ArrayClipSet(self.arrays.frames, self.arrays.duration_s, items, rule, augment)

    def _array_items(self, arrays: ArrayClips) -> list[tuple[int, bool, int]]:
        """Clip, whether it runs backwards, and class, of the classes in use."""
        return [
            (clip, backwards, self.labels.index(name))
            for clip, label in enumerate(arrays.label)
            for backwards in (False, True)
            if (name := PAIRS[LABELS[label]] if backwards else LABELS[label]) in self.labels
        ]


def located(segments: Sequence[VideoSegment]) -> tuple[VideoSegment, ...]:
    """Segments with their ends, see `Split.located`."""
    found = []
    problems: list[DataError] = []
    for segment in segments:
        if segment.end_s is not None:
            found.append(segment)
            continue
        try:
            facts = probe(segment.path, fps=segment.fps or DEFAULT_FPS, template=segment.template)
        except DataError as err:
            problems.append(err)
        else:
            found.append(replace(segment, end_s=facts.duration_s))
    if len(problems) > MAX_BROKEN * len(segments):
        raise DataError(
            f"{len(problems)} of {len(segments)} clips cannot be read, at most {MAX_BROKEN:.0%} "
            f"may; mend or remove them, the first one: {problems[0]}"
        ) from problems[0]
    return tuple(found)
