"""Checkpoints: weights plus all that export and evaluation need to know about them.

A checkpoint is a Lightning file with one more entry, `tdrl`, made of plain values. It is read
with `weights_only=True`: a foreign file cannot run code.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from runtime.errors import CheckpointError
from runtime.files import whole_file
from runtime.operating_point import OperatingPoint
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from train.model.cost import Cost, cost_of
from train.model.tdrl import ModelConfig, Tdrl
from train.model.weights import read_tensors

FORMAT = 1
ENTRY = "tdrl"
PREFIX = "model."


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a checkpoint says about its weights.

    Attributes:
        name: Name of the run.
        model: The architecture.
        labels: Class names in the order of the logits.
        picture: How a frame becomes the model's input.
        sampling: The sampling contract.
        operating: Temperature and policy of live decisions, fitted at the end of training.
        metrics: What was measured on the way, 0..1.
        recipe: The recipe it was trained with, for people.
    """

    name: str
    model: ModelConfig
    labels: tuple[str, ...]
    picture: PictureRule
    sampling: SamplingContract
    operating: OperatingPoint = field(default_factory=OperatingPoint)
    metrics: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    def cost(self) -> Cost:
        """What a clip and a step of the model take."""
        return cost_of(
            self.model,
            num_segments=self.sampling.num_segments,
            height_px=self.picture.height_px,
            width_px=self.picture.width_px,
        )

    def to_json(self) -> dict[str, Any]:
        """The entry as the checkpoint stores it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "model": self.model.to_json(),
            "labels": list(self.labels),
            "picture": self.picture.to_json(),
            "sampling": self.sampling.to_json(),
            "operating_point": self.operating.to_json(),
            "metrics": dict(self.metrics),
            "recipe": dict(self.recipe),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Facts:
        """The facts that `to_json` wrote.

        Raises:
            KeyError: A field is missing.
            ValueError: Another format, or values out of range.
        """
        if data["format"] != FORMAT:
            raise ValueError(f"checkpoint format {data['format']}, this version reads {FORMAT}")
        return cls(
            name=data["name"],
            model=ModelConfig.from_json(data["model"]),
            labels=tuple(data["labels"]),
            picture=PictureRule.from_json(data["picture"]),
            sampling=SamplingContract.from_json(data["sampling"]),
            operating=OperatingPoint.from_json(data.get("operating_point")),
            metrics=data["metrics"],
            recipe=data["recipe"],
        )


def load_checkpoint(path: Path) -> tuple[Tdrl, Facts]:
    """Build the model a checkpoint describes and load its weights.

    Args:
        path: A checkpoint that `train.fit` wrote.

    Returns:
        The model in evaluation mode on the CPU, and its facts.

    Raises:
        CheckpointError: Missing, damaged, not ours, or of another architecture.
    """
    data = read_checkpoint(path)
    try:
        facts = Facts.from_json(data[ENTRY])
        model = Tdrl(facts.model)
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path} describes an architecture this version does not know ({err!r}); "
            "use the version it was trained with"
        ) from err
    load_weights(model, data, path)
    return model.eval(), facts


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file without running anything in it.

    Raises:
        CheckpointError: Missing, damaged or not a checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; run `make train` or pass --checkpoint")
    data = read_tensors(path)
    if not isinstance(data, dict) or ENTRY not in data or "state_dict" not in data:
        raise CheckpointError(f"{path} is not a checkpoint of this project (no {ENTRY!r} entry)")
    return data


def load_weights(model: Tdrl, data: dict[str, Any], path: Path) -> None:
    """Load a checkpoint's weights into a model of the same architecture.

    Raises:
        CheckpointError: Names or shapes do not fit.
    """
    weights = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in data["state_dict"].items()
        if name.startswith(PREFIX)
    }
    own = model.state_dict()
    misfits = sorted(
        [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        + [name for name in weights if name not in own]
    )
    if misfits:
        raise CheckpointError(
            f"{path} holds another architecture than {model.config.backbone} "
            f"({model.config.unit.temporal}, pem {model.config.unit.pem}, "
            f"head {model.config.head}): {len(misfits)} tensors do not fit, first {misfits[0]}; "
            "give the recipe it was trained with"
        )
    model.load_state_dict(weights)


def update_facts(path: Path, **changes: Any) -> Facts:
    """Change fields of a checkpoint's facts in place, whole or not at all.

    Raises:
        CheckpointError: The file cannot be read or written.
    """
    data = read_checkpoint(path)
    facts = replace(Facts.from_json(data[ENTRY]), **changes)
    data[ENTRY] = facts.to_json()
    write_checkpoint(data, path)
    return facts


def write_checkpoint(data: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, then rename it into place: whole or not at all.

    Raises:
        CheckpointError: The disk is full, or the folder cannot be written.
    """
    try:
        with whole_file(path) as part, part.open("wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as err:
        # torch wraps what the disk says in an error of its own
        cause = err if isinstance(err, OSError) else err.__context__ or err
        kept = "the checkpoint before it is kept" if path.is_file() else "none is there yet"
        raise CheckpointError(
            f"{path} cannot be written: {cause}; {kept}; make room and go on with --resume"
        ) from err
