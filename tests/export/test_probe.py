"""Steps of a stream as a batch: the same inputs, the same logits."""

from __future__ import annotations

import numpy as np
import pytest

import export.int8.probe
from export.int8.probe import clip_logits, logits_of, observed, probe_of, unrolled
from tests.export.small import moving_frames, run_steps

STEPS = 11  # no multiple of the rows of a run
RESETS = (0, 6)


@pytest.fixture(scope="module")
def step(step_of):
    return step_of("tiny", "pem-tsm")


@pytest.fixture(scope="module")
def reset():
    return np.isin(np.arange(STEPS), RESETS).astype(np.float32)


@pytest.fixture(scope="module")
def probe(step, reset):
    return probe_of(step.proto, step.states, moving_frames(STEPS), reset)


def test_rows_are_the_steps_of_the_stream(step, probe):
    expected, after = run_steps(step.path, step.states, moving_frames(STEPS), RESETS)
    assert len(probe) == STEPS
    np.testing.assert_allclose(probe.logits, expected, atol=1e-4)
    for number in range(1, STEPS):
        for name, value in after[number - 1].items():
            np.testing.assert_allclose(probe.feeds[name][number], value[0], atol=1e-4)


def test_a_batch_gives_what_the_steps_gave(step, probe):
    np.testing.assert_allclose(logits_of(step.proto, probe), probe.logits, atol=1e-4)


def test_observed_tensors_come_row_by_row(step, probe):
    name = next(n.output[0] for n in step.proto.graph.node if n.op_type == "Relu")
    pieces = [values[name] for values in observed(step.proto, probe, [name])]
    assert [len(piece) for piece in pieces] == [8, 3]
    alone = [observed(step.proto, probe.thinned(STEPS), [name])]
    np.testing.assert_array_equal(np.concatenate(pieces)[:8], next(alone[0])[name])


def test_every_second_step_keeps_its_own_state(step, probe, reset):
    half = probe_of(step.proto, step.states, moving_frames(STEPS), reset, every=2)
    assert len(half) == 6
    np.testing.assert_array_equal(half.logits, probe.logits[::2])
    for name, value in probe.feeds.items():
        np.testing.assert_array_equal(half.feeds[name], value[::2])


def test_thinned_rows_belong_together(step, probe):
    few = probe.thinned(4)
    assert len(few) == 4
    np.testing.assert_allclose(logits_of(step.proto, few), few.logits, atol=1e-4)
    assert len(probe.thinned(100)) == STEPS


def test_clips_start_from_zero_and_end_in_their_mean(step, monkeypatch):
    monkeypatch.setattr(export.int8.probe, "CLIPS", 2)  # and one is left
    pictures = moving_frames(12, seed=9).reshape(3, 4, 32, 40, 3)
    expected = [run_steps(step.path, step.states, clip)[0].mean(0) for clip in pictures]
    found = clip_logits(step.proto, step.states, pictures)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_unrolled_resets(step, reset):
    steps = list(unrolled(step.proto, step.states, moving_frames(STEPS), reset))
    assert [float(feeds["reset"][0, 0]) for feeds, _ in steps] == reset.tolist()
