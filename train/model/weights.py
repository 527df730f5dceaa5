"""Weights in files: read without running code, and torchvision's into TDRL's backbone."""

from __future__ import annotations

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import CheckpointError
from train.model.tdrl import Tdrl

# what torch.load raises for files that are cut, changed or something else
DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)


def read_tensors(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU; nothing in it is run.

    Raises:
        CheckpointError: Missing, damaged, or with other things than tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as err:
        # torch's own text advises to load it unsafely, which nobody should
        is_foreign = isinstance(err, pickle.UnpicklingError)
        first = "it is no PyTorch file, or holds code" if is_foreign else _first_line(err)
        raise CheckpointError(f"{path} cannot be read, it may be damaged: {first}") from err


def _first_line(err: BaseException) -> str:
    return str(err).splitlines()[0] if str(err) else type(err).__name__


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
    weights = read_tensors(path)
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
