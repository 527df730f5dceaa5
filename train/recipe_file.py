"""Recipe files: found by name or path, typed, completed by presets, and described for people."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import DataError
from train.data.formats.spec import at_line, values_and_lines
from train.model.backbones.table import BACKBONES
from train.model.presets import PRESETS
from train.recipe import Recipe

RECIPE_FOLDER = Path(__file__).parent / "recipes"
PRESET = "preset"
SET = "--set"


def shipped_recipes() -> dict[str, str]:
    """Names of the shipped recipes and the first sentence of each."""
    return {path.stem: _first_sentence(path) for path in sorted(RECIPE_FOLDER.glob("*.yaml"))}


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: A shipped recipe's name (`demo`) or the path of a YAML file.
        overrides: Values that replace the file's, as YAML text by field name.

    Returns:
        The checked recipe.

    Raises:
        DataError: No such recipe, or text that is no YAML.
        ValueError: Unknown fields or values out of range; the message names the file's line or
            the change.
    """
    path = _path_of(name)
    try:
        values, lines = values_and_lines(path.read_text(encoding="utf-8"), _OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise DataError(f"{path} is no valid YAML: {err}") from err
    changes = {key: _parsed(key, text) for key, text in (overrides or {}).items()}
    if not isinstance(values, dict):
        raise DataError(
            f"{at_line(path, 1)} must hold `field: value` lines, got {type(values).__name__}"
        )
    places = {key: at_line(path, line) for key, line in lines.items()}
    places.update({key: _change(key, text) for key, text in (overrides or {}).items()})
    return _checked({**values, **changes}, places, path)


class _OnceLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys; nobody writes a field twice on purpose."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The node's keys and values.

        Raises:
            yaml.constructor.ConstructorError: A key is there twice.
        """
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parsed(field: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ValueError(
            f"{_change(field, text)}: {field} must be a YAML value, got {text!r}"
        ) from err


def _change(field: str, text: str) -> str:
    """A changed value, for messages."""
    return f"{SET} {field}={text}"


def describe(name: str, overrides: Mapping[str, str] | None = None) -> str:
    """A recipe for people: what it is for, and every field with its value and its meaning.

    Raises:
        DataError: No such recipe, or text that is no YAML.
        ValueError: Unknown fields or values out of range.
    """
    recipe = load_recipe(name, overrides)
    comment = [
        line.lstrip("# ")
        for line in _path_of(name).read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    meanings = _meanings()
    rows = [
        f"  {field.name} = {_as_text(getattr(recipe, field.name))}\n      {meanings[field.name]}"
        for field in fields(Recipe)
    ]
    return "\n".join([f"recipe {name}", *(f"  {line}" for line in comment), "", *rows])


def _path_of(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(shipped_recipes())
        raise DataError(f"no recipe {name!r}; shipped recipes: {known}, or give a .yaml file")
    return path


def _first_sentence(path: Path) -> str:
    text = " ".join(
        line.lstrip("# ")
        for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        if line.startswith("#")
    )
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0].rstrip(".")


def _meanings() -> dict[str, str]:
    """What each field means, from the class's own description."""
    text = (Recipe.__doc__ or "").partition("Attributes:")[2]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def _as_text(value: Any) -> str:
    return yaml.safe_dump(
        list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=200
    ).removesuffix("...\n").strip()  # fmt: skip


def _checked(values: dict[str, Any], places: Mapping[str, str], path: Path) -> Recipe:
    """The recipe of some values; `places` says where each of them stands, for messages."""
    values = {**_of_preset(values.get(PRESET), places), **values}
    values.pop(PRESET, None)
    types = {field.name: str(field.type) for field in fields(Recipe)}
    for name, value in values.items():
        try:
            values[name] = _typed(name, value, types)
        except ValueError as err:
            raise ValueError(f"{places[str(name)]}: {err}") from err
    if "backbone" not in values:
        raise ValueError(
            f"{at_line(path, 1)}: the recipe has no backbone; one of {', '.join(BACKBONES)}"
        )
    try:
        return Recipe(**values)
    except ValueError as err:
        place = _place_of(str(err), values, places) or str(path)
        raise ValueError(f"{place}: {err}") from err


def _place_of(message: str, values: Mapping[str, Any], places: Mapping[str, str]) -> str | None:
    """Where the value stands that a message is about: without that value it would be another.

    Fields that the message names are tried first, of these the changed ones: `epochs` in "lr_steps
    are the epochs of schedule steps" is only a word.
    """
    given = [name for name in values if name in places]
    words = [word for word in re.findall(r"\w+", message) if word in given]
    named = sorted(dict.fromkeys(words), key=lambda name: not places[name].startswith(SET))
    for name in dict.fromkeys([*named, *given]):
        if _complaint({key: value for key, value in values.items() if key != name}) != message:
            return places[name]
    return None


def _complaint(values: Mapping[str, Any]) -> str | None:
    """What is wrong with some values, a backbone aside; None if nothing is."""
    try:
        Recipe(**{"backbone": BACKBONES[0], **values})
    except ValueError as err:
        return str(err)
    return None


def _of_preset(name: Any, places: Mapping[str, str]) -> dict[str, Any]:
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(
            f"{places[PRESET]}: preset must be one of {', '.join(PRESETS)}, got {name!r}"
        )
    return dict(vars(PRESETS[name]))


def _typed(name: Any, value: Any, types: Mapping[str, str]) -> Any:
    """A value as its field declares it.

    Raises:
        ValueError: There is no such field, or the value is of another kind.
    """
    if name not in types:
        near = difflib.get_close_matches(str(name), [*types, PRESET], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown field {name!r}{hint}")
    declared = types[name]
    if (value is None and "None" in declared) or (declared == "Workers" and value == "auto"):
        return value
    if declared.startswith("tuple"):
        return _listed(
            name, value, *((int, "whole numbers") if "[int" in declared else (str, "names"))
        )
    kind = "int" if declared == "Workers" else declared.split(" ", maxsplit=1)[0]
    if kind in ("int", "float"):
        return _number(name, value, kind)
    wanted, what = (bool, "true or false") if kind == "bool" else (str, "text")
    if not isinstance(value, wanted):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return value


def _listed(name: str, value: Any, kind: type, what: str) -> tuple[Any, ...]:
    if not (isinstance(value, list) and all(type(item) is kind for item in value)):
        raise ValueError(f"{name} must be a list of {what}, got {value!r}")
    return tuple(value)


def _number(name: str, value: Any, kind: str) -> float:
    """Numbers where numbers belong: YAML reads `1e-3` as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError) as err:
        raise ValueError(f"{name} must be a number, got {value!r}") from err
    if kind == "float" and math.isfinite(number):
        return number
    if kind == "int" and number.is_integer():
        return int(number)
    what = "a whole number" if kind == "int" else "a finite number"
    raise ValueError(f"{name} must be {what}, got {value!r}")
