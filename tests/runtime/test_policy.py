from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from runtime.bundle import load_bundle
from runtime.errors import BundleError, PolicyError
from runtime.operating_point import OperatingPoint
from runtime.policy import Policy, Rules, Thresholds, background_of, load_policy
from tests.mini_bundle import write_manifest, write_mini_bundle

LABELS = ("open", "shut", "still")
BASE = Policy(
    enter=0.6,
    exit=0.4,
    min_duration_s=0.5,
    lag_s=0.25,
    classes={"open": Thresholds(0.5, 0.3)},
    ignore=("shut",),
)


def loaded(tmp_path, data, base=BASE, **more):
    path = tmp_path / "policy.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return load_policy(path, base, LABELS, **more)


def refusal(tmp_path, data, **more):
    with pytest.raises(PolicyError) as caught:
        loaded(tmp_path, data, **more)
    return [problem.removeprefix(f"{tmp_path}/policy.json: ") for problem in caught.value.problems]


def test_what_a_file_leaves_out_is_the_bundles(tmp_path):
    assert loaded(tmp_path, {}) == BASE
    assert loaded(tmp_path, {"max_gap_s": 1}) == replace(BASE, max_gap_s=1.0)
    assert loaded(tmp_path, {"ignore": []}) == replace(BASE, ignore=())
    assert loaded(tmp_path, BASE.to_json(), Policy()) == BASE


def test_general_thresholds_hold_for_all_classes(tmp_path):
    assert loaded(tmp_path, {"enter": 0.9}) == replace(BASE, enter=0.9, classes={})
    both = loaded(tmp_path, {"enter": 0.9, "classes": {"shut": {"enter": 0.7}}})
    assert both == replace(BASE, enter=0.9, classes={"shut": Thresholds(0.7, 0.4)})


def test_a_class_that_names_one_threshold_gets_the_other_as_far_as_it_fits(tmp_path):
    given_ = {"open": {"enter": 0.2}, "shut": {"exit": 0.8}, "still": {"enter": 1, "exit": 0}}
    assert loaded(tmp_path, {"classes": given_}).classes == {
        "open": Thresholds(0.2, 0.2),
        "shut": Thresholds(0.8, 0.8),
        "still": Thresholds(1, 0),
    }


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "a policy is an object {...}, got []"),
        ({"entr": 0.5}, 'no such field "entr"; there are enter, exit, margin, min_duration_s, '),
        ({"enter": "0.5"}, 'enter must be a number in 0..1, got "0.5"'),
        ({"enter": True}, "enter must be a number in 0..1, got true"),
        ({"exit": 1.5}, "exit must be a number in 0..1, got 1.5"),
        ({"exit": 0.7}, "exit must be <= enter, got exit 0.7, enter 0.6"),
        ({"margin": None}, "margin must be a number in 0..1, got null"),
        ({"max_gap_s": -1}, "max_gap_s must be seconds in 0..86400, got -1"),
        ('{"max_gap_s": Infinity}', "max_gap_s must be seconds in 0..86400, got Infinity"),
        ({"max_gap_s": 10**400}, "max_gap_s must be seconds in 0..86400, got 1000"),
        ('{"enter": NaN}', "enter must be a number in 0..1, got NaN"),
        ({"lag_s": 2}, "lag_s must be <= 1.75, the time of a stream's first decision, got 2"),
        ({"classes": ["open"]}, 'classes must be an object of labels, got ["open"]'),
        ({"classes": {"opn": {"enter": 1}}}, 'classes: "opn" is no label; the bundle has open, '),
        ({"classes": {"open": {}}}, 'classes: "open" must hold enter, exit or both, got {}'),
        ({"classes": {"open": 0.5}}, 'classes: "open" must hold enter, exit or both, got 0.5'),
        ({"classes": {"open": {"entry": 1}}}, 'classes: "open" must hold enter, exit or both'),
        ({"classes": {"open": {"enter": 2}}}, 'classes: "open": enter must be a number in 0..1'),
        (
            {"classes": {"open": {"enter": 0.2, "exit": 0.3}}},
            'classes: "open": exit must be <= enter, got exit 0.3, enter 0.2',
        ),
        ({"ignore": "open"}, 'ignore must be a list of labels, got "open"'),
        ({"ignore": ["opn"]}, 'ignore: "opn" is no label; the bundle has open, shut, still'),
        ({"ignore": [["open"]]}, 'ignore: ["open"] is no label'),
    ],
)
def test_each_mistake_is_named(tmp_path, data, problem):
    (line,) = refusal(tmp_path, data, longest_lag_s=1.75)
    assert line.startswith(problem)
    assert "\n" not in line


def test_all_mistakes_are_told_at_once(tmp_path):
    wrong = {"enter": 2, "lag": 1, "ignore": ["x"], "classes": {"y": {"exit": -1}}}
    assert len(refusal(tmp_path, wrong)) == 5


def test_files_that_are_no_policy_are_refused(tmp_path):
    with pytest.raises(PolicyError, match=r"gone\.json cannot be read: No such file"):
        load_policy(tmp_path / "gone.json", BASE, LABELS)
    assert re.search("is no JSON: ", *refusal(tmp_path, "{"))
    assert re.search("is no JSON: ", *refusal(tmp_path, "[" * 100_000))
    (tmp_path / "policy.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="is no JSON"):
        load_policy(tmp_path / "policy.json", BASE, LABELS)
    assert re.search("is no policy file: ", *refusal(tmp_path, " " * (1 << 20) + "{}"))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
fields = st.sampled_from((*BASE.to_json(), "other"))
classes = st.dictionaries(
    st.sampled_from((*LABELS, "other")),
    st.dictionaries(st.sampled_from(("enter", "exit", "x")), st.floats(0, 1) | json_values),
)


@given(st.dictionaries(fields, st.floats(0, 1) | json_values | classes) | json_values)
def test_any_json_is_a_policy_or_a_clear_refusal(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    problems: tuple[str, ...] = ()
    try:
        policy = loaded(folder, data, longest_lag_s=5.0)
    except PolicyError as err:
        policy, problems = BASE, err.problems
        event("refused")
    assert all("\n" not in problem and len(problem) < 500 for problem in problems)
    assert Policy.from_json(policy.to_json()) == policy
    Rules.of(policy, LABELS).top(np.full(3, 1 / 3, np.float32))


def test_a_policy_is_stored_as_it_is():
    assert Policy.from_json(json.loads(json.dumps(BASE.to_json()))) == BASE
    point = OperatingPoint(temperature=1.25, policy=BASE, measured={"event_f1": 0.9})
    assert OperatingPoint.from_json(json.loads(json.dumps(point.to_json()))) == point


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enter": 1.5}, "enter must be a number in 0..1, got 1.5"),
        ({"enter": 0.4, "exit": 0.5}, "exit must be <= enter, got exit 0.5, enter 0.4"),
        ({"min_duration_s": -1.0}, "min_duration_s must be >= 0, got -1"),
        ({"lag_s": float("nan")}, "lag_s must be >= 0, got nan"),
    ],
)
def test_wrong_policies_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Policy(**arguments)


def test_wrong_temperatures_are_refused():
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        OperatingPoint(temperature=0.0)


def test_the_action_of_a_decision_is_none_below_threshold_margin_or_for_silent_classes():
    rules = Rules.of(Policy(enter=0.5, exit=0.5, margin=0.2, ignore=("shut",)), LABELS)

    def action(*probs):
        return rules.action(np.array(probs))

    assert action(0.6, 0.3, 0.1) == "open"
    assert action(0.4, 0.2, 0.1) is None
    assert action(0.5, 0.4, 0.1) is None
    assert action(0.1, 0.8, 0.1) is None
    assert action(0.1, 0.1, 0.8) is None


@pytest.mark.parametrize(
    ("labels", "background"),
    [
        (("open", "still"), "still"),
        (("Background", "open"), "Background"),
        (("open", "close"), None),
        (("holding something still", "background noise"), None),
    ],
)
def test_the_background_is_found_by_its_whole_name(labels, background):
    assert background_of(labels) == background


def test_every_class_of_nothing_is_silent():
    rules = Rules.of(Policy(ignore=("b",)), ("a", "b", "background", "Still"))
    assert rules.is_silent == [False, True, True, True]


# ---- in a bundle


def test_a_bundle_keeps_its_operating_point_and_an_older_one_has_none(tmp_path):
    bundle = write_mini_bundle(tmp_path, num_segments=4, window_s=1.0)
    assert bundle.operating == OperatingPoint()
    policy = Policy(enter=0.5, lag_s=0.75, classes={"a": Thresholds(0.4, 0.2)}, ignore=("b",))
    point = OperatingPoint(temperature=1.5, policy=policy)
    write_manifest(replace(bundle, operating=point))
    assert load_bundle(tmp_path).operating == point
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    del manifest["operating_point"]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    assert load_bundle(tmp_path).operating == OperatingPoint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1}, "temperature must be > 0, got -1"),
        ({"temperature": []}, "export the bundle again"),
        ({"policy": {}}, "has no field 'enter'"),
        ({"policy": []}, "export the bundle again"),
        ({"policy": Policy(ignore=("x",)).to_json()}, '"x" is no label; the bundle has a, b, c'),
        ({"policy": Policy(lag_s=0.8).to_json()}, "lag_s must be <= 0.75"),
        ({"policy": {**Policy().to_json(), "classes": 3}}, "export the bundle again"),
        ({"policy": {**Policy().to_json(), "classes": {"a": []}}}, "export the bundle again"),
    ],
)
def test_a_bundle_with_a_wrong_operating_point_is_refused(tmp_path, change, message):
    bundle = write_mini_bundle(tmp_path, num_segments=4, window_s=1.0)
    write_manifest(bundle, operating_point={**OperatingPoint().to_json(), **change})
    with pytest.raises(BundleError, match=re.escape(message)):
        load_bundle(tmp_path)


def test_another_window_stretches_the_lag():
    point = OperatingPoint(policy=Policy(lag_s=0.5, min_duration_s=0.5))
    assert point.stretched(2.0).policy == Policy(lag_s=1.0, min_duration_s=0.5)
