"""Pretrained weights: torchvision state dicts into TDRL's backbone."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import CheckpointError
from train.model.tdrl import Tdrl


def load_backbone_weights(model: Tdrl, path: Path) -> int:
    """Load an ImageNet state dict with torchvision's names into the backbone.

    The classifier is left out, the temporal units keep their initial values, and the
    convolutions behind PEM are doubled again (method: a = 0.5 at the start).

    Args:
        model: A freshly built model.
        path: A state dict as torchvision publishes it.

    Returns:
        How many tensors were loaded.

    Raises:
        CheckpointError: The file is missing, damaged or of another architecture.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as err:
        raise CheckpointError(f"{path} cannot be read as a state dict: {err}") from err
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds a {type(weights).__name__}, not a state dict")
    own = model.backbone.state_dict()
    wanted = {name for name in own if ".unit." not in name}
    given: dict[str, Tensor] = {name: weights[name] for name in weights if name in wanted}
    missing = sorted(wanted - set(given) - {n for n in wanted if n.endswith("num_batches_tracked")})
    misfits = sorted(name for name in given if given[name].shape != own[name].shape)
    if missing or misfits:
        raise CheckpointError(
            f"{path} is not a {model.config.backbone} of torchvision's naming: "
            f"{len(missing)} tensors missing, {len(misfits)} of another shape "
            f"(first: {(missing + misfits)[0]})"
        )
    model.backbone.load_state_dict(given, strict=False)
    if model.config.unit.pem:
        model.double_gated_convolutions()
    return len(given)
