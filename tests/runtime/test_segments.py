from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling import SamplingContract
from runtime.segments import TOLERANCE_S, LogitsRings, SegmentSchedule, Tick

MILLISECONDS = st.integers(0, 3000)
SCHEDULES = st.tuples(
    st.floats(0.2, 20.0), st.integers(1, 16), st.integers(1, 4)
)  # window_s, num_segments, phases
ARRIVALS = st.lists(st.integers(1, 900), min_size=1, max_size=80)  # ms between frames
STARTS = st.floats(-1e5, 1e5)


def run(schedule, start_s, gaps_ms):
    """Arrival times and what the schedule answered to each."""
    times = start_s + np.cumsum([0, *gaps_ms]) / 1000
    return [(time_s, schedule.offer(float(time_s))) for time_s in times]


@given(SCHEDULES, STARTS, ARRIVALS)
def test_a_tick_uses_the_first_frame_at_or_after_its_time(settings, start_s, gaps_ms):
    schedule = SegmentSchedule(*settings)
    answers = run(schedule, start_s, gaps_ms)
    for position, (time_s, tick) in enumerate(answers):
        if tick is None:
            continue
        assert time_s >= tick.time_s - 2 * TOLERANCE_S
        assert time_s < tick.time_s + schedule.interval_s + TOLERANCE_S
        if position > 0:  # no earlier frame would have done
            assert answers[position - 1][0] < tick.time_s + TOLERANCE_S


@given(SCHEDULES, STARTS, ARRIVALS)
def test_every_tick_is_served_once_or_missed(settings, start_s, gaps_ms):
    schedule = SegmentSchedule(*settings)
    ticks = [tick for _, tick in run(schedule, start_s, gaps_ms) if tick is not None]
    indices = [tick.index for tick in ticks]
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert indices[-1] + 1 == len(ticks) + schedule.missed
    assert schedule.missed == sum(tick.missed for tick in ticks)
    assert all(tick.phase == tick.index % settings[2] for tick in ticks)


@given(SCHEDULES, STARTS, ARRIVALS)
def test_no_phase_steps_faster_than_the_spacing(settings, start_s, gaps_ms):
    schedule = SegmentSchedule(*settings)
    last: dict[int, Tick] = {}
    for _, tick in run(schedule, start_s, gaps_ms):
        if tick is None:
            continue
        before = last.get(tick.phase)
        assert tick.is_first == (before is None)
        if before is not None:
            spacings = (tick.index - before.index) / settings[2]
            assert spacings == int(spacings) >= 1
            assert tick.is_gap == (spacings > 2)
        last[tick.phase] = tick


@given(SCHEDULES, STARTS, ARRIVALS)
def test_the_schedule_depends_on_nothing_but_times_since_the_start(settings, start_s, gaps_ms):
    first, second = SegmentSchedule(*settings), SegmentSchedule(*settings)
    run(first, start_s, gaps_ms)
    first.restart()
    after_restart = [tick and tick.index for _, tick in run(first, 0.0, gaps_ms)]
    assert after_restart == [tick and tick.index for _, tick in run(second, 0.0, gaps_ms)]


def test_frames_exactly_on_ticks_all_count():
    schedule = SegmentSchedule(window_s=8 * 0.04, num_segments=8)
    ticks = [schedule.offer(index * 0.04) for index in range(1000)]
    assert all(ticks)
    assert schedule.missed == 0


def test_a_pause_of_two_spacings_goes_on_and_a_longer_one_resets():
    schedule = SegmentSchedule(window_s=4.0, num_segments=4)
    ticks = [schedule.offer(time_s) for time_s in (0, 1, 3, 6)]
    assert [(tick.index, tick.missed, tick.is_gap) for tick in ticks if tick] == [
        (0, 0, False),
        (1, 0, False),
        (3, 1, False),
        (6, 2, True),
    ]


@pytest.mark.parametrize("arguments", [(0.0, 8, 1), (float("nan"), 8, 1), (1.0, 0, 1), (1.0, 8, 0)])
def test_bad_schedules_are_refused(arguments):
    with pytest.raises(ValueError, match="must be >"):
        SegmentSchedule(*arguments)


def test_a_schedule_can_begin_at_a_time_and_phase_of_its_own():
    schedule = SegmentSchedule(1.0, 2, phases=2)
    assert (schedule.has_begun, schedule.next_tick) == (False, None)
    schedule.begin(10.1, 1)
    assert schedule.next_tick == (10.1, 1)
    ticks = [schedule.offer(10 + index / 10) for index in range(8)]
    assert [(n, tick.index, tick.phase) for n, tick in enumerate(ticks) if tick] == [
        (1, 0, 1), (4, 1, 0), (6, 2, 1)
    ]  # fmt: skip
    assert [tick.is_first for tick in ticks if tick] == [True, True, False]
    assert schedule.next_tick is not None
    assert schedule.next_tick == pytest.approx((10.85, 0))
    with pytest.raises(ValueError, match="has begun; restart it first"):
        schedule.begin(0.0, 0)
    schedule.restart()
    with pytest.raises(ValueError, match=r"first_phase must be 0 ... 1, got 2"):
        schedule.begin(0.0, 2)
    tick = schedule.offer(3.0)
    assert tick is not None
    assert (tick.index, tick.phase, tick.time_s) == (0, 0, 3.0)


@given(st.floats(-0.12, 0.4), st.integers(1, 3))
def test_a_schedule_slips_and_no_tick_comes_twice_or_is_left_out(later_s, phases):
    schedule = SegmentSchedule(1.0, 2, phases)
    before = [schedule.offer(index / 100) for index in range(201)]
    last = [tick for tick in before if tick][-1]
    slip_s = max(later_s, -schedule.interval_s / 2 + 0.01)
    schedule.slip(slip_s)
    after = [schedule.offer(2 + index / 100) for index in range(1, 301)]
    ticks = [tick for tick in after if tick]
    assert [tick.index for tick in ticks] == list(range(last.index + 1, ticks[-1].index + 1))
    assert [tick.missed for tick in ticks] == [0] * len(ticks)
    assert ticks[0].time_s == pytest.approx(last.time_s + schedule.interval_s + slip_s)
    assert not any(tick.is_gap for tick in ticks)


def test_nothing_slips_before_it_began():
    with pytest.raises(ValueError, match="has not begun; there is nothing to move"):
        SegmentSchedule(1.0, 2).slip(0.1)


def test_bad_times_are_refused():
    with pytest.raises(ValueError, match="time_s must be finite, got nan"):
        SegmentSchedule(1.0, 2).offer(float("nan"))


def tick_at(index: int, phases: int = 1) -> Tick:
    return Tick(index, index % phases, float(index), 0, is_first=False, is_gap=False)


def contract(num_segments: int, consensus_len: int) -> SamplingContract:
    return SamplingContract(num_segments=num_segments, window_s=1.0, consensus_len=consensus_len)


@given(st.integers(1, 8), st.integers(1, 16), st.integers(1, 3), st.data())
def test_rings_hold_the_newest_of_the_window(num_segments, consensus_len, phases, data):
    rings = LogitsRings(contract(num_segments, consensus_len), phases)
    indices = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1)))
    for index in indices:
        rings.add(tick_at(index, phases), np.array([index], np.float32))
    now = indices[-1]
    oldest = now - max(num_segments, consensus_len) * phases
    expected = []
    for phase in range(phases):
        recent = [index for index in indices if index % phases == phase]
        kept = [index for index in recent[-consensus_len:] if index > oldest]
        if kept:
            expected.append(kept)
    assert [window[:, 0].tolist() for window in rings.windows(now)] == expected


def test_warming_lasts_until_every_phase_has_seen_a_window():
    rings = LogitsRings(contract(2, 2), phases=2)
    warm = []
    for index in range(5):
        rings.add(tick_at(index, 2), np.array([0], np.float32))
        warm.append(rings.warming)
    assert warm == [True, True, True, False, False]
    rings.clear(1)
    assert rings.warming
    assert len(rings.windows(5)) == 1
