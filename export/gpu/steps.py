"""Latency and throughput of a live step in PyTorch, eager and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from export.gpu.effort import Effort
from export.gpu.models import live_model, noise_clips
from export.gpu.row import CheckFailed, Row, row_of, skipped
from export.gpu.speed import has_bfloat16
from export.gpu.timing import times_s, wait_for
from export.gpu.torch_step import TorchStep, captured
from runtime.command import one_line

# of the logits' range: the same kernels, but for what a library picks anew
LIMIT, BFLOAT16 = 1e-3, 1e-2


def step_rows(effort: Effort, cuda: Any = torch.cuda) -> Iterator[Row]:
    """Milliseconds of a step and frames a second, for every backbone and number of streams.

    Args:
        effort: What to measure.
        cuda: `torch.cuda`; without a GPU no graph is captured, unless a stand-in is given.

    Raises:
        CheckFailed: A CUDA graph computes something else than the same step without it.
    """
    bfloat16 = has_bfloat16(effort)
    precision = "bfloat16" if bfloat16 else "float32"
    graphs = effort.device == "cuda" or cuda is not torch.cuda
    if not graphs:
        yield skipped("CUDA graphs in PyTorch", "no GPU")
    for backbone in effort.backbones:
        model = live_model(backbone, effort)
        for rows in effort.streams:
            what = f"{backbone}, {precision}, N = {rows}"
            step = TorchStep(model, effort, rows, bfloat16=bfloat16)
            calls: dict[str, Callable[[], None]] = {"eager": step.run}
            if graphs:
                try:
                    calls["CUDA graph"] = captured(step.run, cuda)
                except RuntimeError as err:
                    yield skipped(f"{what}: CUDA graph", f"it cannot be captured: {one_line(err)}")
                else:
                    graph = calls["CUDA graph"]
                    yield _graph_check(what, step, graph, effort, BFLOAT16 if bfloat16 else LIMIT)
            for name, times in times_s(calls, effort).items():
                yield row_of(f"{what}: step, {name}", [1e3 * s for s in times], "ms")
                yield row_of(f"{what}: {name}", [rows / s for s in times], "frames/s")


def _graph_check(
    what: str, step: TorchStep, graph: Callable[[], None], effort: Effort, limit: float
) -> Row:
    """The graph's logits against those of the step itself, along a clip from the zero state."""
    eager, replayed = (_logits_along(step, call, effort) for call in (step.run, graph))
    apart = float((eager - replayed).abs().max() / (eager.max() - eager.min()))
    if not apart <= limit:
        raise CheckFailed(f"{what}: the CUDA graph's logits differ by {apart:.1e} of their range")
    return Row(
        what=f"{what}: CUDA graph against eager, share of the logits' range",
        value=apart,
        note=f"must be ≤ {limit:g}",
    )


def _logits_along(step: TorchStep, call: Callable[[], None], effort: Effort) -> Tensor:
    """Logits (T, N, K) of a clip's frames, one after the other."""
    frames = noise_clips(len(step.frame), effort, seed=2).permute(1, 0, 3, 4, 2)
    step.restart()
    found = []
    for frame in frames:
        step.frame.copy_(frame)
        call()
        wait_for(effort.device)
        found.append(step.logits.clone())
    return torch.stack(found)
