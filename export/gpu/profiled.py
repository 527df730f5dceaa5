"""Which operations take the time of a training step and of a live step, by torch.profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.profiler import ProfilerActivity, profile, supported_activities

from export.gpu.effort import Device, Effort
from export.gpu.models import TDRL, live_model
from export.gpu.row import Row, skipped
from export.gpu.speed import CHANNELS_LAST, fitting_batch, has_bfloat16, step_of
from export.gpu.timing import wait_for
from export.gpu.torch_step import TorchStep
from runtime.command import one_line

MOST = 10
RUNS = 3
WARM_UP = 3
CLOCKS: dict[Device, str] = {"cuda": "of the GPU", "cpu": "of the CPU"}


@dataclass(frozen=True)
class Operation:
    """What one kind of operation took in one run.

    Attributes:
        name: PyTorch's.
        ms: Its own time, without that of the operations it calls: its kernels' on a GPU.
        calls: How often it ran.
    """

    name: str
    ms: float
    calls: float


def profile_rows(effort: Effort) -> Iterator[Row]:
    """Shares of the ten operations that take most time, of a training step and of a live step."""
    if effort.device == "cuda" and ProfilerActivity.CUDA not in supported_activities():
        yield skipped("torch.profiler", "this torch is built without CUPTI: it sees no GPU")
        return
    for what, call in _steps(effort):
        for _ in range(WARM_UP):
            call()
        try:
            found = operations_of(call, effort)
        except RuntimeError as err:
            yield skipped(what, f"torch.profiler does not work here: {one_line(err)}")
            continue
        yield from _rows(what, found, effort)


def _steps(effort: Effort) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is profiled, made when its turn comes."""
    precision = "bfloat16" if has_bfloat16(effort) else "float32"
    effort = replace(effort, batch=fitting_batch(effort))
    what = f"{effort.trained} {effort.num_segments}f, {precision}, batch {effort.batch}"
    yield f"{what}: training step", step_of(effort, CHANNELS_LAST, TDRL)
    live = TorchStep(live_model(effort.trained, effort), effort, 1, bfloat16=has_bfloat16(effort))
    yield f"{effort.trained}, {precision}, N = 1: live step", live.run


def _rows(what: str, found: list[Operation], effort: Effort) -> Iterator[Row]:
    whole_ms = sum(each.ms for each in found)
    if not whole_ms > 0:
        yield skipped(what, "torch.profiler saw no time of the device; does CUPTI have permission?")
        return
    clock, count = CLOCKS[effort.device], sum(each.calls for each in found)
    note = f"{clock}, sum of {count:.0f} operations, mean of {RUNS}"
    yield Row(what=f"{what}, all operations", value=whole_ms, unit="ms", note=note)
    for each in found[:MOST]:
        share = 100 * each.ms / whole_ms
        note = f"{each.ms:.3g} ms, {each.calls:.0f} calls"
        yield Row(what=f"{what}, {each.name}", value=share, unit="%", note=note)


def operations_of(call: Callable[[], object], effort: Effort) -> list[Operation]:
    """Operations of one run of a call by their own time, the longest first, mean of some runs.

    Raises:
        RuntimeError: The profiler does not work.
    """
    wait_for(effort.device)
    activities = [ProfilerActivity.CPU]
    if effort.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(RUNS):
            call()
        wait_for(effort.device)
    found = [
        Operation(event.key, _own_us(event, effort.device) / 1e3 / RUNS, event.count / RUNS)
        for event in profiler.key_averages()
        # a GPU's kernels come twice, by their own names too; annotations enclose operations
        if event.device_type.name == "CPU" and not event.is_user_annotation
    ]
    return sorted(found, key=lambda each: -each.ms)


def _own_us(event: Any, device: Device) -> float:
    own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    return float(own)
