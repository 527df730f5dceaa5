from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.live import Stream
from runtime.sources.choose import open_source
from tests.train.models import UNITS, assert_equal, facts_of_model, lively_model, pictures
from train.checkpoint import load_checkpoint
from train.data.catalog import load_tape
from train.live_evaluation import (
    RecordedSession,
    TorchSession,
    bundle_of,
    decide_again,
    decide_tape,
    record_tape,
    score_tape,
)
from train.live_fit import consensus_candidates

START, ON = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
MODEL = lively_model("tiny", UNITS["pem-tsm"])


@pytest.fixture(scope="module")
def best(trained):
    return trained / "checkpoint" / "best.ckpt"


@pytest.fixture(scope="module")
def tape(best, tiny_data):
    """The trained model, the bundle's facts, and the tape it is judged on."""
    model, facts = load_checkpoint(best)
    video, truth = load_tape(tiny_data, "tape", facts.labels)
    return model, facts, video, truth


def frames_of(num_frames, seed=0):
    """Frames as the runtime hands them over: (1, H, W, 3)."""
    clip = pictures(1, num_frames, seed=seed)
    return clip, [frame.permute(1, 2, 0).numpy()[np.newaxis] for frame in clip[0]]


# ---- sessions


@torch.no_grad()
def test_a_torch_session_is_the_clip_until_it_is_reset():
    clip, frames = frames_of(6)
    with TorchSession(MODEL) as session:
        logits = [session.step(0, f, START if t in (0, 4) else ON) for t, f in enumerate(frames)]
    assert all(step.shape == (1, 4) and step.dtype == np.float32 for step in logits)
    found = torch.from_numpy(np.concatenate(logits))
    assert_equal(found[:4], MODEL(clip[:, :4])[0])
    assert_equal(found[4:], MODEL(clip[:, 4:])[0])
    assert not torch.allclose(found[4], MODEL(clip)[0, 4]), "the reset matters"


def test_sessions_of_one_model_share_no_state():
    _, frames = frames_of(3)
    first, second = TorchSession(MODEL), TorchSession(MODEL)
    alone = [first.step(0, f, START if t == 0 else ON) for t, f in enumerate(frames)]
    for t, frame in enumerate(frames):
        second.step(0, 255 - frame, START if t == 0 else ON)
        first.step(0, frame, START if t == 0 else ON)
    again = [first.step(0, f, START if t == 0 else ON) for t, f in enumerate(frames)]
    assert np.array_equal(alone, again)


def test_a_torch_session_has_one_stream_and_one_phase():
    _, frames = frames_of(1)
    session = TorchSession(MODEL)
    with pytest.raises(ValueError, match="one stream and one phase, got phase 1, 1 rows"):
        session.step(1, frames[0], START)
    with pytest.raises(ValueError, match="got phase 0, 2 rows"):
        session.step(0, np.concatenate(frames * 2), START)
    assert session.description.startswith("PyTorch ")


def test_a_recorded_session_replays_what_it_heard():
    _, frames = frames_of(4)
    heard: list[np.ndarray] = []
    recording = RecordedSession(TorchSession(MODEL), heard)
    first = [recording.step(0, f, START if t == 0 else ON) for t, f in enumerate(frames)]
    assert len(heard) == 4
    replay = RecordedSession(None, heard)
    assert np.array_equal([replay.step(0, frames[0], START) for _ in frames], first)
    assert len(heard) == 4
    with pytest.raises(IndexError):
        replay.step(0, frames[0], ON)


# ---- tapes


def test_a_tape_is_decided_by_the_runtime_as_a_stream(tape):
    model, facts, video, _ = tape
    bundle = bundle_of(facts)
    with TorchSession(model) as session:
        decisions = decide_tape(bundle, session, video)
    with open_source(str(video)) as source, TorchSession(model) as session:
        streamed = list(Stream(bundle, source, session))
    assert [d.probs.tolist() for d in decisions] == [d.probs.tolist() for d in streamed]
    times = [d.stream_time_s for d in decisions]
    assert np.allclose(np.diff(times), 0.5, atol=0.051), "one frame every window / T seconds"
    assert [d.warming for d in decisions[:5]] == [True] * 3 + [False] * 2


def test_replayed_logits_give_the_same_decisions_and_other_ones_for_another_consensus(tape):
    model, facts, video, truth = tape
    bundle = bundle_of(facts)
    logits: list[np.ndarray] = []
    decisions = decide_tape(bundle, RecordedSession(TorchSession(model), logits), video)
    again = decide_tape(bundle, RecordedSession(None, logits), video)
    assert [d.probs.tolist() for d in again] == [d.probs.tolist() for d in decisions]
    assert score_tape(bundle, again, truth) == score_tape(bundle, decisions, truth)
    longer = replace(facts.sampling, consensus_len=2 * facts.sampling.consensus_len)
    other = decide_tape(
        bundle_of(replace(facts, sampling=longer)), RecordedSession(None, logits), video
    )
    assert [d.probs.tolist() for d in other] != [d.probs.tolist() for d in decisions]


def test_short_tapes_still_get_a_number(tape):
    model, facts, video, truth = tape
    decisions = decide_tape(bundle_of(facts), TorchSession(model), video)
    score = score_tape(bundle_of(facts), decisions, truth)
    assert (len(truth), score.num_actions) == (4, 4)
    assert score.num_scored == 2, "those with half of the others before them"


def test_a_model_without_still_has_no_background():
    facts = facts_of_model(MODEL.config)
    assert score_tape(bundle_of(facts), [], []).num_false_events == 0


def test_a_recording_gives_what_decoding_again_would(tape):
    model, facts, video, _ = tape
    bundle = bundle_of(facts)
    with TorchSession(model) as session:
        recording = record_tape(bundle, session, video)
        again = decide_again(bundle, recording)
        direct = decide_tape(bundle, session, video)
    assert [d.probs.tolist() for d in again] == [d.probs.tolist() for d in direct]
    assert [d.stream_time_s for d in again] == [d.stream_time_s for d in direct]
    assert [d.warming for d in again] == [d.warming for d in direct]
    assert all(frame.image_rgb.size < 1000 for frame in recording.frames), "no pictures are kept"
    for length in consensus_candidates(facts.sampling):
        other = bundle_of(replace(facts, sampling=replace(facts.sampling, consensus_len=length)))
        with TorchSession(model) as session:
            expected = decide_tape(other, session, video)
        found = decide_again(other, recording)
        assert [d.probs.tolist() for d in found] == [d.probs.tolist() for d in expected]


def test_a_background_by_name_makes_no_event(tape):
    model, facts, video, truth = tape
    decisions = decide_tape(bundle_of(facts), TorchSession(model), video)
    named = tuple("background" if label == "still" else label for label in facts.labels)
    renamed = [replace(s, label="background") if s.label == "still" else s for s in truth]
    expected = score_tape(bundle_of(facts), decisions, truth)
    found = score_tape(bundle_of(replace(facts, labels=named)), decisions, renamed)
    assert found.num_false_events == expected.num_false_events
    assert found.event_f1 == expected.event_f1
    assert found.recall.keys() == set(named)
