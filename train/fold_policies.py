"""Event policies in cross-validation: each fold's recordings get the others' policy.

A policy that was fitted on the recordings that it is scored on would flatter the model. The
others' recordings were answered by models that had not seen them either, so nothing leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.policy import background_of
from runtime.sampling import SamplingContract
from train.event_score import rules_of
from train.live_events import events_of
from train.live_fit import fit_policy
from train.live_score import index_of
from train.live_tape import LiveTape


def with_policies_of_others(
    tapes: Sequence[LiveTape],
    folds: Sequence[int],
    labels: Sequence[str],
    sampling: SamplingContract,
) -> tuple[LiveTape, ...]:
    """The tapes with the events that a policy fitted on the other folds' tapes finds.

    Args:
        tapes: What was seen and what happened, of all folds and seeds.
        folds: The fold of each tape.
        labels: Class names in the order of the model's outputs.
        sampling: The contract: lags are tried in its spacings.

    Raises:
        ValueError: All tapes are of one fold.
    """
    if len(set(folds)) < 2:
        raise ValueError(f"policies of other folds need two folds, got {sorted(set(folds))}")
    background = index_of(background_of(labels), labels)
    rules = {
        fold: rules_of(
            fit_policy(
                [tape for tape, own in zip(tapes, folds, strict=True) if own != fold],
                labels,
                sampling,
            ),
            labels,
            background,
        )
        for fold in sorted(set(folds))
    }
    return tuple(
        replace(tape, events=events_of(tape.decisions, rules[fold]))
        for tape, fold in zip(tapes, folds, strict=True)
    )
