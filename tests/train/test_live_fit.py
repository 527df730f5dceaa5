from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.policy import Policy, check_policy
from runtime.sampling import SamplingContract
from runtime.sources.choose import open_source
from tests.runtime.test_decision import decision
from tests.videos import drifting_pattern, write_video
from train.checkpoint import load_checkpoint
from train.data.catalog import load_tape
from train.data.truth import Segment
from train.event_score import score_events
from train.live_evaluation import TorchSession, bundle_of, decide_tape
from train.live_events import EVERY_RUN
from train.live_fit import (
    COLDEST,
    HOTTEST,
    answers_at_ends,
    consensus_candidates,
    fit_live,
    fit_policy,
    fit_temperature,
    lags_s,
    shortest_good,
)
from train.live_score import LiveTape
from train.live_tape import read_tape


@pytest.fixture(scope="module")
def best(trained):
    return trained / "checkpoint" / "best.ckpt"


# ---- the consensus


def scores(**live_top1):
    """By consensus length: live accuracy over 20 actions."""
    return {
        int(name[1:]): SimpleNamespace(live_top1=value, num_scored=20)
        for name, value in live_top1.items()
    }


@pytest.mark.parametrize(
    ("found", "length"),
    [
        (scores(n2=0.5, n4=0.9, n8=0.95, n16=0.6), 4),  # one action of 20 less
        (scores(n2=0.5, n4=0.85, n8=0.95, n16=0.6), 8),  # two less
        (scores(n2=0.9, n4=0.9, n8=0.9, n16=0.9), 2),
        (scores(n2=0.1, n4=0.2, n8=0.3, n16=0.9), 16),
        (scores(n2=None, n4=0.6), 4),
    ],
)
def test_the_shortest_consensus_within_one_action_of_the_best_is_taken(found, length):
    assert shortest_good(found) == length


@pytest.mark.parametrize(
    ("num_segments", "lengths"),
    [(1, [1, 2]), (2, [1, 2, 4]), (4, [1, 2, 4, 8]), (6, [1, 3, 6, 12])],
)
def test_candidates_are_fractions_and_multiples_of_t(num_segments, lengths):
    contract = SamplingContract(num_segments=num_segments, window_s=2, consensus_len=1)
    assert consensus_candidates(contract) == lengths


def test_all_is_fitted_with_one_run_of_the_model(best, tiny_data, monkeypatch):
    steps = []
    step = TorchSession.step

    def counted(self, *arguments):
        steps.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(TorchSession, "step", counted)
    fitted = fit_live(best, tiny_data)
    _, facts = load_checkpoint(best)
    assert fitted.sampling == facts.sampling, "as training did"
    assert fitted.operating == facts.operating
    video, _ = load_tape(tiny_data, "tape_validation", facts.labels)
    decisions = decide_tape(bundle_of(facts), TorchSession(load_checkpoint(best)[0]), video)
    assert len(steps) == 2 * len(decisions)


def test_all_is_fitted_with_one_decoding(best, tiny_data, monkeypatch):
    opened = []

    def counted(uri):
        opened.append(uri)
        return open_source(uri)

    monkeypatch.setattr("train.live_evaluation.open_source", counted)
    fit_live(best, tiny_data)
    assert len(opened) == 1


def test_all_is_fitted_on_all_tapes(best, tiny_data, monkeypatch):
    def tapes(data, name, labels):
        return [load_tape(data, name, labels) for name in ("tape_validation", "tape")]

    seen = []

    def counted(runs, labels, sampling):
        seen.append(len(runs))
        return Policy(enter=0.4)

    monkeypatch.setattr("train.live_fit.load_tapes", tapes)
    monkeypatch.setattr("train.live_fit.fit_policy", counted)
    assert fit_live(best, tiny_data).operating.policy == Policy(enter=0.4)
    assert seen == [2]


def folder_of_clips(folder, labels, clips_a_class):
    """A folder of videos for each class, without a tape."""
    for index, label in enumerate(labels):
        for split in ("train", "validation"):
            (folder / split / label).mkdir(parents=True)
            for number in range(clips_a_class):
                pictures = drifting_pattern(20, 32, 32)
                path = folder / split / label / f"{index}{number}.avi"
                write_video(path, np.roll(pictures, 3 * index + number, axis=2), fps=10)
    return folder


def test_without_a_tape_all_is_fitted_on_the_validation_clips(best, tmp_path, caplog):
    caplog.set_level("INFO")
    _, facts = load_checkpoint(best)
    fitted = fit_live(best, folder_of_clips(tmp_path, facts.labels, 3))
    count = 3 * len(facts.labels)
    assert f"are fitted on {count} validation clips played back to back" in caplog.text
    assert fitted.operating.temperature != 1.0
    assert fitted.operating.measured.keys() >= {"live_top1", "event_f1"}


def test_too_few_clips_leave_what_the_checkpoint_holds(best, tmp_path, caplog):
    _, facts = load_checkpoint(best)
    data = folder_of_clips(tmp_path, facts.labels, 1)
    for label in facts.labels[9:]:
        for clip in (data / "validation" / label).iterdir():
            clip.unlink()
    fitted = fit_live(best, data)
    assert (fitted.sampling, fitted.operating) == (facts.sampling, facts.operating)
    assert "fewer than 10 validation clips" in caplog.text


# ---- the temperature


@pytest.mark.parametrize("true", [0.7, 1.0, 2.5])
def test_the_temperature_that_made_the_answers_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    probs = np.exp(logits / true)
    probs /= probs.sum(1, keepdims=True)
    classes = (probs.cumsum(1) < rng.random((len(probs), 1))).sum(1)
    assert fit_temperature(logits, classes) == pytest.approx(true, rel=0.05)


def test_right_answers_alone_do_not_make_a_model_certain():
    logits = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(logits, np.arange(3)) == COLDEST
    assert fit_temperature(logits, np.array([1, 2, 0])) == HOTTEST
    assert fit_temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0


def test_the_temperature_is_fitted_on_the_last_warm_decision_of_each_action():
    truth = [Segment("t", 0.0, 0.5, "open"), Segment("t", 2.0, 3.0, "shut")]
    said = [
        decision(time_s=t, prob=p, warming=t < 1) for t, p in ((0.0, 0.1), (2.9, 0.7), (3.1, 0.2))
    ]
    log_probs, classes = answers_at_ends([LiveTape(truth, said)], ("open", "shut"))
    np.testing.assert_allclose(np.exp(log_probs), [[0.7, 0.3]], rtol=1e-6)
    assert classes.tolist() == [1]


# ---- the policy

LABELS = ("open", "shut", "still")
SAMPLING = SamplingContract(num_segments=8, window_s=2.0, consensus_len=4)


def lagging_tape(lag_s=0.5, num_actions=24, blip_s=None, weak=None, seed=0):
    """Actions of two seconds with pauses; what is said comes late, with blips of another class."""
    rng = np.random.default_rng(seed)
    truth = [Segment("t", 3.0 + 4 * n, 5.0 + 4 * n, LABELS[n % 2]) for n in range(num_actions)]
    said = []
    for time_s in np.arange(0, 4.0 * num_actions + 4, 0.25):
        now = [a.label for a in truth if a.start_s <= time_s - lag_s < a.end_s]
        probs = np.full(3, 0.05) + rng.uniform(0, 0.01, 3)
        probs[LABELS.index(now[0] if now else "still")] = 0.2 if now == [weak] else 0.9
        if blip_s is not None and round(float(time_s) / 0.25) % round(blip_s / 0.25) == 0:
            probs = probs[[1, 0, 2]] if now else np.array([0.9, 0.05, 0.05])
        said.append(
            replace(
                decision(time_s=float(time_s)),
                probs=(probs / probs.sum()).astype(np.float32),
                index=int(probs.argmax()),
            )
        )
    return LiveTape(truth, said, 0)


def f1_of(tape, policy):
    read = [read_tape(tape, LABELS)]
    return score_events(read, LABELS, window_s=2.0, background=2, policy=policy).event_f1


def test_a_lag_is_found_and_dated_back():
    tape = lagging_tape(lag_s=0.75)
    policy = fit_policy([tape], LABELS, SAMPLING)
    assert f1_of(tape, policy) == 1.0
    assert policy.min_duration_s == 0, "nothing is gained by waiting"
    late = lagging_tape(lag_s=1.0)
    assert f1_of(late, EVERY_RUN) == 0.0
    assert f1_of(late, fit_policy([late], LABELS, SAMPLING)) == 1.0


def test_blips_are_bridged_and_dropped():
    tape = lagging_tape(lag_s=0.25, blip_s=1.25)
    assert f1_of(tape, EVERY_RUN) < 0.7
    policy = fit_policy([tape], LABELS, SAMPLING)
    assert policy.max_gap_s > 0
    assert policy.min_duration_s > 0
    assert f1_of(tape, policy) > 0.9


@pytest.mark.parametrize("num_segments", range(1, 17))
def test_a_bundle_takes_every_lag_that_is_tried(num_segments):
    sampling = SamplingContract(num_segments=num_segments, window_s=1.0, consensus_len=32)
    lags = lags_s(sampling)
    assert len(lags) == num_segments
    for lag_s in lags:
        check_policy(Policy(lag_s=lag_s), LABELS, sampling.warm_up_s)


def test_the_fit_is_the_same_every_time():
    tape = lagging_tape(blip_s=1.75)
    fits = [fit_policy([tape], LABELS, SAMPLING) for _ in range(2)]
    assert fits[0] == fits[1]


def test_without_actions_every_run_is_an_event():
    assert fit_policy([LiveTape([], [])], LABELS, SAMPLING) == Policy()


def test_a_class_gets_its_own_threshold_only_where_it_wins_enough(monkeypatch):
    monkeypatch.setattr("train.live_fit.ENTER", (0.8,))
    monkeypatch.setattr("train.live_fit.MIN_DURATION_TICKS", (0.5,))
    many = fit_policy([lagging_tape(weak="shut")], LABELS, SAMPLING)
    assert set(many.classes) == {"shut"}
    assert many.classes["shut"].enter < 0.8
    strong = fit_policy([lagging_tape()], LABELS, SAMPLING)
    assert strong.classes == {}
    one = fit_policy([lagging_tape(weak="shut", num_actions=2)], LABELS, SAMPLING)
    assert one.classes == {}, "one action is chance"
