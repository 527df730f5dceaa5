from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.batch import Batch
from runtime.decision import softmax
from runtime.preprocess import fit_picture
from runtime.sessions.ort import OrtStepSession
from runtime.sources.frame import Frame
from runtime.stepper import Due, Stepper
from tests.mini_bundle import golden_frames, mini_model, reference_logits, write_mini_bundle
from tests.runtime.faults import RecordingSession

PICTURES = golden_frames(48, 64, steps=60)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(
        tmp_path_factory.mktemp("bundle"), num_segments=4, window_s=1.0, consensus_len=3
    )


def frames_at(times_s, connection=0):
    return [
        Frame(PICTURES[index % 60], index, time_s, grabbed_ns=0, connection=connection)
        for index, time_s in enumerate(times_s)
    ]


class Alone:
    """A stepper with an engine of one row."""

    def __init__(self, bundle, session):
        self.stepper = Stepper(bundle, session.num_phases, "test")
        self._batch = Batch(bundle, session, [self.stepper])

    @property
    def missed(self):
        return self.stepper.missed

    def take(self, frame):
        outcome = self.stepper.offer(frame)
        return self._batch.step({0: outcome})[0] if isinstance(outcome, Due) else outcome


def stepper_of(bundle, phases=1, **faults):
    session = RecordingSession(OrtStepSession(bundle, "float32", phases), **faults)
    return Alone(bundle, session), session


def kinds_of(moment):
    return [event.kind for event in moment.events]


def events_of(moments):
    return [(event.kind, dict(event.details)) for moment in moments for event in moment.events]


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_decisions_equal_a_plain_computation(bundle, phases):
    """Each phase on its own in numpy: pick frames by time, run the model, average, softmax."""
    fps, interval_s = 40, 0.25 / phases
    stepper, _ = stepper_of(bundle, phases)
    decisions = [
        moment.decision
        for moment in map(stepper.take, frames_at(np.arange(60) / fps))
        if moment.decision
    ]
    used = [int(np.ceil(k * interval_s * fps - 1e-6)) for k in range(len(decisions))]
    logits = {}
    for phase in range(phases):
        pictures = [fit_picture(PICTURES[index], bundle.picture) for index in used[phase::phases]]
        logits[phase] = reference_logits(mini_model(3), np.stack(pictures))
    assert len(decisions) == int(59 / fps / interval_s) + 1
    for tick, decision in enumerate(decisions):
        means = []
        for phase in range(phases):
            steps_done = (tick - phase) // phases + 1
            if steps_done > 0:
                means.append(logits[phase][max(0, steps_done - 3) : steps_done].mean(axis=0))
        expected = softmax(np.mean(means, axis=0, dtype=np.float32))
        np.testing.assert_allclose(decision.probs, expected, atol=1e-4)
        assert decision.probs.sum() == pytest.approx(1, abs=1e-5)
        assert (decision.tick, decision.phase) == (tick, tick % phases)
        assert decision.label == bundle.labels[int(expected.argmax())]
        assert decision.warming == (tick < 4 * phases - 1)
        assert decision.stream_time_s == used[tick] / fps


def test_each_phase_starts_from_zero_once(bundle):
    stepper, session = stepper_of(bundle, phases=2)
    moments = [stepper.take(frame) for frame in frames_at(np.arange(40) / 40)]
    assert session.calls[:4] == [(0, True), (1, True), (0, False), (1, False)]
    assert sum(reset for _, reset in session.calls) == 2
    assert events_of(moments) == [("reset", {"reason": "start"})]


def test_a_reconnect_starts_anew(bundle):
    stepper, session = stepper_of(bundle)
    for frame in frames_at(np.arange(60) / 40):
        stepper.take(frame)
    before = len(session.calls)
    moment = stepper.take(Frame(PICTURES[0], 60, 0.0, 0, connection=1))
    assert events_of([moment]) == [("reconnect", {}), ("reset", {"reason": "reconnect"})]
    assert session.calls[before:] == [(0, True)]
    assert moment.decision is not None
    assert moment.decision.warming
    assert moment.decision.tick == 0


def test_a_gap_resets_each_phase_when_it_steps_again(bundle):
    stepper, session = stepper_of(bundle, phases=2)
    for frame in frames_at([0.0, 0.125, 0.25, 0.375]):
        stepper.take(frame)
    moments = [stepper.take(frame) for frame in frames_at([5.0, 5.125, 5.25])]
    assert events_of(moments) == [
        ("missed", {"count": 36}),
        ("reset", {"reason": "gap", "phase": 0}),
        ("reset", {"reason": "gap", "phase": 1}),
    ]
    assert [reset for _, reset in session.calls[4:]] == [True, True, False]
    assert stepper.missed == 36
    assert all(moment.decision and moment.decision.warming for moment in moments)


def test_time_that_jumps_back_starts_anew_and_jitter_does_not(bundle):
    stepper, session = stepper_of(bundle)
    moments = [stepper.take(frame) for frame in frames_at([10.0, 10.25, 10.21, 10.5, 3.0])]
    assert events_of(moments) == [
        ("reset", {"reason": "start"}),
        ("reset", {"reason": "time_went_back"}),
    ]
    assert [moment.decision is not None for moment in moments] == [True, True, False, True, True]
    assert [reset for _, reset in session.calls] == [True, False, False, True]


def test_nan_logits_reset_the_state_and_decide_nothing(bundle):
    stepper, session = stepper_of(bundle, nan_at={2})
    moments = [stepper.take(frame) for frame in frames_at(np.arange(6) / 4)]
    assert [moment.decision is not None for moment in moments] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert events_of(moments)[1:] == [("reset", {"reason": "nan", "phase": 0})]
    assert [reset for _, reset in session.calls] == [True, False, False, True, False, False]
    after = moments[3].decision
    assert after is not None
    assert after.warming
    assert np.isfinite(after.probs).all()
    pictures = np.stack([fit_picture(PICTURES[3], bundle.picture)])
    expected = softmax(reference_logits(mini_model(3), pictures)[0])
    np.testing.assert_allclose(after.probs, expected, atol=1e-4)


def test_missed_ticks_are_counted_and_the_spacing_stays(bundle):
    stepper, session = stepper_of(bundle)
    moments = [stepper.take(frame) for frame in frames_at([0.0, 0.25, 0.75, 1.0])]
    assert events_of(moments)[1:] == [("missed", {"count": 1})]
    assert [moment.decision.tick for moment in moments if moment.decision] == [0, 1, 3, 4]
    assert sum(reset for _, reset in session.calls) == 1


def test_a_phase_is_dropped_when_ticks_are_missed(bundle, caplog):
    stepper, session = stepper_of(bundle, phases=3)
    moments = [stepper.take(frame) for frame in frames_at(np.arange(60) / 4)]
    dropped = [details for kind, details in events_of(moments) if kind == "phase_dropped"]
    assert dropped == [{"phases": 2}, {"phases": 1}]
    assert {phase for phase, _ in session.calls[-20:]} == {0}
    assert moments[-1].decision is not None
    assert not moments[-1].decision.warming
    assert "phase(s) from here on" in caplog.text


def test_a_pause_of_the_source_drops_no_phase(bundle):
    stepper, _ = stepper_of(bundle, phases=2)
    times = [*np.arange(0, 1, 0.125), *np.arange(30, 40, 0.125)]
    moments = [stepper.take(frame) for frame in frames_at(times)]
    assert "phase_dropped" not in [kind for kind, _ in events_of(moments)]


def test_a_source_that_is_too_slow_is_told_once_with_numbers(bundle, caplog):
    """5 frames a second for 8 ticks a second; none of them was dropped, so it is the source."""
    stepper, _ = stepper_of(bundle, phases=2)
    moments = [stepper.take(frame) for frame in frames_at(np.arange(40) / 5)]
    told = [details for kind, details in events_of(moments) if kind == "slow_source"]
    assert told == [
        {
            "fps": pytest.approx(5, abs=0.5),
            "wanted_fps": 8.0,
            "missed_share": pytest.approx(0.4, abs=0.1),
        }
    ]
    assert caplog.text.count("test gives 5.0 frames a second, the schedule takes 8.0") == 1


def test_with_one_phase_a_slow_source_is_told_after_two_windows(bundle):
    stepper, _ = stepper_of(bundle)
    moments = [stepper.take(frame) for frame in frames_at([0, 0.25, *np.arange(0.75, 8, 0.5)])]
    told = [number for number, each in enumerate(moments) if "slow_source" in kinds_of(each)]
    assert told == [4]  # the first window ends with frame 2, the second with frame 4


def test_a_machine_that_is_too_slow_is_not_the_source(bundle, caplog):
    """The same frames, and between them others that were dropped."""
    stepper, _ = stepper_of(bundle, phases=2)
    moments = [stepper.take(replace(f, index=3 * f.index)) for f in frames_at(np.arange(40) / 5)]
    kinds = [kind for kind, _ in events_of(moments)]
    assert "slow_source" not in kinds
    assert kinds.count("phase_dropped") == 1
    assert "% of the ticks came while this machine was busy: 1 phase(s) from here on" in caplog.text
    assert moments[-1].decision is not None


def test_a_camera_of_a_varying_rate_is_fast_enough(bundle):
    stepper, _ = stepper_of(bundle)
    times = np.cumsum(np.random.default_rng(0).uniform(0.03, 0.15, 60))
    moments = [stepper.take(frame) for frame in frames_at(times)]
    assert events_of(moments) == [("reset", {"reason": "start"})]
