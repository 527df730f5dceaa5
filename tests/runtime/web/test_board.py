from __future__ import annotations

import time

import numpy as np
import pytest

from runtime.errors import SourceLostError
from runtime.live import Stream
from runtime.sessions.ort import OrtStepSession
from runtime.sources.frame import SourceCounts
from runtime.sources.memory import MemorySource
from runtime.web import board as board_module
from runtime.web.board import SAMPLES_KEPT, TIME_BOUNDS_S, Board
from runtime.web.metrics import metrics_text
from tests.videos import drifting_pattern


class QuietSource(MemorySource):
    """A camera that is away: no frame, only attempts to reach it."""

    attempts = 0

    @property
    def counts(self):
        return SourceCounts(attempts=self.attempts)


@pytest.fixture
def session(bundle):
    with OrtStepSession(bundle) as session:
        yield session


def played(bundle, session, steps=50):
    board = Board()
    stream = Stream(bundle, MemorySource.of_pictures(drifting_pattern(steps), fps=25), session)
    shown = board.add(bundle, stream)
    for moment in stream.moments():
        shown.see(moment)
    return board, shown, stream


def test_a_source_that_is_tried_again_is_healthy_and_a_hung_one_is_not(
    bundle, session, monkeypatch
):
    monkeypatch.setattr(board_module, "HEALTHY_S", 0.15)
    source = QuietSource([])
    stream = Stream(bundle, source, session)
    stream.waits = True  # as while it waits for a frame
    board = Board()
    assert board.health == "starting"  # an engine may be built for minutes
    board.add(bundle, stream)
    for _ in range(4):
        source.attempts += 1
        time.sleep(0.05)
        board.sample()
        assert board.health == "ok"
    assert not board.streams[0].is_up
    time.sleep(0.2)
    board.sample()
    assert board.health == "stalled"


def test_one_hung_stream_of_two_is_unhealthy(bundle, session, monkeypatch):
    board, shown, stream = played(bundle, session)
    board.add(bundle, stream)
    stream.has_ended = False
    assert board.health == "ok"
    shown._progressed_s = time.monotonic() - board_module.HEALTHY_S
    assert board.health == "stalled"


def test_a_stream_that_came_to_its_end_is_no_fault_and_one_that_was_lost_is(bundle, session):
    board, shown, stream = played(bundle, session)
    shown._progressed_s = time.monotonic() - board_module.HEALTHY_S
    assert (stream.has_ended, board.health) == (True, "ok")
    stream.failure = SourceLostError("gone")
    assert board.health == "stalled"


def test_passwords_in_messages_do_not_reach_the_page(bundle, session):
    board, shown, _ = played(bundle, session)
    shown.note({"type": "failed", "message": "rtsp://me:hunter2@cam/1?key=abc cannot be opened"})
    ((_, record),) = board.records.after(0)
    assert record["message"] == "rtsp://***@cam/1?*** cannot be opened"


def test_seconds_are_kept_for_ten_minutes(bundle, session):
    board, shown, _ = played(bundle, session)
    for _ in range(SAMPLES_KEPT + 5):
        board.sample()
    samples = shown.samples()
    assert len(samples) == SAMPLES_KEPT
    assert samples[-1].number == SAMPLES_KEPT + 4
    assert [each.number for each in shown.samples(SAMPLES_KEPT + 2)] == [603, 604]


def test_a_second_holds_only_what_happened_in_it(bundle, session):
    board, shown, stream = played(bundle, session)
    board.sample()
    board.sample()
    first, second = shown.samples()
    assert first.fps > 0
    assert first.p50_ms is not None
    assert (second.fps, second.p50_ms) == (0, None)


def test_metrics_are_what_prometheus_reads(bundle, session):
    board, shown, stream = played(bundle, session)
    shown.name = 'back "door"\\\n'
    for label in bundle.labels:
        shown.note({"type": "action", "label": label})
    shown.note({"type": "action", "label": bundle.labels[0]})
    lines = metrics_text(board).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    where = r'source="back \"door\"\\\n",stream="0"'
    assert values[f"tdrl_frames_total{{{where}}}"] == "50"
    assert values[f"tdrl_steps_total{{{where}}}"] == str(stream.counts.used)
    assert values[f"tdrl_source_up{{{where}}}"] == "1"
    assert float(values[f"tdrl_last_frame_age_seconds{{{where}}}"]) < 5
    assert values[f'tdrl_actions_total{{{where},label="wave"}}'] == "2"
    assert values[rf'tdrl_actions_total{{{where},label="say \"hi\"\\\n"}}'] == "1"
    sums = {}
    for stage in ("preprocess", "step", "grab_to_decision"):
        labels = f'{where},stage="{stage}"'
        start = f"tdrl_step_seconds_bucket{{{labels},le="
        counts = [int(value) for name, value in values.items() if name.startswith(start)]
        assert len(counts) == len(TIME_BOUNDS_S) + 1
        assert counts == sorted(counts)
        steps = stream.counts.used
        assert counts[-1] == int(values[f"tdrl_step_seconds_count{{{labels}}}"]) == steps
        sums[stage] = float(values[f"tdrl_step_seconds_sum{{{labels}}}"])
        assert 0 < sums[stage] < 5
    assert stream.latency.count == stream.counts.used
    assert sums["preprocess"] + sums["step"] < sums["grab_to_decision"]
    for name in {name.partition("{")[0] for name in values}:
        family = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        assert sum(line.startswith(f"# TYPE {family} ") for line in lines) == 1


def test_metrics_say_what_was_lost(bundle, session):
    board, shown, _ = played(bundle, session)
    assert "webhook" not in metrics_text(board)
    counts = {"lines_lost": 3, "webhook_sent": 7, "webhook_dropped": 1, "record_frames_lost": 5}
    shown.count_outputs(lambda: counts)
    lines = metrics_text(board).splitlines()
    assert "tdrl_event_lines_lost_total 3" in lines
    assert "tdrl_webhook_dropped_total 1" in lines
    assert f'tdrl_record_frames_lost_total{{source="{shown.name}",stream="0"}} 5' in lines
    assert not any(line.startswith("tdrl_recordings") for line in lines)


def test_writing_waits_for_no_reader(bundle, session):
    """A thousand moments beside a reader that asks for everything all the time."""
    import threading

    board, shown, stream = played(bundle, session)
    ending = threading.Event()

    def read():
        while not ending.is_set():
            board.state()
            board.records.after(0)
            metrics_text(board)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1000):
            shown.see(stream.latest)
            shown.note({"type": "missed", "count": number})
    finally:
        ending.set()
        reader.join()
    (*_, (number, newest)) = board.records.after(0)
    assert (number, newest["count"]) == (1000, 999)
    assert all(np.isfinite(times.sum_s) for times in shown.stages().values())
