"""The arithmetic of a group's clock; what follows from it is in test_conductor.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.group_clock import GroupClock, StreamClock
from runtime.segments import SegmentSchedule
from runtime.sources.frame import Frame

NS = 1e9
PICTURE = np.zeros((4, 4, 3), np.uint8)


def frame(index, stream_time_s, grabbed_s):
    return Frame(PICTURE, index, stream_time_s, round(grabbed_s * NS))


@given(st.integers(1, 4), st.integers(0, 3), st.floats(0, 100))
def test_a_tick_is_early_by_any_time_and_late_by_half_an_interval_at_most(phases, phase, time_s):
    phase %= phases
    clock = GroupClock(window_s=2.0, num_segments=4)
    clock.since_tick(0, phases)  # the first one sets where ticks are
    interval_s = 0.5 / phases
    off_s = clock.off_by_s(time_s * NS, phase, phases)
    assert -0.5 + interval_s / 2 - 1e-6 <= off_s <= interval_s / 2 + 1e-6
    spacings = (time_s - off_s - phase * interval_s) / 0.5
    assert spacings == pytest.approx(round(spacings), abs=1e-6)


@given(st.integers(1, 3), st.floats(0, 50), st.floats(-1000, 1000))
def test_a_beginning_is_one_of_the_groups_ticks(phases, grabbed_s, stream_time_s):
    group = GroupClock(window_s=1.0, num_segments=4)
    group.since_tick(0, phases)
    beginning = StreamClock(group, "camera").begin(frame(0, stream_time_s, grabbed_s), phases)
    begins_s = grabbed_s + beginning.start_s - stream_time_s
    off_s = group.off_by_s(begins_s * NS, beginning.first_phase, phases)
    assert off_s == pytest.approx(0, abs=1e-6)
    interval_s = 0.25 / phases
    assert -interval_s / 2 - 1e-6 <= begins_s - grabbed_s <= interval_s / 2 + 1e-6


def test_the_first_stream_begins_with_its_first_frame():
    beginning = StreamClock(GroupClock(1.0, 4), "camera").begin(frame(0, 7.0, 123.4), 2)
    assert (beginning.start_s, beginning.first_phase) == (7.0, 0)


def test_the_frame_to_come_is_expected_by_the_rate_so_far_dropped_ones_too():
    clock = StreamClock(GroupClock(1.0, 4), "camera")
    clock.begin(frame(0, 0.0, 50.0), 1)
    for index in (0, 1, 2, 5, 6, 10):  # 25 frames a second, some of them dropped
        clock.see(frame(index, index / 25, 50 + index / 25))
    assert clock.arrival_ns(0.51) / NS == pytest.approx(50.52, abs=0.001)
    assert clock.arrival_ns(0.1) / NS == pytest.approx(50.44, abs=0.001)  # overdue: the next one


def test_only_the_fastest_frame_of_a_window_tells_the_time():
    group = GroupClock(1.0, 4)
    group.since_tick(0, 1)
    clock, schedule = StreamClock(group, "camera"), SegmentSchedule(1.0, 4)
    delays_s = np.random.default_rng(0).uniform(0.03, 0.2, 200)
    delays_s[::20] = 0.03  # one in twenty comes as fast as it can
    slips_s = []
    for index, delay_s in enumerate(delays_s):
        each = frame(index, index / 25, 10 + index / 25 + delay_s)
        if not schedule.has_begun:
            beginning = clock.begin(each, 1)
            schedule.begin(beginning.start_s, beginning.first_phase)
        clock.see(each)
        tick = schedule.offer(each.stream_time_s)
        if tick is not None:
            slips_s.append(clock.slip_s(tick, 1))
            schedule.slip(slips_s[-1])
    assert slips_s == [0.0] * len(slips_s)
