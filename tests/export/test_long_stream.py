"""The long stream: all blocks hold the same clips, and nothing but the order is by chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.clip_list import read_clip_list
from export.stream.long_stream import MOST_PICTURES, NUM_PARTS, stream_clips, stream_of
from runtime.errors import DataError


def clips_of(lengths):
    """Clips whose pictures hold their clip's number and their own."""
    return [
        np.stack([np.full((1, 1, 3), (clip, place, 0), np.uint8) for place in range(length)])
        for clip, length in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 700))
def test_every_block_holds_the_same_clips(lengths, steps):
    stream = stream_of(clips_of(lengths), steps)
    frames = [tuple(frame[0, 0, :2].tolist()) for frame in stream]
    assert len(frames) == stream.steps == NUM_PARTS * stream.block_steps >= steps
    size = stream.block_steps
    blocks = [Counter(frames[i : i + size]) for i in range(0, len(frames), size)]
    assert all(block == blocks[0] for block in blocks)
    assert set(blocks[0].values()) == {stream.rounds}


def test_clips_stay_whole_and_their_order_changes():
    stream = stream_of(clips_of([3, 2, 4, 1]), 110)
    frames = [tuple(frame[0, 0, :2].tolist()) for frame in stream]
    starts = [clip for clip, place in frames if place == 0]
    for (clip, place), (next_clip, next_place) in zip(frames, frames[1:], strict=False):
        assert (next_clip, next_place) == (clip, place + 1) or next_place == 0
    rounds = [tuple(starts[i : i + 4]) for i in range(0, len(starts), 4)]
    assert len(set(rounds)) > 5
    assert frames == [tuple(frame[0, 0, :2].tolist()) for frame in stream]


def test_a_stream_is_as_long_as_wanted_and_hardly_longer():
    stream = stream_of(clips_of([8] * 200), 1000)
    assert (stream.rounds, len(stream.clips), stream.steps) == (1, 12, 1056)
    few = stream_of(clips_of([8] * 3), 1000)
    assert (few.rounds, few.steps) == (4, 1056)


@pytest.mark.parametrize(("lengths", "steps"), [([], 10), ([0, 3], 10), ([3], 0)])
def test_nothing_to_stream_is_refused(lengths, steps):
    clips = [np.zeros((length, 1, 1, 3), np.uint8) for length in lengths]
    with pytest.raises(ValueError, match="want clips with pictures and steps >= 1"):
        stream_of(clips, steps)


def test_clips_that_cannot_be_read_are_passed_over(built, tmp_path):
    bundle = built.bundle
    listed = read_clip_list(bundle.folder.parent / "clips.jsonl")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    bad = type(listed[0])(str(broken), 0.0, 1.0, listed[0].label, 0.0)
    found = stream_clips([bad, *listed], bundle.picture, bundle.sampling, 200)
    assert 19 <= sum(len(clip) for clip in found) <= MOST_PICTURES
    assert all(clip.shape[1:] == (32, 32, 3) for clip in found)
    with pytest.raises(DataError, match=r"no clip of the list can be read .*broken"):
        stream_clips([bad], bundle.picture, bundle.sampling, 200)
