"""What the search keeps: only what measures better, and within the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from export.int8.search import GOAL_DB, METHODS, Settings, search
from export.int8.sensitivity import LayerSensitivity
from export.parity import Parity


def parity(sqnr_db, same_top1=1.0):
    return Parity(steps=128, max_abs=0.1, logits_range=10.0, sqnr_db=sqnr_db, same_top1=same_top1)


@dataclass
class Given:
    """Stands for an `Int8Maker`: decibels that each step adds, and what was asked for."""

    methods: dict[str, float]
    rounded: float = 0.0
    corrected: float = 0.0
    gains: dict[str, float] | None = None
    shares: dict[str, float] | None = None
    same_top1: float = 1.0

    def measure(self, settings: Settings) -> Parity:
        total = self.methods[settings.method]
        total += settings.rounded * self.rounded + settings.corrected * self.corrected
        total += sum((self.gains or {})[name] for name in settings.float_convs)
        return parity(total, self.same_top1)

    def sensitivities(self, settings: Settings) -> list[LayerSensitivity]:
        del settings
        gains, shares = self.gains or {}, self.shares or {}
        order = sorted(gains, key=lambda name: -gains[name])
        return [LayerSensitivity(name, 60 - gains[name], shares[name]) for name in order]


def even(best="mse"):
    return {method: 20.0 + (method == best) for method in METHODS}


def test_the_best_method_is_kept():
    found = search(Given(even("entropy")), 0.0)
    assert found.settings == Settings("entropy")
    assert {name: p.sqnr_db for name, p in found.compared.items()} == even("entropy")
    assert [each.name for each in found.tried if each.kept] == ["entropy"]


@pytest.mark.parametrize(
    ("rounded", "corrected", "kept"),
    [
        (3.0, 1.0, {"rounded": True, "corrected": True}),
        (-3.0, 1.0, {"corrected": True}),
        (3.0, -1.0, {"rounded": True}),
        (0.05, 0.0, {}),  # no more than noise
    ],
)
def test_a_step_stays_only_if_it_helps(rounded, corrected, kept):
    found = search(Given(even(), rounded, corrected), 0.0)
    assert found.settings == replace(Settings("mse"), **kept)
    assert [each.name for each in found.tried] == [
        *METHODS,
        "weights rounded against their inputs",
        "corrected biases",
    ]
    assert found.parity.sqnr_db == max(each.parity.sqnr_db for each in found.tried if each.kept)


GAINS = {"a": 2.0, "b": 1.0, "c": 0.9, "d": 0.3, "e": 0.8}
SHARES = {"a": 0.01, "b": 0.3, "c": 0.02, "d": 0.01, "e": 0.03}


def test_sensitive_convolutions_stay_float_within_the_budget():
    """b is too large for the budget, d does not help, e no longer fits."""
    found = search(Given(even(), gains=GAINS, shares=SHARES), 0.05)
    assert found.settings.float_convs == ("a", "c")
    tried = {each.name: each.kept for each in found.tried if each.name.startswith("float")}
    assert tried == {"float: a": True, "float: c": True, "float: d": False}


def test_nothing_stays_float_without_a_budget():
    found = search(Given(even(), gains=GAINS, shares=SHARES), 0.0)
    assert found.settings.float_convs == ()
    assert [layer.conv for layer in found.layers] == ["a", "b", "c", "e", "d"]


def test_no_more_stay_float_than_the_goal_needs():
    methods = dict.fromkeys(METHODS, GOAL_DB - 1.5)
    found = search(Given(methods, gains=GAINS, shares=SHARES), 1.0)
    assert found.settings.float_convs == ("a",)
    enough = dict.fromkeys(METHODS, GOAL_DB)
    assert search(Given(enough, gains=GAINS, shares=SHARES), 1.0).settings.float_convs == ()


def test_decibels_are_not_enough_where_answers_differ():
    methods = dict.fromkeys(METHODS, GOAL_DB + 5)
    found = search(Given(methods, gains=GAINS, shares=SHARES, same_top1=0.98), 1.0)
    assert found.settings.float_convs == ("a", "b", "c", "e")
