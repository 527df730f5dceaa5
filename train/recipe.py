"""Recipes: one YAML file says all that a training run needs, checked before anything starts."""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import DataError
from runtime.preprocess import Crop
from train.data.clips import Sampling
from train.model.backbones.resnet import SIZES
from train.model.pem import Form
from train.model.unit import TEMPORALS, Temporal

RECIPE_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    Attributes:
        backbone: `tiny`, `resnet18`, ...
        temporal: Temporal module, `none` or `tsm`.
        pem: Whether PEM is there.
        shift_div: TSM moves C/shift_div channels.
        pem_first: PEM before the temporal module (the paper's figure) or after it.
        form: `causal` streams, `lookahead` is for whole clips.
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        crop: Crop rule, see runtime/preprocess.py.
        num_segments: T.
        window_s: Seconds of the live window; None takes the median training clip.
        sampling: `live` draws windows as the runtime sees them, `segments` one frame a segment.
        epochs: Passes over the training set.
        batch_size: Clips a step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's, on weights of convolutions and linear layers only.
        dropout: Before the classifier.
        label_smoothing: Of the cross-entropy.
        td_loss: λ of eq. 6; 0 switches the TD loss off.
        td_ratio: Share of channels in the TD loss.
        pre_roll: Share of the batches that begin with frames of other clips.
        init: ImageNet state dict (torchvision's names) or TDRL checkpoint; None from scratch.
        seed: Of weights, order and augmentation.
        workers: Loader processes; 0 loads in the training process.
        exclude: Classes of the data to leave out.
    """

    backbone: str
    temporal: Temporal = "tsm"
    pem: bool = True
    pem_first: bool = True
    shift_div: int = 8
    form: Form = "causal"
    height_px: int = 224
    width_px: int = 224
    crop: Crop = "full"
    num_segments: int = 8
    window_s: float | None = None
    sampling: Sampling = "live"
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    dropout: float = 0.2
    label_smoothing: float = 0.0
    td_loss: float = 2e-4
    td_ratio: float = 0.5
    pre_roll: float = 0.5
    init: str | None = None
    seed: int = 0
    workers: int = 0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        if self.td_loss > 0 and self.num_segments < 2:
            raise ValueError("td_loss compares frames: set td_loss: 0 for num_segments 1")
        if self.form == "lookahead" and self.pre_roll > 0:
            raise ValueError("pre_roll needs form causal; set pre_roll: 0 for lookahead")

    def _check_ranges(self) -> None:
        positive = ("num_segments", "shift_div", "epochs", "batch_size", "learning_rate")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("pre_roll", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 < self.td_ratio <= 1:
            raise ValueError(f"td_ratio must be in (0, 1], got {self.td_ratio}")
        for name in ("td_loss", "weight_decay", "workers", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.window_s is not None and not self.window_s > 0:
            raise ValueError(f"window_s must be > 0, got {self.window_s}")

    def _check_choices(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "backbone": tuple(SIZES),
            "temporal": TEMPORALS,
            "crop": ("center", "full"),  # a region belongs to one camera, not to a recipe
            "form": ("causal", "lookahead"),
            "sampling": ("live", "segments"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )

    def to_json(self) -> dict[str, Any]:
        """The recipe as checkpoints store it."""
        return asdict(self)


def load_recipe(name: str, overrides: dict[str, str] | None = None) -> Recipe:
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
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml")))
        raise DataError(f"no recipe {name!r}; shipped recipes: {known}, or give a .yaml file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = {key: yaml.safe_load(text) for key, text in (overrides or {}).items()}
    except yaml.YAMLError as err:
        raise DataError(f"{path} is no valid YAML: {err}") from err
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold `field: value` lines, got {type(values).__name__}")
    return _checked({**values, **changes}, path)


def _checked(values: dict[str, Any], path: Path) -> Recipe:
    types = {field.name: str(field.type) for field in fields(Recipe)}
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path} has an unknown field {name!r}{hint}")
        values[name] = _typed(name, value, types[name])
    if "backbone" not in values:
        raise ValueError(f"{path} has no backbone; one of {', '.join(SIZES)}")
    return Recipe(**values)


def _typed(name: str, value: Any, declared: str) -> Any:
    """Numbers where numbers belong: YAML reads `1e-3` as text."""
    if value is None and "None" in declared:
        return None
    if declared.startswith("tuple"):
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ValueError(f"{name} must be a list of names, got {value!r}")
        return tuple(value)
    kind = declared.split(" ", maxsplit=1)[0]
    try:
        if kind in ("int", "float") and not isinstance(value, bool):
            number = float(value)
            if kind == "float" and math.isfinite(number):
                return number
            if kind == "int" and number.is_integer():
                return int(number)
    except (TypeError, ValueError, OverflowError) as err:
        raise ValueError(f"{name} must be a number, got {value!r}") from err
    known = {"bool": "true or false", "int": "a whole number", "float": "a finite number"}
    if kind in ("int", "float") or not isinstance(value, bool if kind == "bool" else str):
        raise ValueError(f"{name} must be {known.get(kind, 'text')}, got {value!r}")
    return value
