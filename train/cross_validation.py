"""Cross-validation by recording: several models, every fold, clips and live, one table.

    python -m train.cross_validation --data kitchen.yaml --recipe own --models tsn,tsm,tdrl
    python -m train.cross_validation --data kitchen.yaml --only-folds 2,3 --set epochs=20
    python -m train.cross_validation --data kitchen.yaml --seeds 3    # less of it is chance
    python -m train.cross_validation --data kitchen-live.yaml --runs live --init-from clips

The data.yaml names its file of folds (`python -m train.prepare --folds 5`). Every model is trained
on all folds but one and answers the clips and the untrimmed recordings of that one, so that every
recording is answered by a model that has not seen it. The last epoch is measured: nothing is
chosen on the fold, and a live decision averages what the recipe says (`--set consensus_len=4`), or
T steps. With several seeds every number is the mean over them. Intervals come from resampling whole
recordings. With `--init-from` every training starts from the same model, fold and seed of another
cross-validation over the same folds. A run that is finished is kept, so an interrupted
cross-validation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts import ARTIFACTS
from runtime.command import run_command, say
from runtime.errors import DataError
from runtime.files import whole_file, write_json
from runtime.machine import measured_on
from runtime.policy import Policy, background_of
from runtime.sampling import SamplingContract
from train.clip_evaluation import Member, evaluate_clips, load_members
from train.data.catalog import has_tape, load_split, load_tapes, read_labels
from train.data.folds import read_folds
from train.data.formats.spec import DataSpec, read_spec, with_fold, write_spec
from train.experiment import command, keep, kept, run_all
from train.fold_policies import with_policies_of_others
from train.live_evaluation import bundle_of
from train.live_events import EVERY_RUN
from train.live_report import watch
from train.live_score import LiveScore, LiveTape, score_tapes
from train.model.presets import PRESETS
from train.protocols import parse_protocol
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.run_checkpoints import LAST
from train.scores import INTERVAL_PERCENT, NUM_RESAMPLES, Classes, Probs

RUNS = ARTIFACTS / "cross_validation"
RESULT = "result.json"
TAPE = "tape_validation"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is cross-validated, and how.

    Attributes:
        data: A data.yaml with folds.
        recipe: A recipe's name or file.
        models: Presets.
        folds: Folds that are held out in turn.
        sets: `FIELD=VALUE` changes of the recipe.
        protocol: Views of a clip, see `train.protocols`.
        live: Whether the untrimmed recordings are watched too.
        events: Which live decisions make an event; None fits it on the other folds.
        runs: Folder of the runs.
        jobs: Trainings at a time.
        seeds: Every model is trained once with each.
        init_from: Folder of another cross-validation's runs to start from.
    """

    data: Path
    recipe: str
    models: tuple[str, ...]
    folds: tuple[int, ...]
    sets: tuple[str, ...]
    protocol: str
    live: bool
    events: Policy | None
    runs: Path
    jobs: int
    seeds: tuple[int, ...] = (0,)
    init_from: Path | None = None

    @property
    def tasks(self) -> list[Task]:
        """All trainings, every model's in the same order."""
        return [Task(m, f, s) for f in self.folds for s in self.seeds for m in self.models]


class Task(NamedTuple):
    """One training: a model, the fold that it does not see, a seed."""

    model: str
    fold: int
    seed: int


@dataclass(frozen=True, eq=False)
class Answered:
    """What one model said about the recordings of one or more folds, none of which it had seen.

    With several seeds a clip has a row for each, in its recording's group: a mean over rows is a
    mean over seeds, and seeds are no further evidence where recordings are drawn.

    Attributes:
        labels: Class names in the order of the columns.
        probs: Probabilities of the clips, shape (N, K).
        label: Their classes, shape (N,).
        groups: Their recordings, N of them.
        tapes: The untrimmed recordings; empty where the data have none.
        folds: The fold of each of them.
        sampling: The live contract.
    """

    labels: tuple[str, ...]
    probs: Probs
    label: Classes
    groups: tuple[str, ...]
    tapes: tuple[LiveTape, ...]
    folds: tuple[int, ...]
    sampling: SamplingContract

    @classmethod
    def together(cls, parts: Sequence[Answered]) -> Answered:
        """All folds and seeds as one."""
        return cls(
            parts[0].labels,
            np.concatenate([part.probs for part in parts]),
            np.concatenate([part.label for part in parts]),
            tuple(group for part in parts for group in part.groups),
            tuple(tape for part in parts for tape in part.tapes),
            tuple(fold for part in parts for fold in part.folds),
            parts[0].sampling,
        )


def cross_validate(plan: Plan) -> dict[str, Answered]:
    """Train and measure every model on every fold.

    Returns:
        What each model said about all held-out recordings, by preset.

    Raises:
        DataError: The data have no such folds, or a run failed; its last line says why.
    """
    spec = read_spec(plan.data)
    for fold in plan.folds:
        write_spec(_data_of(plan.runs, fold), with_fold(spec, fold))
    tasks = plan.tasks
    # training runs beside each other, measuring one by one: it uses all cores
    run_all(tasks, lambda task: _train(plan, task), jobs=plan.jobs, title="train")
    parts = run_all(tasks, lambda task: _answer(plan, task), jobs=1, title="measure")
    return {
        model: Answered.together(
            [part for task, part in zip(tasks, parts, strict=True) if task.model == model]
        )
        for model in plan.models
    }


def _changes(plan: Plan, task: Task) -> tuple[str, ...]:
    """`FIELD=VALUE` changes of a training; with one seed the recipe's own seed holds."""
    seed = () if plan.seeds == (0,) else (f"seed={task.seed}",)
    init = () if plan.init_from is None else (f"init={_last_of(plan.init_from, task)}",)
    return (f"preset={task.model}", *plan.sets, *init, *seed)


def _recipe(plan: Plan, task: Task) -> Recipe:
    return load_recipe(plan.recipe, dict(change.split("=", 1) for change in _changes(plan, task)))


def _folder(runs: Path, task: Task) -> Path:
    return runs / f"{task.model}-{task.fold}-{task.seed}"


def _last_of(runs: Path, task: Task) -> Path:
    return _folder(runs, task).absolute() / "checkpoint" / LAST


def _data_of(runs: Path, fold: int) -> Path:
    return runs / f"fold-{fold}.yaml"


def _train(plan: Plan, task: Task) -> None:
    run = _folder(plan.runs, task)
    # the recipe's values, not its name: an edited file is another recipe
    values = json.dumps(_recipe(plan, task).to_json(), sort_keys=True)
    settings = [values, str(plan.data.absolute())]
    if kept(run / RESULT, settings) is not None:
        return
    arguments = ["--recipe", plan.recipe, "--name", task.model, "--out", str(run), "--overwrite"]
    arguments += ["--data", str(_data_of(plan.runs, task.fold))]
    for change in _changes(plan, task):
        arguments += ["--set", change]
    command("train.fit", arguments, jobs=plan.jobs)
    keep(run / RESULT, settings, {"fold": task.fold, "seed": task.seed})


def _answer(plan: Plan, task: Task) -> Answered:
    path = _last_of(plan.runs, task)
    data = read_spec(_data_of(plan.runs, task.fold))
    member = load_members([path])[0]
    facts = member.facts
    split = load_split(data, "validation", facts.labels)
    clips = evaluate_clips([member], split, parse_protocol(plan.protocol)).answers
    recordings = [str(segment.path) for segment in split.segments]
    streams = plan.live and facts.model.offline_reason is None
    is_live = streams and has_tape(data, TAPE, facts.labels)
    tapes = _tapes(member, data) if is_live else []
    return Answered(
        facts.labels,
        clips.probs,
        clips.label,
        tuple(recordings[item] for item in clips.items),
        tuple(tapes),
        (task.fold,) * len(tapes),
        facts.sampling,
    )


def _tapes(member: Member, data: DataSpec) -> list[LiveTape]:
    labels = member.facts.labels
    tapes = load_tapes(data, TAPE, labels)
    return watch(bundle_of(member.facts), member.model, tapes)


# ---- numbers


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval over resampled recordings."""

    value: float
    lower: float
    upper: float

    def percent(self) -> str:
        """For a table.

        >>> Interval(0.8, 0.71, 0.88).percent()
        '80.0 % (71.0 to 88.0)'
        """
        return f"{100 * self.value:.1f} % ({100 * self.lower:.1f} to {100 * self.upper:.1f})"


def recalls(answer: Classes, label: Classes, num_classes: int) -> NDArray[np.float64]:
    """Recall of every class, shape (K,), NaN where it does not occur."""
    counts = np.bincount(label, minlength=num_classes)
    hits = np.bincount(label[answer == label], minlength=num_classes)
    found: NDArray[np.float64] = np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)
    return found


def balanced_accuracy(
    answered: Answered, answer: Classes, wanted: Sequence[int], clips: NDArray[np.int64]
) -> float:
    """Mean recall of the wanted classes that occur among some clips."""
    found = recalls(answer[clips], answered.label[clips], len(answered.labels))[list(wanted)]
    return float(np.nanmean(found))


def best_of(answered: Answered, wanted: Sequence[int]) -> Classes:
    """The most probable of the wanted classes for every clip, shape (N,)."""
    columns = np.asarray(wanted)
    best: Classes = columns[answered.probs[:, columns].argmax(1)]
    return best


def resampled(groups: Sequence[str], seed: int = 0) -> list[NDArray[np.int64]]:
    """Clip numbers of bootstrap samples: recordings are drawn, each with all of its clips."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(int(group.max()) + 1)]
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for _ in range(NUM_RESAMPLES)
    ]


def accuracy_of(answered: Answered, wanted: Sequence[int]) -> Interval:
    """Balanced accuracy over the wanted classes' clips, the other classes left out."""
    chosen = _only(answered, wanted)
    answer = best_of(chosen, wanted)
    every = np.arange(len(chosen.label))
    values = [balanced_accuracy(chosen, answer, wanted, some) for some in resampled(chosen.groups)]
    lower, upper = np.nanpercentile(values, INTERVAL_PERCENT)
    return Interval(balanced_accuracy(chosen, answer, wanted, every), float(lower), float(upper))


def difference_of(one: Answered, other: Answered, wanted: Sequence[int]) -> Interval:
    """How much more accurate one model is than another on the same clips, drawn together.

    Raises:
        ValueError: They answered other clips.
    """
    a, b = _only(one, wanted), _only(other, wanted)
    if a.groups != b.groups or not np.array_equal(a.label, b.label):
        raise ValueError("models can be compared on the same clips only")
    ours, theirs = best_of(a, wanted), best_of(b, wanted)

    def gain(some: NDArray[np.int64]) -> float:
        return balanced_accuracy(a, ours, wanted, some) - balanced_accuracy(b, theirs, wanted, some)

    lower, upper = np.nanpercentile([gain(some) for some in resampled(a.groups)], INTERVAL_PERCENT)
    return Interval(gain(np.arange(len(a.label))), float(lower), float(upper))


def _only(answered: Answered, wanted: Sequence[int]) -> Answered:
    rows = np.flatnonzero(np.isin(answered.label, list(wanted)))
    return replace(
        answered,
        probs=answered.probs[rows],
        label=answered.label[rows],
        groups=tuple(answered.groups[row] for row in rows),
    )


def live_of(answered: Answered, policy: Policy | None) -> LiveScore | None:
    """Live metrics over all recordings; None where there are none.

    Args:
        answered: What a model said.
        policy: Which decisions make an event; None fits it for each fold on the other folds.
    """
    tapes, labels = answered.tapes, answered.labels
    if not tapes:
        return None
    if policy is None:
        tapes = with_policies_of_others(tapes, answered.folds, labels, answered.sampling)
    return score_tapes(
        tapes,
        labels,
        window_s=answered.sampling.window_s,
        background=background_of(labels),
        policy=EVERY_RUN if policy is None else policy,
    )


# ---- the result


def summary(plan: Plan, found: dict[str, Answered], wanted_labels: Sequence[str]) -> dict[str, Any]:
    """The result as plain values; the recall of a class without a clip is None.

    Args:
        plan: What was done.
        found: What `cross_validate` gave.
        wanted_labels: Classes that the balanced accuracy is of; empty for all.

    Raises:
        DataError: None of these classes has a clip.
    """
    first = next(iter(found.values()))
    labels = list(wanted_labels) or list(first.labels)
    wanted = [first.labels.index(label) for label in labels]
    if not np.isin(first.label, wanted).any():
        raise DataError(f"the folds {list(plan.folds)} hold no clip of {', '.join(labels)}")
    models = {}
    for name, answered in found.items():
        chosen = _only(answered, wanted)
        recall = recalls(best_of(chosen, wanted), chosen.label, len(first.labels))[wanted]
        live = live_of(answered, plan.events)
        models[name] = {
            "balanced_accuracy": vars(accuracy_of(answered, wanted)),
            "recall": {
                label: None if np.isnan(share) else float(share)
                for label, share in zip(labels, recall, strict=True)
            },
            "clips": len(chosen.label) // len(plan.seeds),
            "live": None if live is None else live.to_json(),
        }
    base = next(iter(found))
    gains = {
        name: vars(difference_of(answered, found[base], wanted))
        for name, answered in found.items()
        if name != base
    }
    return {
        "recipe": plan.recipe,
        "sets": list(plan.sets),
        "folds": list(plan.folds),
        "seeds": list(plan.seeds),
        "init_from": None if plan.init_from is None else plan.init_from.name,
        "protocol": plan.protocol,
        "events": "fitted on the other folds" if plan.events is None else plan.events.to_json(),
        "classes": labels,
        "base": base,
        "models": models,
        "gain_over_base": gains,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: clips, then live."""
    labels = result["classes"]
    lines = [
        f"| model | balanced accuracy | over {result['base']} | {' | '.join(labels)} |",
        "|---" * (3 + len(labels)) + "|",
    ]
    for name, found in result["models"].items():
        gain = result["gain_over_base"].get(name)
        cells = [_share(found["recall"][label]) for label in labels]
        over = "" if gain is None else _points(Interval(**gain))
        accuracy = Interval(**found["balanced_accuracy"]).percent()
        lines.append(f"| {name} | {accuracy} | {over} | {' | '.join(cells)} |")
    live = {name: one["live"] for name, one in result["models"].items() if one["live"]}
    if live:
        lines += ["", *_live_lines(live)]
    return "\n".join(lines)


def _live_lines(live: dict[str, dict[str, Any]]) -> list[str]:
    classes = list(next(iter(live.values()))["event_recall_of"])
    lines = [
        "| model | live top-1 | event recall | false events an hour | event F1 | median delay | "
        f"{' | '.join(f'recall {label}' for label in classes)} |",
        "|---" * (6 + len(classes)) + "|",
    ]
    for name, score in live.items():
        cells = [
            _share(score["live_top1"]),
            _share(score["event_recall"]),
            _number(score["false_events_per_hour"], ""),
            _number(score["event_f1"], "", digits=2),
            _number(score["delay_median_s"], " s", digits=2),
            *(_share(score["event_recall_of"][label]) for label in classes),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, unit: str, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.value:+.1f} points ({100 * gain.lower:+.1f} to {100 * gain.upper:+.1f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.cross_validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="a data.yaml with folds")
    parser.add_argument("--recipe", default="own", help="shipped recipe or YAML file")
    parser.add_argument(
        "--models",
        default="tsn,tsm,tdrl",
        help="presets; the first is what others are held against",
    )
    parser.add_argument("--only-folds", metavar="K,K", help="default: every fold in turn")
    parser.add_argument("--classes", help="classes of the balanced accuracy (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="trainings of every model (default 1)"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="RUNS",
        help="start each training from the same model, fold and seed of another cross-validation "
        "(its --runs)",
    )
    parser.add_argument("--protocol", default="1x1", metavar="CxK", help="default: 1x1")
    parser.add_argument(
        "--no-live", action="store_true", help="clips only: do not watch the untrimmed recordings"
    )
    parser.add_argument(
        "--event-threshold",
        type=float,
        metavar="P",
        help="a decision from this probability on makes an event (default: event policies are "
        "fitted, each fold's on the other folds; with one fold every run is an event)",
    )
    parser.add_argument(
        "--event-min-s", type=float, metavar="S", help="and one that lasts this long"
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs and results")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    """The plan of a command line.

    Raises:
        ValueError: Unknown models or folds, or a number out of range.
        DataError: The data have no folds.
    """
    # a model or fold that is named twice would count twice
    models = tuple(dict.fromkeys(name.strip() for name in options.models.split(",")))
    unknown = [name for name in models if name not in PRESETS]
    if unknown:
        raise ValueError(f"--models must be of {', '.join(PRESETS)}, got {unknown[0]!r}")
    for name in ("jobs", "seeds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be >= 1, got {getattr(options, name)}")
    for change in options.set:
        if "=" not in change:
            raise ValueError(f"--set wants FIELD=VALUE, got {change!r}")
        if change.startswith("seed=") and options.seeds > 1:
            raise ValueError("--set seed and --seeds exclude each other")
        if change.startswith("init=") and options.init_from is not None:
            raise ValueError("--set init and --init-from exclude each other")
    parse_protocol(options.protocol)
    spec = read_spec(options.data)
    if spec.folds is None:
        raise DataError(
            f"{options.data} names no folds; make them: python -m train.prepare --data "
            f"{options.data} --folds 5, and write `folds: folds.csv` and `fold: 0` into it"
        )
    folds = _folds(spec.folds, spec.root, options.only_folds)
    plan = Plan(
        data=options.data,
        recipe=options.recipe,
        models=models,
        folds=folds,
        sets=tuple(options.set),
        protocol=options.protocol,
        live=not options.no_live,
        events=_events(options, folds),
        runs=options.runs,
        jobs=options.jobs,
        seeds=tuple(range(options.seeds)),
        init_from=options.init_from,
    )
    _check_start(plan, read_folds(spec.folds, spec.root))
    return plan


def _check_start(plan: Plan, place: dict[Path, int]) -> None:
    """Refuse models to start from that are not there, or have seen what they would be asked.

    Raises:
        DataError: A checkpoint is missing, or its cross-validation had other folds.
    """
    if plan.init_from is None:
        return
    for task in plan.tasks:
        if not (path := _last_of(plan.init_from, task)).is_file():
            raise DataError(f"--init-from: {path} is missing; finish that cross-validation first")
    theirs = read_spec(_data_of(plan.init_from, plan.folds[0]))
    if theirs.folds is None or read_folds(theirs.folds, theirs.root) != place:
        raise DataError(
            f"--init-from: {plan.init_from} held out other recordings; its models may have seen "
            "what they would be asked here"
        )


def _events(options: argparse.Namespace, folds: tuple[int, ...]) -> Policy | None:
    enter, min_s = options.event_threshold, options.event_min_s
    if enter is None and min_s is None and len(folds) > 1:
        return None
    return Policy(enter=enter or 0.0, exit=enter or 0.0, min_duration_s=min_s or 0.0)


def _folds(path: Path, root: Path, wanted: str | None) -> tuple[int, ...]:
    """The folds of a file that are wanted, in that order; all of them by default."""
    known = sorted(set(read_folds(path, root).values()))
    if not wanted:
        return tuple(known)
    texts = [text.strip() for text in wanted.split(",")]
    if not all(text.isdecimal() for text in texts):
        raise ValueError(f"--only-folds must be numbers, got {wanted!r}")
    strangers = [text for text in texts if int(text) not in known]
    if strangers:
        raise ValueError(f"{path} has no fold {strangers[0]}, there are {known}")
    return tuple(dict.fromkeys(map(int, texts)))


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m train.cross_validation`."""
    options = _parser().parse_args(argv)
    plan = _plan(options)
    _recipe(plan, plan.tasks[0])  # refuse early
    wanted = [name.strip() for name in (options.classes or "").split(",") if name.strip()]
    labels = read_labels(plan.data)
    unknown = [name for name in wanted if name not in labels]
    if unknown:
        raise ValueError(f"--classes must be of {', '.join(labels)}, got {unknown[0]!r}")
    result = summary(plan, cross_validate(plan), wanted)
    result["machine"] = measured_on(("torch", "pytorch-lightning", "numpy", "opencv-python", "av"))
    write_json(plan.runs / "cross_validation.json", result)
    page = plan.runs / "cross_validation.md"
    with whole_file(page) as part:
        part.write_text(f"{table(result)}\n\n{result['machine']}\n", encoding="utf-8")
    say(f"{table(result)}\nresults: {page}")


if __name__ == "__main__":
    sys.exit(run_command(main))
