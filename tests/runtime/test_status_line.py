"""The lines about a stream's health: rates of the time in between, and the machine beside them."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest

from runtime.live import Stream, Streams
from runtime.periodic import Periodic
from runtime.sessions.ort import OrtStepSession
from runtime.sources.memory import MemorySource
from runtime.status_line import (
    ServiceStatus,
    ServiceStatuses,
    StatusLine,
    StatusLines,
    machine_state,
    machine_text,
)
from tests.mini_bundle import golden_frames, write_mini_bundle
from tests.runtime.test_device_facts import jetson  # noqa: F401  its files of an Orin Nano


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=1.0)


@pytest.fixture
def stream(bundle):
    # ticks at 0, 0.25, 0.5, 0.75 s
    source = MemorySource.of_pictures(golden_frames(32, 32, 25), fps=25)
    with OrtStepSession(bundle, phases=1) as session:
        yield Stream(bundle, source, session)


def test_the_line_is_about_the_time_since_the_last_one(stream, monkeypatch):
    clock = iter([100.0, 110.0, 112.0])
    monkeypatch.setattr("runtime.status_line.time", SimpleNamespace(monotonic=lambda: next(clock)))
    line = StatusLine(stream, state=lambda: {"gpu_c": 61.0})
    moments = stream.moments()
    list(islice(moments, 15))
    first = line.text()
    assert re.fullmatch(
        r"1\.5 fps, steps 3, missed ticks 0, dropped 0, reconnects 0 in 10 s; "
        r"latency p50 \d+\.\d ms, p99 \d+\.\d ms; hottest gpu 61\.0 °C",
        first,
    ), first
    list(islice(moments, 10))
    second = line.text()
    assert second.startswith("5.0 fps, steps 1, missed ticks 0, dropped 0, reconnects 0 in 2 s; ")


def test_a_time_without_a_step_has_no_latency(stream):
    line = StatusLine(stream, state=dict)
    assert re.fullmatch(
        r"0\.0 fps, steps 0, missed ticks 0, dropped 0, reconnects 0 in 0 s", line.text()
    )


def test_latency_is_that_of_the_steps_in_between(stream):
    line = StatusLine(stream, state=dict)
    stream.latency.add(5.0)
    assert "latency p50 5.0 ms" in line.text()
    for _ in range(3):
        stream.latency.add(400.0)
    assert re.search(r"latency p50 (39[6-9]|40[0-4])\.\d ms", line.text())
    assert "latency" not in line.text()


def test_a_jetsons_part_without_starting_a_program(jetson, monkeypatch):  # noqa: F811
    def started(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.run", started)
    assert machine_text(machine_state(jetson)) == (
        "GPU 306 of 1020 MHz, CPU 730 of 1728 MHz, hottest cpu 48.5 °C, 5.2 W, mode MAXN_SUPER"
    )
    assert machine_text(machine_state(jetson / "nothing-here")) == ""


def test_the_line_goes_to_the_log_again_and_again(stream, caplog):
    line = StatusLine(stream, state=dict)
    with caplog.at_level(logging.INFO), Periodic(0.02, line.log, "status line"):
        until_s = time.monotonic() + 10
        while len(caplog.records) < 3 and time.monotonic() < until_s:
            time.sleep(0.01)
    assert len(caplog.records) >= 3
    assert all(re.match(r"\d+\.\d fps, steps ", record.message) for record in caplog.records)
    after = len(caplog.records)
    time.sleep(0.1)
    assert len(caplog.records) == after
    with pytest.raises(ValueError, match=r"interval_s must be > 0, got 0"):
        Periodic(0, line.log, "status line")


def test_what_systemctl_shows(stream, bundle, monkeypatch):
    clock = iter([100.0, 110.0, 115.0, 140.0])
    monkeypatch.setattr("runtime.status_line.time", SimpleNamespace(monotonic=lambda: next(clock)))
    status = ServiceStatus(stream)
    name = stream.source.name
    assert status.text() == f"no frame from {name} for 10 s; nothing decided yet"
    list(stream.moments())
    assert stream.latest_decision is not None
    decision = stream.latest_decision
    assert decision.label in bundle.labels
    stream.latest_decision = replace(decision, action="wave", prob=0.75)
    assert status.text() == f"1.7 fps from {name}; wave 75 %"
    stream.latest_decision = replace(decision, action=None)
    assert status.text() == f"no frame from {name} for 25 s; none of the actions"


@pytest.fixture
def two(bundle):
    sources = [MemorySource.of_pictures(golden_frames(32, 32, steps), fps=25) for steps in (25, 13)]
    with OrtStepSession(bundle, num_streams=2) as session:
        yield Streams(bundle, sources, session, names=["door", "yard"])


def test_several_streams_have_a_line_each_and_one_for_the_machine(two, caplog):
    caplog.set_level(logging.INFO)
    lines = StatusLines(two.lanes, state=lambda: {"gpu_c": 61.0})
    list(two.moments())
    lines.log()
    door, yard, machine = [record.message for record in caplog.records]
    assert re.match(r"door: \d+\.\d fps, steps 4, missed ticks 0", door)
    assert re.match(r"yard: \d+\.\d fps, steps 2, missed ticks 0", yard)
    assert machine == "hottest gpu 61.0 °C"


def test_a_stream_alone_keeps_its_one_line(stream, caplog):
    caplog.set_level(logging.INFO)
    StatusLines([stream], state=lambda: {"gpu_c": 61.0}).log()
    (line,) = [record.message for record in caplog.records]
    assert re.match(r"0\.0 fps, .*; hottest gpu 61\.0 °C$", line)


def test_systemctl_shows_every_stream(two):
    status = ServiceStatuses(two.lanes)
    list(two.moments())
    door, yard = status.text().split(" | ")
    assert re.match(r"\d+\.\d fps from door; ", door)
    assert re.match(r"\d+\.\d fps from yard; ", yard)
