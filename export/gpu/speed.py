"""Training speed: TDRL's clips a second, and what that is of its plain backbone's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from export.gpu.effort import Effort
from export.gpu.models import PLAIN, TDRL, channels_last, classes, fresh_model, noise_clips
from export.gpu.row import Row, row_of, skipped
from export.gpu.timing import times_s
from export.gpu.trainee import TD_LOSS, Trainee
from runtime.command import one_line
from train.model.unit import UnitConfig


@dataclass(frozen=True)
class Way:
    """How a model is trained."""

    name: str
    channels_last: bool = False
    compiled: bool = False


CHANNELS_LAST = Way("channels_last", channels_last=True)
WAYS = (
    Way("eager"),
    CHANNELS_LAST,
    Way("compiled", channels_last=True, compiled=True),
)


def speed_rows(effort: Effort) -> Iterator[Row]:
    """Clips a second of TDRL and of the plain backbone on the same pictures, and their ratio."""
    effort = replace(effort, batch=fitting_batch(effort))
    precision = "bfloat16" if has_bfloat16(effort) else "float32"
    note = f"{precision}, batches of {effort.batch} × {effort.num_segments} pictures"
    for way in WAYS:
        what = f"{effort.trained} {effort.num_segments}f, {way.name}"
        try:
            calls = {unit: step_of(effort, way, unit) for unit in (TDRL, PLAIN)}
            times = times_s(calls, effort)
        except (RuntimeError, ImportError, OSError) as err:
            if not way.compiled:
                raise
            # torch.compile has no error of its own that all of it shares
            yield skipped(what, f"torch.compile does not work here: {_first_line(err)}")
            continue
        finally:
            torch.compiler.reset()
        tdrl, plain = times[TDRL], times[PLAIN]
        yield row_of(f"{what}, TDRL", [effort.batch / s for s in tdrl], "clips/s", note)
        yield row_of(f"{what}, plain backbone", [effort.batch / s for s in plain], "clips/s", note)
        share = [theirs / ours for ours, theirs in zip(tdrl, plain, strict=True)]
        yield row_of(f"{what}, TDRL ÷ plain", share, "x", "clips/s, round by round")


def has_bfloat16(effort: Effort) -> bool:
    """Whether the device computes in bfloat16 fast, as `precision: auto` asks."""
    return effort.device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def fitting_batch(effort: Effort) -> int:
    """The largest batch, halved from the effort's, of which both models' steps fit.

    Raises:
        RuntimeError: Not even one clip fits.
    """
    batch = effort.batch
    while batch > 1:
        try:
            _try_steps(replace(effort, batch=batch))
        except torch.OutOfMemoryError:
            batch //= 2
        else:
            return batch
    _try_steps(replace(effort, batch=1))
    return 1


def _try_steps(effort: Effort) -> None:
    """A step of both models, side by side in memory as they will be; frees them."""
    steps = [step_of(effort, WAYS[0], unit) for unit in (TDRL, PLAIN)]
    for step in steps:
        step()


def step_of(effort: Effort, way: Way, unit: UnitConfig) -> Callable[[], object]:
    """A call that runs one training step of a fresh model on a batch that is on the device."""
    model = fresh_model(effort.trained, unit)
    if way.channels_last:
        model = channels_last(model)
    trainee = Trainee(
        model,
        effort,
        bfloat16=has_bfloat16(effort),
        td_loss=TD_LOSS if unit == TDRL else 0.0,
        compiled=way.compiled,
    )
    clips = noise_clips(effort.batch, effort).to(effort.device)
    return partial(trainee.step, clips, classes(effort.batch).to(effort.device))


def _first_line(err: BaseException) -> str:
    return one_line(err)[:160]
