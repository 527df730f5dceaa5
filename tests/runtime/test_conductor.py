"""Live lanes on one clock, with a clock that the test turns: who steps with whom, and when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.sources.frame import Frame
from tests.mini_bundle import write_mini_bundle
from tests.runtime.simulation import NS, Camera, play

INTERVAL_MS = 125.0  # 4 segments in a second, 2 phases
FRAME_MS = 40.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return write_mini_bundle(folder, num_segments=4, window_s=1.0, consensus_len=1, int8=False)


def rows_of(calls):
    return [tuple(sorted(call.codes)) for call in calls]


def between(played, from_s, until_s):
    return [call for call in played.session.calls if from_s * NS <= call.now_ns < until_s * NS]


class SilentCamera(Camera):
    """The same connection goes on after the pause."""

    def arrivals(self, row, size_px):
        for at_ns, number, item in super().arrivals(row, size_px):
            if isinstance(item, Frame):
                item = replace(item, connection=0)
            yield at_ns, number, item


def decisions(played, row):
    return [moment.decision for moment in played.decided(row)]


def test_cameras_that_start_together_step_together(bundle):
    cameras = [Camera(from_s=start_s) for start_s in (0.0, 0.013, 0.021, 0.039)]
    played = play(bundle, cameras)
    assert set(rows_of(between(played, 0.1, 9.9))) == {(0, 1, 2, 3)}
    # each begins with its first frame, alone; from then on they are one
    first = [(call.phase, sorted(call.codes)) for call in played.session.calls[:6]]
    assert first == [(0, [0]), (0, [1]), (0, [2]), (0, [3]), (1, [0, 1, 2, 3]), (0, [0, 1, 2, 3])]
    assert len(played.session.calls) == pytest.approx(10 / 0.125, abs=4)
    assert max(played.waits_ms()) <= FRAME_MS + 1
    assert all(lane.counts.missed == 0 for lane in played.lanes)


@pytest.mark.parametrize("joins_s", [3.0, 3.03, 3.07, 3.11, 3.124, 3.2])
def test_a_camera_that_comes_later_joins_the_others_ticks(bundle, joins_s):
    played = play(bundle, [Camera(), Camera(from_s=joins_s)])
    first = next(call for call in played.session.calls if 1 in call.codes)
    assert first.now_ns / NS - joins_s <= INTERVAL_MS / 1000 + 0.045
    assert first.resets[1]
    together = between(played, joins_s + 0.2, 9.9)
    assert set(rows_of(together)) == {(0, 1)}
    assert {decision.phase for decision in decisions(played, 1)} == {0, 1}
    assert [decision.tick for decision in decisions(played, 1)][:3] == [0, 1, 2]


def test_rows_get_their_own_pictures_and_their_own_logits(bundle):
    cameras = [Camera(fps=fps, from_s=start_s) for fps, start_s in ((25, 0), (30, 0.4), (12, 1))]
    played = play(bundle, cameras)
    for row in range(3):
        moments = played.decided(row)
        codes = [int(moment.frame.image_rgb[0, 0, 0]) for moment in moments]
        assert [call.codes[row] for call in played.session.calls if row in call.codes] == codes
        last = {}
        for decision, code in zip(decisions(played, row), codes, strict=True):
            last[decision.phase] = code % 3
            assert decision.index in last.values()
        assert len(codes) > 60


def test_a_dead_row_is_waited_for_once_and_then_not_at_all(bundle):
    played = play(bundle, [Camera(), Camera(from_s=0.02, until_s=9.99, away=(3.0, 6.0))])
    away = between(played, 3.2, 5.9)
    assert set(rows_of(away)) == {(0,)}
    waits = dict(
        zip((call.now_ns for call in played.session.calls), played.waits_ms(), strict=True)
    )
    first, *later = [
        waits[call.now_ns] for call in between(played, 3.0, 5.9) if rows_of([call]) == [(0,)]
    ]
    assert first == pytest.approx(INTERVAL_MS / 2, abs=1)
    assert max(later) <= 1
    assert set(rows_of(between(played, 6.2, 9.9))) == {(0, 1)}


def test_the_row_that_comes_back_is_reset_and_no_other(bundle):
    played = play(bundle, [Camera(), Camera(from_s=0.02, away=(3.0, 6.0))])
    later = between(played, 1, 10)
    assert [call.resets.get(0, False) for call in later].count(True) == 0
    assert [call.resets.get(1, False) for call in later].count(True) == 2  # its two phases
    assert played.events(0) == [("reset", {"reason": "start"})]
    assert [kind for kind, _ in played.events(1)] == ["reset", "reconnect", "reset"]


def test_a_gap_without_a_reconnect_resets_its_row_alone(bundle):
    played = play(bundle, [Camera(), SilentCamera(from_s=0.02, away=(3.0, 6.0))])
    gaps = [facts["phase"] for kind, facts in played.events(1, "reset") if facts["reason"] == "gap"]
    assert sorted(gaps) == [0, 1]
    assert played.events(0) == [("reset", {"reason": "start"})]
    resets = [
        sorted(row for row, starts in call.resets.items() if starts)
        for call in between(played, 1, 10)
    ]
    assert [rows for rows in resets if rows] == [[1], [1]]


def test_numbers_that_are_none_reset_their_row_alone(bundle):
    played = play(bundle, [Camera(), Camera(from_s=0.02), Camera(from_s=0.03)], nan={(1, 30)})
    assert played.events(1, "reset")[1:] == [("reset", {"reason": "nan", "phase": 0})]
    for row in (0, 2):
        assert played.events(row) == [("reset", {"reason": "start"})]
    later = [call.resets for call in played.session.calls[10:]]
    assert [resets for resets in later if any(resets.values())] == [{0: False, 1: True, 2: False}]


@pytest.mark.parametrize("ppm", [4000, -4000])
def test_a_clock_that_drifts_slips_without_a_reset(bundle, ppm, caplog):
    """A second in four minutes: what 50 ppm do in five hours."""
    caplog.set_level("DEBUG")
    cameras = [Camera(until_s=60), Camera(from_s=0.01, until_s=60, ppm=ppm)]
    played = play(bundle, cameras)
    calls = between(played, 0.2, 59.9)
    together = rows_of(calls).count((0, 1)) / len(calls)
    assert together >= 0.98
    assert caplog.text.count("camera 1: ticks") == pytest.approx(60 * 0.004 / 0.012, abs=3)
    assert "camera 0: ticks" not in caplog.text
    assert played.events(1) == [("reset", {"reason": "start"})]
    assert played.lanes[1].counts.missed == 0
    assert max(played.waits_ms()) <= FRAME_MS + 20  # a slip is of ten, a window drifts by four


def test_without_slips_it_would_lose_the_others(bundle, monkeypatch):
    monkeypatch.setattr("runtime.group_clock.SLIP_S", 100.0)
    cameras = [Camera(until_s=60), Camera(from_s=0.01, until_s=60, ppm=4000)]
    calls = between(play(bundle, cameras), 0.2, 59.9)
    assert rows_of(calls).count((0, 1)) / len(calls) < 0.7


@pytest.mark.parametrize("late_s", np.arange(0.04, 0.5, 0.045).tolist())
def test_first_frames_that_come_in_a_burst_are_slipped_from(bundle, late_s):
    played = play(bundle, [Camera(), Camera(from_s=2.0, late_s=late_s)])
    assert set(rows_of(between(played, 5.0, 9.9))) == {(0, 1)}
    assert played.events(1) == [("reset", {"reason": "start"})]
    assert played.lanes[1].counts.missed == 0


def test_a_slow_camera_loses_its_own_phase_and_costs_no_other_one(bundle):
    played = play(bundle, [Camera(until_s=20), Camera(fps=5, from_s=0.01, until_s=20)])
    assert played.events(1, "phase_dropped") == [("phase_dropped", {"phases": 1})]
    assert len(played.events(1, "slow_source")) == 1
    assert played.events(0) == [("reset", {"reason": "start"})]
    assert [lane.stepper.phases for lane in played.lanes] == [2, 1]
    assert max(played.waits_ms()) <= INTERVAL_MS / 2 + 1
    assert played.lanes[0].counts.missed == 0


def test_a_machine_that_is_too_slow_drops_a_phase_of_all_at_once(bundle):
    cameras = [Camera(until_s=20), Camera(from_s=0.02, until_s=20), Camera(fps=12, until_s=20)]
    played = play(bundle, cameras, step_ms=200, newest_only=True)
    happened = [
        [moment.frame.grabbed_ns / NS for moment in moments if "phase_dropped" in kinds_of(moment)]
        for moments in played.moments.values()
    ]
    assert [len(each) for each in happened] == [1, 1, 1]
    assert max(happened)[0] - min(happened)[0] < 0.3
    for row in range(3):
        assert played.events(row, "slow_source") == []
    # 200 ms a call and 250 ms a tick: as long as all step together, none is missed any more
    assert set(rows_of(between(played, 8, 19.5))) == {(0, 1, 2)}


def kinds_of(moment):
    return [event.kind for event in moment.events]


def test_one_row_that_is_too_slow_to_be_in_time_is_not_waited_for(bundle):
    """Half a frame a second: its next frame is known to be far away."""
    played = play(bundle, [Camera(until_s=20), Camera(fps=0.5, until_s=20)])
    assert np.median(played.waits_ms()) < 1
    assert sum(wait > 1 for wait in played.waits_ms()) <= 12


def test_nobody_waits_for_a_row_of_another_phase(bundle):
    """A tick late in its first window: its phase 0 falls on the others' phase 1."""
    played = play(bundle, [Camera(), Camera(from_s=2.02, late_s=INTERVAL_MS / 1000)])
    waits = dict(zip((c.now_ns for c in played.session.calls), played.waits_ms(), strict=True))
    apart = between(played, 2.5, 3.0)
    assert set(rows_of(apart)) == {(0,), (1,)}
    assert max(waits[call.now_ns] for call in apart) <= 6  # no longer than the other's step
    assert set(rows_of(between(played, 5.0, 9.9))) == {(0, 1)}
