"""Several models on every fold: the numbers on answers made by hand, and a whole small run."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.command import run_command
from runtime.errors import DataError
from runtime.policy import Policy
from runtime.sampling import SamplingContract
from tests.train import small_data
from tests.train.test_live_score import Said
from train import fit
from train.checkpoint import load_checkpoint
from train.cross_validation import (
    Answered,
    Interval,
    Plan,
    _parser,
    _plan,
    accuracy_of,
    best_of,
    difference_of,
    main,
    recalls,
    resampled,
    summary,
    table,
)
from train.data.catalog import load_split
from train.data.truth import Segment, write_truth
from train.live_events import EVERY_RUN
from train.live_score import LiveTape

LABELS = ("wave", "point", "still")
SAMPLING = SamplingContract(num_segments=8, window_s=2.0, consensus_len=8)


def answered(answer, label, groups=None, tapes=(), sure=0.8):
    """A model that is as sure of each of its answers."""
    probs = np.full((len(answer), len(LABELS)), (1 - sure) / 2)
    probs[np.arange(len(answer)), answer] = sure
    names = tuple(groups) if groups is not None else tuple(f"r{i}" for i in range(len(answer)))
    return Answered(
        LABELS, probs, np.array(label), names, tuple(tapes), (0,) * len(tapes), SAMPLING
    )


def plan_of(**changes):
    plan = Plan(
        data=Path("kitchen.yaml"),
        recipe="own",
        models=("tsn", "tdrl"),
        folds=(0, 1),
        sets=("epochs=2",),
        protocol="1x1",
        live=True,
        events=EVERY_RUN,
        runs=Path("runs"),
        jobs=1,
    )
    return replace(plan, **changes)


# ---- numbers


def test_balanced_accuracy_is_the_mean_recall():
    # wave 3 of 4, point 1 of 2, still 0 of 1
    model = answered([0, 0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 1, 1, 2])
    found = recalls(best_of(model, (0, 1, 2)), model.label, 3)
    assert found.tolist() == [0.75, 0.5, 0.0]
    assert accuracy_of(model, (0, 1, 2)).value == pytest.approx((0.75 + 0.5 + 0) / 3)


def test_other_classes_clips_and_answers_are_left_out():
    model = answered([0, 2, 1, 2], [0, 0, 1, 2])
    model.probs[1] = [0.3, 0.1, 0.6]  # of wave and point it is wave
    assert accuracy_of(model, (0, 1)).value == 1.0
    assert accuracy_of(model, (0, 1, 2)).value == pytest.approx((0.5 + 1 + 1) / 3)
    assert best_of(model, (0, 1)).tolist()[:3] == [0, 0, 1]


def test_a_class_that_does_not_occur_has_no_recall():
    model = answered([0, 1, 1], [0, 0, 1])
    assert np.isnan(recalls(best_of(model, (0, 1, 2)), model.label, 3)).tolist() == [0, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accuracy_of(model, (0, 1, 2)).value == pytest.approx(0.75)


def test_recordings_are_drawn_with_all_of_their_clips():
    groups = ["b", "a", "b", "c"]
    samples = resampled(groups)
    assert len(samples) == 2000
    sizes = set()
    for sample in samples:
        counts = np.bincount(sample, minlength=4)
        assert counts[0] == counts[2], "b's clips come together"
        assert counts[0] + counts[1] + counts[3] == 3, "three recordings are drawn"
        sizes.add(len(sample))
    assert sizes == {3, 4, 5, 6}
    again = resampled(groups)
    assert all(np.array_equal(a, b) for a, b in zip(samples, again, strict=True))


def test_clips_of_one_recording_are_no_evidence_of_their_own():
    """Recordings that are right or wrong as a whole: 10 observations, not 200."""
    label = [0, 1] * 100
    answer = [(c if i < 140 else 1 - c) for i, c in enumerate(label)]
    by_recording = accuracy_of(answered(answer, label, [f"r{i // 20}" for i in range(200)]), (0, 1))
    by_clip = accuracy_of(answered(answer, label), (0, 1))
    assert by_recording.value == by_clip.value == pytest.approx(0.7)
    assert by_clip.lower < 0.7 < by_clip.upper
    widths = [found.upper - found.lower for found in (by_recording, by_clip)]
    # sqrt(p (1 - p) / n): 0.57 and 0.127 wide
    assert widths == [pytest.approx(0.57, abs=0.08), pytest.approx(0.127, abs=0.02)]


def test_equal_models_do_not_differ_whatever_is_drawn():
    rng = np.random.default_rng(0)
    label, answer = rng.integers(0, 2, (2, 60))
    model = answered(answer, label, [f"r{i // 6}" for i in range(60)])
    assert difference_of(model, model, (0, 1)) == Interval(0.0, 0.0, 0.0)


def test_a_difference_is_of_the_same_drawn_clips():
    """Both fail on the same recordings; apart from them one is right where the other is not."""
    label = [0, 1] * 50
    groups = [f"r{i // 10}" for i in range(100)]
    worse = [1 - c if i < 50 or i % 10 == 0 else c for i, c in enumerate(label)]
    better = [1 - c if i < 50 else c for i, c in enumerate(label)]
    gain = difference_of(answered(better, label, groups), answered(worse, label, groups), (0, 1))
    assert gain.value == pytest.approx(0.05)
    assert 0 <= gain.lower < gain.value < gain.upper < 0.1
    back = difference_of(answered(worse, label, groups), answered(better, label, groups), (0, 1))
    assert (back.value, back.lower, back.upper) == (-gain.value, -gain.upper, -gain.lower)


@pytest.mark.parametrize("change", [{"groups": ("x", "r1")}, {"label": np.array([0, 0])}])
def test_models_that_answered_other_clips_are_not_compared(change):
    model = answered([0, 1], [0, 1])
    with pytest.raises(ValueError, match="on the same clips only"):
        difference_of(model, replace(model, **change), (0, 1))


# ---- the result


def tape_of(name, answer):
    """A tape of two actions, after a window of stillness; `answer` is said from 2.5 s on."""
    truth = [Segment(name, 2.0, 5.0, "wave"), Segment(name, 5.0, 8.0, "point")]
    decisions = [
        Said(t / 4, 2 if t < 10 else answer, 0.9, t < 8) for t in range(32)
    ]  # fmt: skip
    return LiveTape(truth, decisions, min_earlier=0)


def test_the_summary_and_its_table_say_the_numbers():
    base = answered([0, 1, 1, 0], [0, 0, 1, 1], tapes=[tape_of("a.mp4", 0)])
    model = answered([0, 0, 1, 0], [0, 0, 1, 1], tapes=[tape_of("a.mp4", 0)])
    result = summary(plan_of(), {"tsn": base, "tdrl": model}, ["wave", "point"])
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert result["base"] == "tsn"
    assert (result["folds"], result["sets"]) == ([0, 1], ["epochs=2"])
    assert result["models"]["tsn"]["recall"] == {"wave": 0.5, "point": 0.5}
    assert result["models"]["tdrl"]["balanced_accuracy"]["value"] == pytest.approx(0.75)
    assert result["models"]["tdrl"]["clips"] == 4
    assert list(result["gain_over_base"]) == ["tdrl"]
    assert result["gain_over_base"]["tdrl"]["value"] == pytest.approx(0.25)
    live = result["models"]["tdrl"]["live"]
    assert (live["live_top1"], live["delay_median_s"]) == (0.5, 0.5)
    lines = table(result).splitlines()
    assert lines[0] == "| model | balanced accuracy | over tsn | wave | point |"
    assert lines[1] == "|---|---|---|---|---|"
    assert lines[2].startswith("| tsn | 50.0 % (")
    assert lines[2].endswith(" |  | 50 % | 50 % |")
    assert lines[3].startswith("| tdrl | 75.0 % (")
    assert " | +25.0 points (" in lines[3]
    assert lines[3].endswith(" | 100 % | 50 % |")
    assert lines[5].startswith("| model | live top-1 | event recall | false events an hour |")
    assert lines[7].startswith("| tsn | 50 % | ")
    assert " | 0.50 s | " in lines[7]
    assert {line.count("|") for line in lines[:4]} == {6}
    assert len({line.count("|") for line in lines[5:]}) == 1


def test_without_a_policy_each_fold_gets_that_of_the_others(monkeypatch):
    seen = []

    def fit(tapes, labels, sampling):
        seen.append([tape.truth[0].path for tape in tapes])
        return Policy(enter=0.95, exit=0.95)  # surer than any decision here

    monkeypatch.setattr("train.fold_policies.fit_policy", fit)
    tapes = [tape_of(name, 0) for name in ("a0.mp4", "a1.mp4", "b0.mp4")]
    base = replace(answered([0, 1], [0, 1], tapes=tapes), folds=(3, 4, 3))
    result = summary(plan_of(events=None), {"tsn": base}, ["wave", "point"])
    assert seen == [["a1.mp4"], ["a0.mp4", "b0.mp4"]]
    assert result["events"] == "fitted on the other folds"
    assert result["models"]["tsn"]["live"]["event_precision"] is None, "no event was found"
    plain = summary(plan_of(), {"tsn": base}, ["wave", "point"])
    assert plain["models"]["tsn"]["live"]["event_precision"] is not None
    assert plain["events"] == EVERY_RUN.to_json()


def test_a_class_without_clips_is_a_dash_and_no_number():
    """Folds may lack a class: hours of training must not end at a NaN."""
    result = summary(plan_of(), {"tsn": answered([0, 1], [0, 1])}, [])
    assert result["classes"] == list(LABELS)
    assert result["models"]["tsn"]["recall"] == {"wave": 1.0, "point": 1.0, "still": None}
    json.dumps(result, allow_nan=False)
    assert table(result).splitlines()[-1].endswith(" | 100 % | 100 % | – |")
    assert result["models"]["tsn"]["live"] is None


def test_folds_without_a_clip_of_the_classes_are_refused():
    found = {"tsn": answered([0, 1], [0, 1])}
    with pytest.raises(DataError, match=r"the folds \[0, 1\] hold no clip of still"):
        summary(plan_of(), found, ["still"])


# ---- a command line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three recordings in three folds, two classes in each."""
    root = tmp_path_factory.mktemp("data")
    names = ["a.mp4", "b.mp4", "c.mp4"]
    for seed, name in enumerate(names):
        small_data.write(root / name, seed)
    write_truth(root / "segments.csv", [row for name in names for row in small_data.rows_of(name)])
    (root / "folds.csv").write_text("path,fold\na.mp4,0\nb.mp4,1\nc.mp4,2\n")
    (root / "data.yaml").write_text("segments: segments.csv\nfolds: folds.csv\nfold: 1\n")
    return root / "data.yaml"


def test_a_plan_is_what_the_command_says(data, tmp_path):
    argv = ["--data", str(data), "--models", "tdrl, tsn,tdrl", "--set", "epochs=1"]
    more = ["--event-min-s", "0.5", "--event-threshold", "0.25", "--runs", str(tmp_path)]
    plan = _plan(_parser().parse_args([*argv, *more]))
    assert plan.models == ("tdrl", "tsn")
    assert plan.folds == (0, 1, 2)
    assert (plan.recipe, plan.sets, plan.protocol) == ("own", ("epochs=1",), "1x1")
    assert plan.events == Policy(enter=0.25, exit=0.25, min_duration_s=0.5)
    chosen = _plan(_parser().parse_args([*argv, "--only-folds", "2, 0,2"]))
    assert chosen.folds == (2, 0)
    assert plan.seeds == (0,)
    several = _plan(_parser().parse_args([*argv, "--seeds", "2", "--only-folds", "1"]))
    assert several.tasks == [(m, 1, s) for s in (0, 1) for m in ("tdrl", "tsn")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "tsn,gru"], "--models must be of tsn, tsm, teinet, tdrl, got 'gru'"),
        (["--models", ""], "--models must be of tsn, tsm, teinet, tdrl, got ''"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--seeds", "2", "--set", "seed=1"], "--set seed and --seeds exclude each other"),
        (["--only-folds", "3"], "has no fold 3, there are [0, 1, 2]"),
        (["--only-folds", "one"], "--only-folds must be numbers, got 'one'"),
        (["--only-folds", "1,"], "--only-folds must be numbers, got '1,'"),
        (["--classes", "wave,jump"], "--classes must be of point, wave, got 'jump'"),
        (["--protocol", "3"], "protocol must be CxK"),
        (["--event-threshold", "2"], "enter must be a number in 0..1, got 2.0"),
        (["--init-from", "clips", "--set", "init=a.ckpt"], "--set init and --init-from exclude"),
        (["--init-from", "clips"], "tsn-0-0/checkpoint/last.ckpt is missing; finish that cross"),
        (["--set", "epochs"], "--set wants FIELD=VALUE, got 'epochs'"),
        (["--set", "epoch=3"], "unknown field 'epoch'; did you mean epochs?"),
        (["--recipe", "owm"], "no recipe 'owm'; shipped recipes:"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_line_before_anything_is_trained(
    data, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr("train.cross_validation.cross_validate", None)
    argv = ["--data", str(data), "--runs", str(tmp_path / "runs"), *options]
    assert run_command(lambda: main(argv)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_data_without_folds_say_how_to_make_them(data, tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"root: {data.parent}\nsegments: segments.csv\n")
    with pytest.raises(DataError, match=r"names no folds; make them: python -m train\.prepare"):
        _plan(_parser().parse_args(["--data", str(plain)]))


# ---- a whole run

RECIPE = """
backbone: tiny
height_px: 32
width_px: 32
num_segments: 4
shift_div: 4
epochs: 1
batch_size: 8
workers: 0
"""


@pytest.fixture
def trainings(monkeypatch):
    """Train in this process: starting Python takes longer than these runs. Names the runs."""
    names = []

    def command(module, arguments, *, jobs):
        assert module == "train.fit"
        names.append(Path(arguments[arguments.index("--out") + 1]).name)
        assert fit.main(arguments) is None

    monkeypatch.setattr("train.cross_validation.command", command)
    return names


@pytest.mark.slow
def test_every_recording_is_answered_by_a_model_that_has_not_seen_it(
    data, tmp_path, trainings, capsys
):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    runs = tmp_path / "runs"
    argv = ["--data", str(data), "--recipe", str(recipe), "--runs", str(runs)]
    argv += ["--models", "tsn,tdrl", "--only-folds", "0,2"]
    assert run_command(lambda: main(argv)) == 0
    assert trainings == ["tsn-0-0", "tdrl-0-0", "tsn-2-0", "tdrl-2-0"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"results: {runs / 'cross_validation.md'}"
    page = (runs / "cross_validation.md").read_text()
    assert page.startswith("| model | balanced accuracy | over tsn | point | wave |\n")
    result = json.loads((runs / "cross_validation.json").read_text())
    assert {name: one["clips"] for name, one in result["models"].items()} == {"tsn": 20, "tdrl": 20}
    assert result["models"]["tdrl"]["live"]["num_actions"] == 20
    for fold, held_out in ((0, "a.mp4"), (2, "c.mp4")):
        splits = (
            load_split(runs / f"fold-{fold}.yaml", name, ("point", "wave"))
            for name in ("train", "validation")
        )
        seen, answered = ({s.path.name for s in split.segments} for split in splits)
        assert (answered, seen) == ({held_out}, {"a.mp4", "b.mp4", "c.mp4"} - {held_out})
        kept = json.loads((runs / f"tsn-{fold}-0" / "result.json").read_text())
        assert (kept["fold"], kept["seed"]) == (fold, 0)
        values, source = kept["settings"]
        assert (json.loads(values)["temporal"], source) == ("none", str(data))

    # finished runs are kept; other settings or data are not
    trainings.clear()
    assert run_command(lambda: main(argv)) == 0
    assert trainings == []
    again = json.loads((runs / "cross_validation.json").read_text())
    assert again == result
    assert run_command(lambda: main([*argv, "--models", "tsn", "--set", "seed=1"])) == 0
    assert trainings == ["tsn-0-0", "tsn-2-0"]
    trainings.clear()
    other = tmp_path / "other.yaml"
    folds = data.parent / "folds.csv"
    other.write_text(f"root: {data.parent}\nsegments: segments.csv\nfolds: {folds}\nfold: 0\n")
    argv[1] = str(other)
    assert run_command(lambda: main([*argv, "--models", "tsn", "--set", "seed=1"])) == 0
    assert trainings == ["tsn-0-0", "tsn-2-0"]


def test_seeds_are_trained_apart_and_an_edited_recipe_is_another(data, tmp_path, trainings):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    argv = ["--data", str(data), "--recipe", str(recipe), "--runs", str(tmp_path / "runs")]
    argv += ["--models", "tsn", "--only-folds", "0", "--seeds", "2", "--no-live"]
    assert run_command(lambda: main(argv)) == 0
    assert trainings == ["tsn-0-0", "tsn-0-1"]
    result = json.loads((tmp_path / "runs" / "cross_validation.json").read_text())
    assert (result["seeds"], result["models"]["tsn"]["clips"]) == ([0, 1], 10)
    weights = [
        load_checkpoint(tmp_path / "runs" / f"tsn-0-{seed}" / "checkpoint" / "last.ckpt")[0]
        for seed in (0, 1)
    ]
    assert not torch.equal(*(model.fc.weight for model in weights))
    trainings.clear()
    recipe.write_text(RECIPE.replace("batch_size: 8", "batch_size: 10"))
    assert run_command(lambda: main([*argv[:-3], "--no-live"])) == 0
    assert trainings == ["tsn-0-0"]


def test_a_model_goes_on_from_one_that_has_not_seen_the_fold_either(data, tmp_path, trainings):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    clips, live = tmp_path / "clips", tmp_path / "live"
    argv = ["--recipe", str(recipe), "--models", "tsn", "--no-live"]
    assert run_command(lambda: main([*argv, "--data", str(data), "--runs", str(clips)])) == 0
    then = [*argv, "--runs", str(live), "--init-from", str(clips)]
    then += ["--set", "learning_rate=1e-12", "--set", "weight_decay=0"]
    assert run_command(lambda: main([*then, "--data", str(data)])) == 0
    for fold in (0, 1, 2):
        start, end = (
            load_checkpoint(runs / f"tsn-{fold}-0" / "checkpoint" / "last.ckpt")[0].fc.weight
            for runs in (clips, live)
        )
        torch.testing.assert_close(end, start, rtol=0, atol=1e-6)
    assert json.loads((live / "cross_validation.json").read_text())["init_from"] == "clips"

    # other folds: the model of fold 0 would have seen b.mp4
    trainings.clear()
    folds = data.parent / "others.csv"
    folds.write_text("path,fold\na.mp4,1\nb.mp4,0\nc.mp4,2\n")
    other = data.parent / "others.yaml"
    other.write_text("segments: segments.csv\nfolds: others.csv\nfold: 1\n")
    with pytest.raises(DataError, match="held out other recordings; its models may have seen"):
        main([*then, "--data", str(other)])
    assert trainings == []


def test_a_model_that_looks_ahead_is_not_asked_to_watch(data, tmp_path, trainings, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(f"{RECIPE}form: lookahead\npre_roll: 0\n")
    argv = ["--data", str(data), "--recipe", str(recipe), "--runs", str(tmp_path / "runs")]
    assert run_command(lambda: main([*argv, "--models", "tsm", "--only-folds", "1"])) == 0
    result = json.loads((tmp_path / "runs" / "cross_validation.json").read_text())
    assert result["models"]["tsm"]["live"] is None
    assert result["models"]["tsm"]["clips"] == 10
