"""The step graph in half precision, exported from PyTorch: `step.fp16.onnx`.

TensorRT 11 has no FP16 switch, so the graph itself says what is half:

    float16   feature maps: convolutions with their folded batch norms, ReLU, residual adds, the
              gate product, the shift
    float32   normalisation, pooled vectors, PEM and MEM, the classifier, every input and output

Casts stand at the edges. A converter of finished graphs would have to guess where those are; here
the model says it: PEM and MEM pool into float32 and cast their gates to the features' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from export.to_onnx import step_onnx_from_model
from runtime.bundle import StateSpec
from runtime.errors import ExportError
from runtime.preprocess import PictureRule
from train.model.tdrl import Tdrl
from train.model.unit import Pass, UnitState

STEP_FP16 = "step.fp16.onnx"
TRIAL_PX = 32  # of a trial pass: any size that survives the strides


def fp16_onnx_from_model(
    model: Tdrl, picture: PictureRule, path: Path, *, rows: int = 1
) -> tuple[StateSpec, ...]:
    """Export the half step graph; inputs, outputs and states are those of the float one.

    Args:
        model: A causal model in evaluation mode, on the CPU.
        picture: The size of its input.
        path: The ONNX file; whole or not at all.
        rows: Streams N.

    Returns:
        The graph's states in order, all float32: feature maps among them hold float16's numbers.

    Raises:
        ExportError: The model cannot stream or does not fit float16, or the exporter gave
            something else than asked for.
    """
    return step_onnx_from_model(half_model(model), picture, path, rows=rows)


def half_model(model: Tdrl) -> Tdrl:
    """A copy of a model with feature maps in float16; states and logits stay float32.

    Args:
        model: Float32, on the CPU.

    Raises:
        ExportError: The model cannot stream, a batch norm has no convolution, or a weight is too
            large for float16.
    """
    if model.config.offline_reason is not None:
        raise ExportError(model.config.offline_reason)
    half = deepcopy(model).eval()
    fold_batch_norms(half)
    for name, module in half.backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            _halve(name, module)
    half.backbone.register_forward_pre_hook(_enter_half)
    half.backbone.register_forward_hook(_leave_half)
    return half


@torch.no_grad()
def fold_batch_norms(model: Tdrl) -> None:
    """Fold every batch norm into the convolution that it reads, in float32.

    The exporter would fold them too, but after weights and statistics were rounded. Which
    convolution a batch norm reads is seen in one pass, not guessed from names.

    Args:
        model: Causal, in evaluation mode; changed.

    Raises:
        ExportError: A batch norm does not read a convolution.
    """
    read = _convolutions_read(model)
    for name, norm in list(model.backbone.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        conv = read.get(norm)
        if conv is None or norm.running_mean is None or norm.running_var is None:
            raise ExportError(
                f"batch norm {name} does not follow a convolution, it cannot be folded for "
                "float16; report the model's architecture"
            )
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        parent, _, child = name.rpartition(".")
        setattr(model.backbone.get_submodule(parent), child, nn.Identity())


def _convolutions_read(model: Tdrl) -> dict[nn.Module, nn.Conv2d]:
    """The convolution whose output each batch norm reads."""
    made: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # tensors are kept: their ids must not return
    read: dict[nn.Module, nn.Conv2d] = {}

    def after_conv(conv: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(conv, nn.Conv2d):
            made[id(output)] = (output, conv)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            read[norm] = made[id(inputs[0])][1]

    hooks = []
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    model.step(torch.zeros(1, 3, TRIAL_PX, TRIAL_PX))
    for hook in hooks:
        hook.remove()
    return read


def _halve(name: str, conv: nn.Conv2d) -> None:
    conv.half()
    parts = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    if not all(bool(part.isfinite().all()) for part in parts):
        raise ExportError(
            f"convolution {name} has weights that float16 cannot hold (over 65504); train with "
            "weight decay, or use int8 or float32"
        )


def _enter_half(_: nn.Module, given: tuple[Tensor, Pass]) -> tuple[Tensor, Pass]:
    """Behind the normalisation, which is float32: the picture and the maps among the states."""
    picture, run = given
    if run.states_in is not None:
        run.states_in = _with_maps(run.states_in, torch.float16)
    return picture.half(), run


def _leave_half(_: nn.Module, given: tuple[Tensor, Pass], features: Tensor) -> None:
    given[1].states_out[:] = _with_maps(given[1].states_out, torch.float32)


def _with_maps(states: Sequence[UnitState], dtype: torch.dtype) -> list[UnitState]:
    return [s if s.map is None else replace(s, map=s.map.to(dtype)) for s in states]
