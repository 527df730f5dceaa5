from __future__ import annotations

import time

import numpy as np
import pytest

from runtime.decision import Decision
from runtime.errors import SourceLostError
from runtime.live import Stream, StreamCounts
from runtime.sessions.ort import OrtStepSession
from runtime.sources.choose import open_source
from runtime.sources.file import FileSource
from runtime.sources.live import LiveSource, ReconnectRule
from runtime.sources.memory import MemorySource
from runtime.sources.uri import SourceUri
from tests.mini_bundle import golden_frames, write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.runtime.faults import BrokenCapture, Opener
from tests.videos import bikes_path, moving_bar, write_video


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=1.0)


def test_a_stream_is_an_iterable_of_decisions(bundle):
    with FileSource(bikes_path()) as source:
        stream = Stream(bundle, source)  # opens a session of its own
        decisions = list(stream)
    assert [decision.tick for decision in decisions] == list(range(40))
    assert [decision.warming for decision in decisions] == [True] * 3 + [False] * 37
    assert stream.counts == StreamCounts(captured=250, used=40, dropped=0, missed=0, reconnects=0)
    assert stream.latency.count == 40
    latencies_ms = [decision.latency_ms for decision in decisions]
    assert min(latencies_ms) > 0
    assert stream.latency.percentile(100) == pytest.approx(max(latencies_ms), rel=0.006)
    assert {decision.source for decision in decisions} == {str(bikes_path())}


def test_moments_bring_every_frame(bundle):
    source = MemorySource.of_pictures(golden_frames(32, 32, 25), fps=25)
    with OrtStepSession(bundle) as session:
        stream = Stream(bundle, source, session)
        moments = list(stream.moments())
    assert [moment.frame.index for moment in moments] == list(range(25))
    assert [index for index, m in enumerate(moments) if m.decision] == [0, 7, 13, 19]
    assert stream.latest is moments[-1]


def test_a_file_and_a_paced_file_decide_the_same(bundle, tmp_path):
    path = write_video(tmp_path / "short.mp4", moving_bar(26))

    def decide(*, realtime):
        with FileSource(path, realtime=realtime) as source, OrtStepSession(bundle) as session:
            return [
                (decision.stream_time_s, decision.probs.tobytes())
                for decision in Stream(bundle, source, session)
            ]

    assert decide(realtime=True) == decide(realtime=False)


def test_max_seconds_is_stream_time_for_files(bundle):
    with FileSource(bikes_path()) as source, OrtStepSession(bundle) as session:
        decisions = list(Stream(bundle, source, session, max_seconds=2.0))
    assert decisions[-1].stream_time_s < 2.0
    assert len(decisions) == 8
    with pytest.raises(ValueError, match="max_seconds must be > 0, got 0"):
        Stream(bundle, source, session, max_seconds=0)


def test_max_seconds_ends_a_live_source_that_fell_silent(bundle):
    rule = ReconnectRule(first_wait_s=30)
    uri = SourceUri("camera", "0", "camera 0")
    started_s = time.monotonic()
    with (
        LiveSource(uri, reconnect=rule, opener=Opener(BrokenCapture(1))) as source,
        OrtStepSession(bundle) as session,
    ):
        assert len(list(Stream(bundle, source, session, max_seconds=0.3))) == 1
    assert time.monotonic() - started_s < 2


def test_a_real_network_camera_streams_live(bundle):
    with (
        mjpeg_camera(free_port()) as url,
        open_source(url) as source,
        OrtStepSession(bundle, phases=2) as session,
    ):
        stream = Stream(bundle, source, session, max_seconds=1.5)
        decisions = list(stream)
    assert len(decisions) >= 5
    spacing_s = np.diff([decision.stream_time_s for decision in decisions])
    assert 0.05 < np.median(spacing_s) < 0.25
    assert stream.counts.captured >= stream.counts.used


def test_stop_ends_the_iteration(bundle):
    with FileSource(bikes_path()) as source, OrtStepSession(bundle) as session:
        stream = Stream(bundle, source, session)
        for decision in stream:
            if decision.tick == 2:
                stream.stop()
    assert stream.counts.used == 3


def test_a_source_that_ends_early_raises_after_its_last_decision(bundle, tmp_path):
    path = write_video(tmp_path / "cut.mp4", moving_bar(80), front_header=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    decisions: list[Decision] = []
    with (
        FileSource(path) as source,
        OrtStepSession(bundle) as session,
        pytest.raises(SourceLostError, match="cut off"),
    ):
        decisions.extend(Stream(bundle, source, session))
    assert decisions
