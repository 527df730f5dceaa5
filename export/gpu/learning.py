"""Training proven on the device: it learns in float and bfloat16, and goes on where it stopped."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from export.gpu.effort import Effort
from export.gpu.models import classes, fresh_model, noise_clips
from export.gpu.row import CheckFailed, Row
from export.gpu.trainee import Trainee

BFLOAT16_SHARE = 0.05
DROPOUT = 0.5
MOST_CLIPS = 4  # in float32 they fit into 8 GB


def learning_rows(effort: Effort) -> Iterator[Row]:
    """One batch, learnt by heart in float32 and in bfloat16.

    Raises:
        CheckFailed: The loss does not fall, a gradient is no number or missing, or the first losses
            of both differ by more than 5 %.
    """
    first: dict[str, float] = {}
    for name, bfloat16 in (("float32", False), ("bfloat16", True)):
        trainee = Trainee(fresh_model(effort.trained), effort, bfloat16=bfloat16)
        losses = [float(loss) for loss in _train(trainee, effort, range(effort.updates))]
        first[name] = losses[0]
        _require_gradients(trainee, name)
        fallen = losses[-1] / losses[0]
        note = f"must be < 1: {losses[0]:.3f} to {losses[-1]:.3f} in {effort.updates} updates"
        yield Row(what=f"{name}: last loss ÷ first", value=fallen, note=note)
        if not fallen < 1:
            raise CheckFailed(f"{name}: the loss went from {losses[0]} to {losses[-1]}")
    apart = abs(first["bfloat16"] / first["float32"] - 1)
    note = f"must be ≤ {BFLOAT16_SHARE}"
    yield Row(what="first loss, bfloat16 against float32", value=apart, note=note)
    if not apart <= BFLOAT16_SHARE:
        raise CheckFailed(f"bfloat16's first loss is {apart:.1%} from float32's")


def resume_rows(effort: Effort) -> Iterator[Row]:
    """A run that was stopped, saved and loaded, against one that was not.

    Where the device itself does not repeat a run exactly, twice what two whole runs differ by is
    allowed; where it does, nothing is.

    Raises:
        CheckFailed: The resumed run differs by more.
    """
    half = effort.updates // 2
    with _repeatable():
        whole, again = (_trained(effort) for _ in range(2))
        stopped = Trainee(fresh_model(effort.trained, dropout=DROPOUT), effort)
        list(_train(stopped, effort, range(half)))
        saved = io.BytesIO()
        torch.save([stopped.model.state_dict(), stopped.optimizer.state_dict()], saved)
        resumed = Trainee(fresh_model(effort.trained, dropout=DROPOUT), effort)
        model_state, optimizer_state = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
        resumed.model.load_state_dict(model_state)
        resumed.optimizer.load_state_dict(optimizer_state)
        list(_train(resumed, effort, range(half, effort.updates)))
    repeated = _difference(whole, again)
    yield Row(what="largest difference of a weight, the same run twice", value=repeated)
    found = _difference(whole, resumed)
    yield Row(
        what="largest difference of a weight, resumed against uninterrupted",
        value=found,
        note=f"must be ≤ {2 * repeated:g}",
    )
    if not found <= 2 * repeated:
        raise CheckFailed(
            f"the resumed run's weights differ by {found:g}, allowed {2 * repeated:g}"
        )


def _trained(effort: Effort) -> Trainee:
    trainee = Trainee(fresh_model(effort.trained, dropout=DROPOUT), effort)
    list(_train(trainee, effort, range(effort.updates)))
    return trainee


def _train(trainee: Trainee, effort: Effort, updates: range) -> Iterator[Tensor]:
    """Losses; dropout comes from the update's number, as in `train.module`."""
    rows = min(effort.batch, MOST_CLIPS)
    clips, labels = noise_clips(rows, effort).to(effort.device), classes(rows).to(effort.device)
    for update in updates:
        torch.manual_seed(update)
        yield trainee.step(clips, labels)


def _require_gradients(trainee: Trainee, name: str) -> None:
    for parameter_name, parameter in trainee.model.named_parameters():
        if parameter.grad is None or not torch.isfinite(parameter.grad).all():
            raise CheckFailed(f"{name}: {parameter_name} has no finite gradient")


def _difference(one: Trainee, other: Trainee) -> float:
    theirs = other.model.state_dict()
    return max(
        float((tensor.double() - theirs[name].double()).abs().max())
        for name, tensor in one.model.state_dict().items()
    )


@contextmanager
def _repeatable() -> Iterator[None]:
    """Kernels that give the same sum twice, where there are such."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
