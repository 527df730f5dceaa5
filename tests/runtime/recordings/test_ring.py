from __future__ import annotations

from runtime.recordings.ring import FrameRing, Kept


def kept(time_s, *, tick_s=None, may_start=False, size=10):
    return Kept(time_s=time_s, jpeg=bytes(size), tick_s=tick_s, may_start=may_start)


def ticks(ring, count, *, phases=2, spare=False):
    """A tick every quarter second, two phases; a spare frame between two."""
    for index in range(count):
        time_s = index / 4
        ring.add(kept(time_s, tick_s=time_s, may_start=index % phases == 0))
        if spare:
            ring.add(kept(time_s + 0.1))


def times(frames):
    return [round(frame.time_s, 3) for frame in frames]


def test_it_holds_seconds():
    ring = FrameRing(1.0)
    ticks(ring, 20)
    assert len(ring) == 5
    assert ring.num_bytes == 50


def test_a_recording_begins_on_a_tick_of_phase_0_at_or_before_its_time():
    ring = FrameRing(10.0)
    ticks(ring, 9)
    assert times(ring.since(1.3)) == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert times(ring.since(1.0))[0] == 1.0
    assert times(ring.since(0.99))[0] == 0.5


def test_it_begins_later_where_the_stream_began_later():
    ring = FrameRing(10.0)
    ring.add(kept(0.0))
    ring.add(kept(0.25, tick_s=0.25))
    ring.add(kept(0.5, tick_s=0.5, may_start=True))
    assert times(ring.since(-3.0)) == [0.5]
    ring.clear()
    ring.add(kept(1.0, tick_s=1.0))
    assert ring.since(-3.0) == []


def test_frames_that_the_model_did_not_use_go_first():
    ring = FrameRing(100.0, max_bytes=100)
    ticks(ring, 8, spare=True)
    assert ring.num_bytes <= 100
    assert [t for t in times(ring.since(0)) if t % 0.25 == 0] == [index / 4 for index in range(8)]
    ticks_only = FrameRing(100.0, max_bytes=100)
    ticks(ticks_only, 20)
    assert times(ticks_only.since(0))[0] == 2.5
    assert len(ticks_only) == 10


def test_a_picture_larger_than_the_bound_is_kept_alone():
    ring = FrameRing(100.0, max_bytes=5)
    ticks(ring, 3)
    assert len(ring) == 1
