"""When a decision speaks for an action, and when an action starts and ends.

A policy file is JSON. Every field may be left out; what is there replaces the bundle's:

    {
      "enter": 0.6,              least probability of a decision that speaks for a class
      "exit": 0.4,               an action goes on down to here
      "margin": 0.1,             least lead over the second class
      "min_duration_s": 0.25,    an action has to last as long before it is reported
      "max_gap_s": 0.5,          an interruption of at most this long is none
      "lag_s": 0.5,              decisions come this long after what they are about
      "classes": {"fall": {"enter": 0.4, "exit": 0.2}},
      "ignore": ["wave"]         classes that are never reported
    }

A class named `background` or `still` means that nothing happens; it is never reported either. A
decision that speaks for no action has the action None: "none of these".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PolicyError

# Classes that mean "nothing happens", by their names in a data set.
BACKGROUND_NAMES = ("background", "still")
LONGEST_S = 86400.0
SECONDS = ("min_duration_s", "max_gap_s", "lag_s")
SHARES = ("enter", "exit", "margin")
LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Thresholds:
    """Probabilities, 0..1, at which an action of a class starts and ends; exit <= enter."""

    enter: float
    exit: float

    def __post_init__(self) -> None:
        _require_share("enter", self.enter)
        _require_share("exit", self.exit)
        if self.exit > self.enter:
            raise ValueError(f"exit must be <= enter, got exit {self.exit}, enter {self.enter}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is reported as an action; without arguments every stretch of equal decisions is.

    Attributes:
        enter: Least probability of a decision that speaks for its class, 0..1.
        exit: An action goes on while its probability is at least this, <= `enter`.
        margin: Least difference between the first and the second class, 0..1.
        min_duration_s: Decisions have to speak for an action as long before it is reported.
        max_gap_s: Interruptions of at most this long are bridged.
        lag_s: Decisions come this long after what they are about: start and end are dated back.
        classes: Thresholds of classes that have their own.
        ignore: Classes that are never reported.
    """

    enter: float = 0.0
    exit: float = 0.0
    margin: float = 0.0
    min_duration_s: float = 0.0
    max_gap_s: float = 0.0
    lag_s: float = 0.0
    classes: Mapping[str, Thresholds] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Thresholds(self.enter, self.exit)
        _require_share("margin", self.margin)
        for name in SECONDS:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be >= 0, got {value}")

    def to_json(self) -> dict[str, Any]:
        """The policy as files, bundles and checkpoints store it."""
        return {
            **{name: getattr(self, name) for name in (*SHARES, *SECONDS)},
            "classes": {
                label: {"enter": own.enter, "exit": own.exit} for label, own in self.classes.items()
            },
            "ignore": list(self.ignore),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """The policy that `to_json` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another type.
            ValueError: Values out of range.
        """
        return cls(
            **{name: float(data[name]) for name in (*SHARES, *SECONDS)},
            classes={
                str(label): Thresholds(float(own["enter"]), float(own["exit"]))
                for label, own in dict(data["classes"]).items()
            },
            ignore=tuple(str(label) for label in data["ignore"]),
        )


class Rules:
    """A policy for a model's classes.

    Args:
        policy: The policy.
        labels: Class names in the order of the model's outputs.
        background: The class that means "nothing happens"; None where there is none.

    Attributes:
        policy: The policy.
        labels: The class names.
        exit: Exit threshold of each class.
        is_silent: Whether a class is never reported.
    """

    def __init__(self, policy: Policy, labels: Sequence[str], background: str | None) -> None:
        general = Thresholds(policy.enter, policy.exit)
        own = [policy.classes.get(label, general) for label in labels]
        self.policy = policy
        self.labels = tuple(labels)
        self.exit = [thresholds.exit for thresholds in own]
        silent = {background, *policy.ignore}
        self.is_silent = [label in silent or _is_background(label) for label in labels]
        self._enter = [thresholds.enter for thresholds in own]

    @classmethod
    def of(cls, policy: Policy, labels: Sequence[str]) -> Rules:
        """The rules of a live stream: the background is found by its name."""
        return cls(policy, labels, background_of(labels))

    def top(self, probs: NDArray[np.floating[Any]]) -> tuple[int, bool]:
        """The most probable class and whether the decision speaks for it.

        Args:
            probs: Probabilities, shape (K,).
        """
        index = int(probs.argmax())
        speaks = float(probs[index]) >= self._enter[index]
        if speaks and self.policy.margin > 0 and len(probs) > 1:
            second, first = np.partition(probs, -2)[-2:].tolist()
            speaks = first - second >= self.policy.margin
        return index, speaks

    def action(self, probs: NDArray[np.floating[Any]]) -> str | None:
        """The action that a decision speaks for by itself; None for "none of these"."""
        index, speaks = self.top(probs)
        return self.labels[index] if speaks and not self.is_silent[index] else None


def background_of(labels: Sequence[str]) -> str | None:
    """The class that means "nothing happens", None where a data set has none.

    Example:
        >>> background_of(["open", "close", "Background"])
        'Background'
        >>> background_of(["open", "close"])
    """
    return next((label for label in labels if _is_background(label)), None)


def _is_background(label: str) -> bool:
    return label.casefold() in BACKGROUND_NAMES


def load_policy(
    path: Path, base: Policy, labels: Sequence[str], *, longest_lag_s: float = math.inf
) -> Policy:
    """Read a policy file.

    Args:
        path: The file.
        base: What holds where the file says nothing; `enter` or `exit` in a file without
            `classes` hold for all classes.
        labels: The bundle's labels.
        longest_lag_s: What `lag_s` may be at most: the time of a stream's first decision.

    Raises:
        PolicyError: The file cannot be read or is wrong; its `problems` lists all that is.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise PolicyError(f"{path} is no policy file: it has over {LARGEST_FILE_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise PolicyError(f"{path} cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise PolicyError(f"{path} is no JSON: {err}") from err
    problems = list(_problems(data, base, labels, longest_lag_s))
    if problems:
        raise PolicyError(*(f"{path}: {problem}" for problem in problems))
    return _over(base, data)


def check_policy(policy: Policy, labels: Sequence[str], longest_lag_s: float) -> None:
    """Refuse a policy that does not fit a model.

    Raises:
        ValueError: It names an unknown class, or the lag is too long.
    """
    for problem in _problems(policy.to_json(), policy, labels, longest_lag_s):
        raise ValueError(problem)


def _over(base: Policy, data: Mapping[str, Any]) -> Policy:
    """What a checked file says, over a base."""
    changes: dict[str, Any] = {
        name: float(data[name]) for name in (*SHARES, *SECONDS) if name in data
    }
    general = replace(base, **changes, classes={})
    classes = base.classes
    if "classes" in data:
        classes = {label: _thresholds(own, general) for label, own in data["classes"].items()}
    elif "enter" in data or "exit" in data:
        classes = {}
    ignore = tuple(data["ignore"]) if "ignore" in data else base.ignore
    return replace(general, classes=classes, ignore=ignore)


def _thresholds(own: Mapping[str, Any], general: Policy) -> Thresholds:
    """A class that names one threshold takes the other from all classes, as far as it fits."""
    if "enter" not in own:
        return Thresholds(max(general.enter, own["exit"]), own["exit"])
    return Thresholds(own["enter"], own.get("exit", min(general.exit, own["enter"])))


def _problems(
    data: Any, base: Policy, labels: Sequence[str], longest_lag_s: float
) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"a policy is an object {{...}}, got {_shown(data)}"
        return
    known = tuple(one.name for one in fields(Policy))
    for name in data:
        if name not in known:
            yield f"no such field {_shown(name)}; there are {', '.join(known)}"
    numbers = {name: getattr(base, name) for name in (*SHARES, *SECONDS)}
    numbers |= {name: data[name] for name in numbers if name in data}
    bad = [
        *(_share_problem(name, numbers[name]) for name in SHARES),
        *(_seconds_problem(name, numbers[name]) for name in SECONDS),
    ]
    found = [problem for problem in bad if problem]
    yield from found
    if not found and numbers["exit"] > numbers["enter"]:
        yield f"exit must be <= enter, got exit {numbers['exit']}, enter {numbers['enter']}"
    if not found and numbers["lag_s"] > longest_lag_s + 1e-9:
        yield (
            f"lag_s must be <= {longest_lag_s:g}, the time of a stream's first decision, "
            f"got {numbers['lag_s']}"
        )
    yield from _class_problems(data.get("classes", {}), labels)
    yield from _ignore_problems(data.get("ignore", []), labels)


def _class_problems(classes: Any, labels: Sequence[str]) -> Iterator[str]:
    if not isinstance(classes, dict):
        yield f"classes must be an object of labels, got {_shown(classes)}"
        return
    for label, own in classes.items():
        where = f"classes: {_shown(label)}"
        if label not in labels:
            yield f"{where} is no label; {_known(labels)}"
        if not isinstance(own, dict) or not own or not own.keys() <= {"enter", "exit"}:
            yield f"{where} must hold enter, exit or both, got {_shown(own)}"
            continue
        found = [p for name in own if (p := _share_problem(name, own[name]))]
        yield from (f"{where}: {problem}" for problem in found)
        if not found and own.get("exit", 0) > own.get("enter", 1):
            yield f"{where}: exit must be <= enter, got exit {own['exit']}, enter {own['enter']}"


def _ignore_problems(ignore: Any, labels: Sequence[str]) -> Iterator[str]:
    if not isinstance(ignore, list):
        yield f"ignore must be a list of labels, got {_shown(ignore)}"
        return
    for label in ignore:
        if label not in labels:
            yield f"ignore: {_shown(label)} is no label; {_known(labels)}"


def _known(labels: Sequence[str]) -> str:
    names = ", ".join(labels)
    return f"the bundle has {names if len(names) <= 200 else names[:199] + '…'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share_problem(name: str, value: Any) -> str | None:
    if _is_number(value) and 0 <= value <= 1:
        return None
    return f"{name} must be a number in 0..1, got {_shown(value)}"


def _seconds_problem(name: str, value: Any) -> str | None:
    if _is_number(value) and 0 <= value <= LONGEST_S:
        return None
    return f"{name} must be seconds in 0..{LONGEST_S:g}, got {_shown(value)}"


def _require_share(name: str, value: float) -> None:
    if (problem := _share_problem(name, value)) is not None:
        raise ValueError(problem)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
