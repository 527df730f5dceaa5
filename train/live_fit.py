"""What training fits on the validation tapes: consensus length, temperature, event policy.

Data without tapes are fitted on their validation clips, played back to back.

All three from one decoding and one run of the model: what the steps said is recorded, and other
settings are tried on that. The policy is fitted by event F1 (IoU >= 0.5) with the runtime's own
state machine, over a small grid; ties are broken the same way every time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.operating_point import OperatingPoint
from runtime.policy import Policy, Thresholds, background_of
from runtime.sampling import SamplingContract
from train.checkpoint import Facts, load_checkpoint
from train.clip_tape import FEWEST_CLIPS, clip_tape
from train.data.catalog import has_tape, load_split, load_tapes
from train.data.truth import Segment
from train.event_score import judge_events, rules_of
from train.live_evaluation import (
    Recording,
    TorchSession,
    bundle_of,
    decide_again,
    live_tape,
    record_source,
    record_tape,
    score_runs,
)
from train.live_events import Event, events_of
from train.live_score import LiveScore, LiveTape, index_of
from train.live_tape import ReadTape, read_tape

# A few hundred answers cannot tell more than this.
COLDEST, HOTTEST = 0.5, 5.0
ENTER = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EXIT_RATIO = (1.0, 0.75, 0.5)
# In ticks of one phase, between whole ones: a tick is as late as its frame.
MIN_DURATION_TICKS = (0.0, 0.5, 1.5, 2.5, 3.5)
MAX_GAP_TICKS = (0.0, 1.5, 2.5)
CLASS_ENTER = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Actions that a class's own threshold has to win; one is chance.
CLASS_GAIN = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveFit:
    """What was fitted: the contract with its consensus length, and the operating point."""

    sampling: SamplingContract
    operating: OperatingPoint


def fit_live(checkpoint: Path, data: Path, consensus_len: int | None = None) -> LiveFit:
    """Fit how a model's live logits become decisions and events.

    Args:
        checkpoint: A causal model.
        data: Data folder with validation tapes, or with 10 validation clips or more.
        consensus_len: How many logits a decision averages; None fits it: of T/4, T/2, T and 2T
            the shortest whose live accuracy is within one action of the best, as it decides
            sooner.

    Returns:
        The fit, with what it gives on the validation tapes; what the checkpoint holds where
        there is nothing to fit on.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: The tapes cannot be used.
    """
    model, facts = load_checkpoint(checkpoint)
    plain = replace(facts, operating=OperatingPoint())
    with TorchSession(model) as session:
        seen = _seen(bundle_of(plain), session, data)
    if not seen:
        return LiveFit(facts.sampling, facts.operating)
    if consensus_len is None:
        lengths = consensus_candidates(facts.sampling)
        consensus_len = shortest_good(
            {length: score_runs(*_decided(_averaging(plain, length), seen)) for length in lengths}
        )
    fitted = _averaging(plain, consensus_len)
    temperature = fit_temperature(*answers_at_ends(_decided(fitted, seen)[1], facts.labels))
    fitted = replace(fitted, operating=OperatingPoint(temperature=temperature))
    bundle, runs = _decided(fitted, seen)
    policy = fit_policy(runs, facts.labels, fitted.sampling)
    measured = measured_of(score_runs(bundle, runs, policy))
    operating = OperatingPoint(temperature=temperature, policy=policy, measured=measured)
    return LiveFit(fitted.sampling, operating)


def _seen(
    bundle: Bundle, session: TorchSession, data: Path
) -> list[tuple[Recording, Sequence[Segment]]]:
    """What the model said on the tapes, or on the validation clips back to back."""
    if has_tape(data, "tape_validation", bundle.labels):
        tapes = load_tapes(data, "tape_validation", bundle.labels)
        return [(record_tape(bundle, session, video), truth) for video, truth in tapes]
    clips = load_split(data, "validation", bundle.labels).segments
    tape = clip_tape(clips, bundle.labels, bundle.sampling.window_s)
    if tape is None:
        logger.warning(
            "no validation tape and fewer than %d validation clips: temperature and event policy "
            "are not fitted, each run of one class will be an event",
            FEWEST_CLIPS,
        )
        return []
    logger.info(
        "no validation tape: temperature and event policy are fitted on %d validation clips "
        "played back to back; what happens between actions is not in them",
        len(tape.truth),
    )
    return [(record_source(bundle, session, tape.source), tape.truth)]


def shortest_good(scores: Mapping[int, LiveScore]) -> int:
    """The shortest consensus length whose live accuracy is within one action of the best."""
    best = max(score.live_top1 or 0.0 for score in scores.values())
    return min(
        length
        for length, score in scores.items()
        if (score.live_top1 or 0.0) >= best - 1.001 / max(1, score.num_scored)
    )


def consensus_candidates(sampling: SamplingContract) -> list[int]:
    """T/4, T/2, T and 2T, ascending.

    Example:
        >>> consensus_candidates(SamplingContract(num_segments=8, window_s=2, consensus_len=8))
        [2, 4, 8, 16]
    """
    T = sampling.num_segments
    return sorted({max(1, T // 4), max(1, T // 2), T, 2 * T})


def answers_at_ends(
    tapes: Sequence[LiveTape], labels: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The decisions at the last tick of each action, warming ones left out.

    Returns:
        Their log probabilities, shape (n, K), and the actions' classes, shape (n,).
    """
    rows, classes = [np.empty((0, len(labels)))], []
    for tape in tapes:
        times_s = [decision.stream_time_s for decision in tape.decisions]
        for action in tape.truth:
            at = int(np.searchsorted(times_s, action.end_s, side="right")) - 1
            if at >= 0 and not tape.decisions[at].warming:
                rows.append(np.log(tape.decisions[at].probs.astype(np.float64) + 1e-30)[np.newaxis])
                classes.append(list(labels).index(action.label))
    return np.concatenate(rows), np.array(classes, np.int64)


def fit_temperature(log_probs: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., arXiv:1706.04599).

    Args:
        log_probs: Log probabilities at temperature 1, or logits, shape (n, K).
        classes: The true classes, shape (n,).

    Returns:
        From 0.5 to 5; 1 where there is nothing to fit on.
    """
    if len(classes) == 0:
        return 1.0
    rows = np.arange(len(classes))

    def loss(temperature: float) -> float:
        scaled = log_probs / temperature
        scaled -= scaled.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[rows, classes]))

    candidates = [round(float(t), 3) for t in np.geomspace(COLDEST, HOTTEST, 116)]
    return min(candidates, key=loss)


def fit_policy(
    tapes: Sequence[LiveTape], labels: Sequence[str], sampling: SamplingContract
) -> Policy:
    """The policy with the best events on the tapes.

    Of those within one action of the best event F1, the one that reports soonest, then the best.
    Then a class gets an enter threshold of its own where that wins two actions or more.

    Args:
        tapes: What was seen and what happened.
        labels: Class names in the order of the model's outputs.
        sampling: The contract: lags are tried in its spacings.
    """
    search = _Search([read_tape(tape, labels) for tape in tapes], labels, sampling)
    if search.num_actions == 0:
        return Policy()
    scored = list(tqdm(search.grid(), desc="fitting events", unit=" policies", disable=None))
    least = max(f1 for f1, _ in scored) - 1.001 / search.num_actions
    good = [one for one in scored if one[0] >= least]
    policy = min(good, key=lambda one: _preference(*one))[1]
    for label in labels:
        policy = search.with_own_threshold(policy, label)
    return policy


def measured_of(score: LiveScore) -> dict[str, float]:
    """What a bundle tells about its operating point."""
    names = (
        "live_top1", "event_f1", "event_recall", "event_precision", "false_events_per_hour",
    )  # fmt: skip
    values = {name: getattr(score, name) for name in names}
    return {name: round(value, 6) for name, value in values.items() if value is not None}


def lags_s(sampling: SamplingContract) -> list[float]:
    """Lags that are tried: multiples of the spacing, up to what a decision averages.

    Example:
        >>> lags_s(SamplingContract(num_segments=3, window_s=1.0, consensus_len=6))[:2]
        [0.0, 0.333]
    """
    count = min(sampling.consensus_len, sampling.num_segments - 1)
    rounded = [round(step * sampling.spacing_s, 3) for step in range(count + 1)]
    return [min(lag_s, sampling.warm_up_s) for lag_s in rounded]


class _Search:
    """Event F1 of policies on tapes."""

    def __init__(
        self, tapes: Sequence[ReadTape], labels: Sequence[str], sampling: SamplingContract
    ) -> None:
        self._tapes = tapes
        self._labels = labels
        self._sampling = sampling
        self._background = index_of(background_of(labels), labels)
        self.num_actions = sum(
            action.true != self._background and action.since_reset_s >= sampling.window_s
            for tape in tapes
            for action in tape.actions
        )

    def grid(self) -> Iterator[tuple[float, Policy]]:
        """Every policy of the grid with its F1."""
        spacing_s = self._sampling.spacing_s
        for enter, ratio, duration, gap in product(
            ENTER, EXIT_RATIO, MIN_DURATION_TICKS, MAX_GAP_TICKS
        ):
            if enter == 0 and ratio < 1:
                continue
            policy = Policy(
                enter=enter,
                exit=round(enter * ratio, 3),
                min_duration_s=round(duration * spacing_s, 3),
                max_gap_s=round(gap * spacing_s, 3),
            )
            events = self._events(policy)
            for lag_s in lags_s(self._sampling):
                yield self._f1(events, lag_s), replace(policy, lag_s=lag_s)

    def with_own_threshold(self, policy: Policy, label: str) -> Policy:
        """The policy with a threshold for a class, where it wins enough actions."""
        if label == background_of(self._labels):
            return policy
        ratio = policy.exit / policy.enter if policy.enter else 1.0
        best, best_f1 = policy, self._f1(self._events(policy))
        least = best_f1 + (CLASS_GAIN - 0.001) / self.num_actions
        for enter in CLASS_ENTER:
            own = Thresholds(enter, round(enter * ratio, 3))
            other = replace(policy, classes={**policy.classes, label: own})
            f1 = self._f1(self._events(other))
            if f1 >= least and f1 > best_f1:
                best, best_f1 = other, f1
        return best

    def _events(self, policy: Policy) -> list[list[Event]]:
        rules = rules_of(policy, self._labels, self._background)
        return [events_of(tape.decisions, rules) for tape in self._tapes]

    def _f1(self, events: Sequence[Sequence[Event]], lag_s: float = 0.0) -> float:
        judged = [
            judge_events(
                tape,
                [Event(e.start_s - lag_s, e.end_s - lag_s, e.index) for e in found],
                window_s=self._sampling.window_s,
                background=self._background,
            )
            for tape, found in zip(self._tapes, events, strict=True)
        ]
        num_matched = sum(one.num_matched for one in judged)
        return 2 * num_matched / (sum(one.num_judged for one in judged) + self.num_actions)


def _preference(f1: float, policy: Policy) -> tuple[float, ...]:
    """The smallest is taken: soonest, best, then with the least bridging, and the strictest."""
    return (
        policy.min_duration_s, -f1, policy.max_gap_s, -policy.exit, -policy.enter, policy.lag_s,
    )  # fmt: skip


def _averaging(facts: Facts, consensus_len: int) -> Facts:
    return replace(facts, sampling=replace(facts.sampling, consensus_len=consensus_len))


def _decided(
    facts: Facts, seen: Sequence[tuple[Recording, Sequence[Segment]]]
) -> tuple[Any, list[LiveTape]]:
    """What the tapes' decisions would have been: no decoding, no model."""
    bundle = bundle_of(facts)
    decided: list[list[Decision]] = [decide_again(bundle, recording) for recording, _ in seen]
    return bundle, [
        live_tape(decisions, truth) for decisions, (_, truth) in zip(decided, seen, strict=True)
    ]
