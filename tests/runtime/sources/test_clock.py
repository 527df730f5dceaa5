from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sources.clock import FileClock, LiveClock


@given(st.lists(st.floats(-1e6, 1e9), min_size=1, max_size=40), st.floats(1, 240))
def test_file_times_always_rise(stated_msec, fps):
    clock = FileClock(fps)
    times = [clock.time_of(pos_msec) for pos_msec in stated_msec]
    assert times[0] >= 0
    assert all(later > earlier for earlier, later in zip(times, times[1:], strict=False))


@given(st.lists(st.tuples(st.floats(-1e6, 1e9), st.integers(1, 10**9)), min_size=1, max_size=40))
def test_live_times_never_fall(frames):
    clock, grabbed_ns, times = LiveClock(25), 0, []
    for pos_msec, passed_ns in frames:
        grabbed_ns += passed_ns
        times.append(clock.time_of(pos_msec, grabbed_ns))
    assert all(later >= earlier for earlier, later in zip(times, times[1:], strict=False))


def test_a_camera_that_restarts_its_clock_goes_on_by_grab_time():
    clock = LiveClock(25)
    stated = [(1000, 0.0), (1040, 0.04), (0, 0.08), (40, 0.12), (80, 0.16)]
    times = [clock.time_of(pos_msec, round(grab_s * 1e9)) for pos_msec, grab_s in stated]
    assert times == pytest.approx([1.0, 1.04, 1.08, 1.12, 1.16])


@pytest.mark.parametrize(
    ("stated_msec", "times_s"),
    [
        ([0, 0, 40, 80], [0, 0.04, 0.08, 0.12]),  # FFmpeg on most RTSP streams
        ([0, -120, -80, -40, 0, 40], [0, 0.04, 0.08, 0.12, 0.16, 0.2]),  # with B-frames
        ([0, 1000, 2000], [0, 1, 2]),  # the first one has a time, and it is 0
        ([920, 960, 1000], [0.92, 0.96, 1]),  # joined within a group of pictures
        ([0, 0, 80, 160], [0, 0.04, 0.12, 0.2]),  # a rate that varies
    ],
)
def test_a_first_frame_without_a_time_gets_one(stated_msec, times_s):
    clock = LiveClock(25)
    times = [clock.time_of(pos_msec, grabbed_ns=10**9) for pos_msec in stated_msec]
    assert times == pytest.approx(times_s)
