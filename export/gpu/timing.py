"""Times of calls that leave work on a GPU, taken in turn: clocks that drift do not matter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from export.gpu.effort import Device, Effort

WARM_UP = 3

Key = TypeVar("Key")


def wait_for(device: Device) -> None:
    """Return when all that was queued is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def times_s(
    calls: Mapping[Key, Callable[[], object]], effort: Effort, *, warm_up: int = WARM_UP
) -> dict[Key, list[float]]:
    """Seconds of each call, from its start until the device has finished.

    Args:
        calls: In a round each runs once.
        effort: Says the device, and for how long at least.
        warm_up: Rounds that are not measured.

    Returns:
        One time a round for every call.
    """
    for _ in range(warm_up):
        for call in calls.values():
            call()
    wait_for(effort.device)
    found: dict[Key, list[float]] = {key: [] for key in calls}
    stop_s = time.monotonic() + effort.seconds * len(calls)
    rounds = 0
    while rounds < effort.rounds or time.monotonic() < stop_s:
        for key, call in calls.items():
            started_s = time.perf_counter()
            call()
            wait_for(effort.device)
            found[key].append(time.perf_counter() - started_s)
        rounds += 1
    return found
