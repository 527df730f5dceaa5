"""Live accuracy of a checkpoint on every tape of a data set, and the price of its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.bundle import Bundle
from runtime.decision import Decision
from runtime.live import Stream
from runtime.policy import Policy, background_of
from runtime.sources.choose import open_source
from train.checkpoint import Facts
from train.data.truth import Segment
from train.event_score import EventPoint, event_curve
from train.live_evaluation import TorchSession, bundle_of, live_tape, score_runs
from train.live_events import EVERY_RUN
from train.live_score import LiveScore, LiveTape, index_of
from train.live_tape import read_tape
from train.model.tdrl import Tdrl


@dataclass(frozen=True)
class LiveResult:
    """What was measured live.

    Attributes:
        score: The metrics, all tapes together.
        curve: Recall and false events an hour over a threshold on the probability.
        num_tapes: How many tapes there were.
        background: The class that means "nothing happens", or None.
        policy: Which decisions made an event in `score`.
        plain_event_f1: Event F1 of plain runs of the same top label: the model without a policy.
    """

    score: LiveScore
    curve: tuple[EventPoint, ...]
    num_tapes: int
    background: str | None
    policy: Policy
    plain_event_f1: float | None

    def to_json(self) -> dict[str, Any]:
        """The result as plain values for a report."""
        return {
            **self.score.to_json(),
            "num_tapes": self.num_tapes,
            "background": self.background,
            "policy": self.policy.to_json(),
            "plain_event_f1": self.plain_event_f1,
            "event_curve": [point.to_json() for point in self.curve],
        }


def evaluate_tapes(
    model: Tdrl,
    facts: Facts,
    tapes: Sequence[tuple[Path, Sequence[Segment]]],
    policy: Policy | None = None,
) -> LiveResult:
    """Let a causal model watch the tapes through the runtime, and score what it said.

    Args:
        model: In evaluation mode, on the device that shall compute.
        facts: The checkpoint's.
        tapes: Videos and what happens in them.
        policy: Which decisions make an event; None for the checkpoint's.

    Raises:
        SourceError: A video cannot be read.
    """
    bundle = bundle_of(facts)
    seen = watch(bundle, model, tapes)
    background = background_of(facts.labels)
    policy = facts.operating.policy if policy is None else policy
    curve = event_curve(
        [read_tape(tape, facts.labels) for tape in seen],
        facts.labels,
        window_s=facts.sampling.window_s,
        background=index_of(background, facts.labels),
        policy=policy,
    )
    return LiveResult(
        score_runs(bundle, seen, policy),
        curve,
        len(seen),
        background,
        policy,
        score_runs(bundle, seen, EVERY_RUN).event_f1,
    )


def watch(
    bundle: Bundle, model: Tdrl, tapes: Sequence[tuple[Path, Sequence[Segment]]]
) -> list[LiveTape]:
    """Let a causal model watch tapes through the runtime.

    Args:
        bundle: What the runtime must know, see `bundle_of`.
        model: In evaluation mode, on the device that shall compute.
        tapes: Videos and what happens in them.

    Raises:
        SourceError: A video cannot be read.
    """
    seen = []
    with tqdm(desc=f"{len(tapes)} live tape(s)", unit=" decisions", disable=None) as bar:
        for video, truth in tapes:
            decisions: list[Decision] = []
            session = TorchSession(model, model.fc.weight.device)
            with open_source(str(video)) as source, session:
                for decision in Stream(bundle, source, session):
                    decisions.append(decision)
                    bar.update()
            seen.append(live_tape(decisions, truth))
    return seen
