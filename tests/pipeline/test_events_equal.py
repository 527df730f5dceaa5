"""Training scores the events that the runtime reports: one state machine, one result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from export.demo import decisions_of, events_of
from runtime.bundle import load_bundle
from runtime.operating_point import OperatingPoint
from runtime.policy import Policy, Rules, Thresholds
from runtime.sessions.ort import OrtStepSession
from tests.mini_bundle import write_manifest, write_mini_bundle
from tests.runtime.test_stream import stream
from tests.videos import bikes_path
from train.data.truth import Segment
from train.live_evaluation import decide_tape, score_tape
from train.live_events import EVERY_RUN
from train.live_events import events_of as events_in_training

POLICIES = {
    "every run": EVERY_RUN,
    "hysteresis": Policy(
        enter=0.5, exit=0.3, min_duration_s=0.3, max_gap_s=0.4, lag_s=0.5,
        classes={"b": Thresholds(0.4, 0.4)},
    ),
    "ignored": Policy(margin=0.1, ignore=("a",), lag_s=0.25),
}  # fmt: skip


@pytest.mark.parametrize(("name", "phases"), [("every run", 1), ("hysteresis", 2), ("ignored", 1)])
def test_the_runtime_reports_what_training_scores(tmp_path, name, phases):
    bundle = write_mini_bundle(tmp_path / "bundle", num_segments=4, window_s=1.0)
    point = OperatingPoint(temperature=1.3, policy=POLICIES[name])
    write_manifest(replace(bundle, operating=point))
    bundle = load_bundle(bundle.folder)
    log = tmp_path / "events.jsonl"
    done = stream(
        bundle, "--source", bikes_path(), "--headless", "--events", log, "--backend", "ort",
        "--precision", "float32", "--phases", phases, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported = events_of(log, bundle.labels)
    with OrtStepSession(bundle, "float32", phases) as session:
        decisions = decide_tape(bundle, session, bikes_path())
    scored = events_in_training(decisions, Rules.of(point.policy, bundle.labels))
    assert len(reported) >= 2
    assert [e.index for e in reported] == [e.index for e in scored]
    for times in ("start_s", "end_s"):
        found, wanted = ([getattr(e, times) for e in events] for events in (reported, scored))
        assert found == pytest.approx(wanted, abs=1e-6)
    truth = [Segment("tape", 2.0, 4.0, "b"), Segment("tape", 5.0, 8.0, "c")]
    by_training = score_tape(bundle, decisions, truth)
    by_log = score_tape(bundle, decisions_of(log), truth, reported)
    for field in ("live_top1", "event_f1", "event_recall", "num_false_events", "delay_median_s"):
        assert getattr(by_log, field) == getattr(by_training, field)
    assert json.loads(log.read_text().splitlines()[0])["temperature"] == 1.3
