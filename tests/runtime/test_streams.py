"""Several sources in one engine: recordings decide what each alone would, and errors stay alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from runtime.decision import Decision
from runtime.errors import SourceLostError
from runtime.live import Stream, Streams
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from runtime.sources.choose import open_source
from runtime.sources.file import FileSource
from runtime.sources.frame import Frame
from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.memory import MemorySource
from runtime.sources.uri import SourceUri
from tests.mini_bundle import golden_frames, write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.openvino_part import needs_openvino
from tests.runtime.faults import BrokenCapture, Opener
from tests.videos import drifting_pattern, moving_bar, write_video

PICTURES = golden_frames(32, 32, steps=60)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=1.0)


@pytest.fixture(params=[OrtStepSession, pytest.param(OvStepSession, marks=needs_openvino)])
def kind(request):
    return request.param


def recordings():
    """Other rates and lengths, a gap, times that go back, and frames too rare for the schedule."""
    regular = MemorySource.of_pictures(PICTURES, fps=25)
    times: dict[str, Sequence[float]] = {
        "gap": [index / 25 + (5 if index >= 30 else 0) for index in range(60)],
        "back": [(9 + index / 25) if index < 40 else (index - 40) / 25 for index in range(60)],
        "rare": [index / 3 for index in range(25)],
        "late": [2 + index / 30 for index in range(50)],
    }
    regular.name = "regular"
    found = [regular]
    for number, (name, stamps) in enumerate(times.items()):
        pictures = np.roll(PICTURES, 7 * number, axis=0)
        frames = [
            Frame(pictures[index % 60], index, time_s, time.monotonic_ns())
            for index, time_s in enumerate(stamps)
        ]
        found.append(MemorySource(frames, name=name))
    return found


def facts(decision):
    return (decision.source, decision.tick, decision.phase, decision.label, decision.stream_time_s)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("phases", [1, 2, 3])
def test_recordings_decide_what_each_alone_would(bundle, kind, phases, precision):
    alone = {}
    for source in recordings():
        with kind(bundle, precision, phases) as session:
            alone[source.name] = list(Stream(bundle, source, session).moments())
    sources = recordings()
    with kind(bundle, precision, phases, num_streams=len(sources)) as session:
        streams = Streams(bundle, sources, session)
        together = [(lane.name, moment) for lane, moment in streams.moments()]
    for name, expected in alone.items():
        *every, end = [moment for whose, moment in together if whose == name]
        got = [moment for moment in every if moment is not None]
        assert end is None
        assert len(got) == len(every) == len(expected)
        for moment, same in zip(got, expected, strict=True):
            assert moment.frame.index == same.frame.index
            assert [(e.kind, e.details) for e in moment.events] == [
                (e.kind, e.details) for e in same.events
            ]
            assert (moment.decision is None) == (same.decision is None)
            if moment.decision is not None and same.decision is not None:
                assert facts(moment.decision) == facts(same.decision)
                assert moment.decision.warming == same.decision.warming
                np.testing.assert_allclose(moment.decision.probs, same.decision.probs, atol=1e-5)


def test_recordings_come_in_the_same_order_every_time(bundle):
    def run():
        sources = recordings()
        with OrtStepSession(bundle, phases=2, num_streams=len(sources)) as session:
            return [facts(decision) for decision in Streams(bundle, sources, session)]

    first = run()
    assert first == run()
    assert [name for name, *_ in first[:5]] == ["regular", "gap", "back", "rare", "late"]


def test_recordings_of_one_rate_share_every_call(bundle):
    calls = []

    class Counting(OrtStepSession):
        def step(self, phase, frames, reset, held=None):
            calls.append(held)
            return super().step(phase, frames, reset, held)

    sources = [MemorySource.of_pictures(PICTURES, fps=25) for _ in range(3)]
    with Counting(bundle, num_streams=3) as session:
        steps = len(list(Streams(bundle, sources, session, names=["a", "b", "c"])))
    assert (len(calls), steps) == (10, 30)
    assert calls == [None] * 10


def test_recordings_that_lost_each_other_find_together_again(bundle):
    """One misses a tick, so its next one is of the other phase: it waits for the others there."""
    calls = []

    class Counting(OrtStepSession):
        def step(self, phase, frames, reset, held=None):
            calls.append([row for row in range(3) if held is None or not held[row]])
            return super().step(phase, frames, reset, held)

    def recording(name, left_out):
        times = [index / 25 for index in range(60) if index / 25 not in left_out]
        frames = [Frame(PICTURES[n], n, time_s, 0) for n, time_s in enumerate(times)]
        return MemorySource(frames, name=name)

    hole = [17 / 25, 18 / 25]  # after the tick at 8 / 12 s, before that at 9 / 12 s
    with Counting(bundle, phases=3, num_streams=3) as session:
        list(
            Streams(bundle, [recording("a", []), recording("b", hole), recording("c", [])], session)
        )
    alone = [number for number, rows in enumerate(calls) if rows != [0, 1, 2]]
    assert [calls[number] for number in alone] == [[0, 2]]


def test_a_cut_recording_ends_alone(bundle, tmp_path):
    cut = write_video(tmp_path / "cut.mp4", moving_bar(80), front_header=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 4 // 5])
    whole = write_video(tmp_path / "whole.mp4", drifting_pattern(80))
    decisions: list[Decision] = []
    with (
        FileSource(cut) as first,
        FileSource(whole) as second,
        OrtStepSession(bundle, num_streams=2) as session,
    ):
        streams = Streams(bundle, [first, second], session)
        with pytest.raises(SourceLostError, match="cut off"):
            decisions.extend(streams)
    assert [decision.tick for decision in decisions if decision.source == str(whole)] == [
        *range(13)
    ]
    assert [lane.has_ended for lane in streams.lanes] == [True, True]
    assert streams.lanes[1].failure is None


def test_paced_recordings_keep_a_common_clock(bundle, tmp_path):
    paths = [write_video(tmp_path / f"{n}.mp4", moving_bar(50), fps=25 + 5 * n) for n in range(3)]
    sources = [FileSource(path, realtime=True) for path in paths]
    with OrtStepSession(bundle, num_streams=3) as session:
        streams = Streams(bundle, sources, session, realtime=True, max_seconds=1.2)
        decisions = list(streams)
    for source in sources:
        source.close()
        ticks = [decision.tick for decision in decisions if decision.source == source.name]
        assert ticks == list(range(len(ticks)))
        assert len(ticks) >= 4
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("take")]


def test_a_network_camera_beside_one_that_is_not_there(bundle):
    started_s = time.monotonic()
    with (
        mjpeg_camera(free_port()) as url,
        open_source(url) as there,
        open_source(f"http://127.0.0.1:{free_port()}/none", wait=True) as away,
        OrtStepSession(bundle, phases=2, num_streams=2) as session,
    ):
        streams = Streams(bundle, [away, there], session, max_seconds=2.0)
        before = streams.progress
        decisions = list(streams)
    assert {decision.source for decision in decisions} == {there.name}
    assert len(decisions) >= 8
    assert streams.progress != before
    assert time.monotonic() - started_s < 12


def test_a_camera_that_is_lost_for_good_does_not_end_the_other(bundle):
    rule = ReconnectRule(first_wait_s=0.05, give_up_after_s=0.1)
    capture = BrokenCapture(30)
    capture.held_ready = 1  # a frame each 40 ms, then it is unplugged
    uri = SourceUri("camera", "0", "lost")
    with (
        mjpeg_camera(free_port()) as url,
        open_source(url) as there,
        LiveSource(uri, reconnect=rule, opener=Opener(capture)) as lost,
        OrtStepSession(bundle, num_streams=2) as session,
    ):
        streams = Streams(bundle, [there, lost], session, max_seconds=3.0)
        decisions: list[Decision] = []
        with pytest.raises(SourceLostError, match="did not come back"):
            decisions.extend(streams)
    last = {
        name: max(d.monotonic_ns for d in decisions if d.source == name)
        for name in ("lost", there.name)
    }
    assert last[there.name] - last["lost"] > 0.5e9
    assert streams.lanes[0].failure is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_fails_unforeseen_ends_its_stream(bundle):
    class Bad(MemorySource):
        def __iter__(self):
            yield from super().__iter__()
            raise RuntimeError("a bug")

    with OrtStepSession(bundle, num_streams=2) as session:
        sources = [
            Bad.of_pictures(PICTURES[:20], fps=25),
            MemorySource.of_pictures(PICTURES, fps=25),
        ]
        sources[0].name = "bad"
        streams = Streams(bundle, sources, session, realtime=True)
        with pytest.raises(SourceLostError, match="reading bad failed; see the log"):
            list(streams)
    assert streams.lanes[1].counts.captured == 60


def test_leaving_the_iteration_leaves_no_thread(bundle):
    with OrtStepSession(bundle, num_streams=2) as session:
        sources = [MemorySource.of_pictures(PICTURES, fps=25) for _ in range(2)]
        streams = Streams(bundle, sources, session, realtime=True, names=["a", "b"])
        moments = streams.moments()
        next(moments)
        moments.close()  # type: ignore[attr-defined]  # a generator
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("take")]


def test_wrong_groups_are_refused(bundle):
    one = MemorySource.of_pictures(PICTURES, fps=25)
    with OrtStepSession(bundle, num_streams=2) as session:
        with pytest.raises(ValueError, match="sources with names of their own, got .*'memory'"):
            Streams(bundle, [one, one], session)
        with pytest.raises(ValueError, match="sources with names of their own"):
            Streams(bundle, [], session)
        with pytest.raises(ValueError, match=r"3 stream\(s\) need a session with as many, got 2"):
            Streams(bundle, [one] * 3, session, names=["a", "b", "c"])
        with pytest.raises(ValueError, match="max_seconds must be > 0, got 0"):
            Streams(bundle, [one] * 2, session, names=["a", "b"], max_seconds=0)
        live = MemorySource([], name="camera 0")
        live.is_live = True
        with pytest.raises(
            ValueError, match="memory is a recording beside a live source; pass --r"
        ):
            Streams(bundle, [one, live], session)


def test_without_a_session_the_bundles_best_is_opened_and_closed(bundle):
    sources = [MemorySource.of_pictures(PICTURES, fps=25) for _ in range(2)]
    streams = Streams(bundle, sources, names=["a", "b"])
    assert len(list(streams)) == 20
