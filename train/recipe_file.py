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
from train.model.backbones.table import BACKBONES
from train.model.presets import PRESETS
from train.recipe import Recipe

RECIPE_FOLDER = Path(__file__).parent / "recipes"
PRESET = "preset"


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
        ValueError: Unknown fields or values out of range.
    """
    path = _path_of(name)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise DataError(f"{path} is no valid YAML: {err}") from err
    changes = {key: _parsed(key, text) for key, text in (overrides or {}).items()}
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold `field: value` lines, got {type(values).__name__}")
    return _checked({**values, **changes}, path)


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
        raise ValueError(f"{field} must be a YAML value, got {text!r}") from err


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


def _checked(values: dict[str, Any], path: Path) -> Recipe:
    values = {**_of_preset(values.get(PRESET), path), **values}
    values.pop(PRESET, None)
    types = {field.name: str(field.type) for field in fields(Recipe)}
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), [*types, PRESET], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path} has an unknown field {name!r}{hint}")
        values[name] = _typed(name, value, types[name])
    if "backbone" not in values:
        raise ValueError(f"{path} has no backbone; one of {', '.join(BACKBONES)}")
    return Recipe(**values)


def _of_preset(name: Any, path: Path) -> dict[str, Any]:
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return dict(vars(PRESETS[name]))


def _typed(name: str, value: Any, declared: str) -> Any:
    """A value as its field declares it."""
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
