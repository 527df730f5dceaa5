"""A live step in PyTorch: pictures up, logits down, states on the device, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.gpu.effort import Effort
from train.model.tdrl import Tdrl

CAPTURE_WARM_UP = 3  # as PyTorch's documentation asks for


class TorchStep:
    """Steps of N streams with fixed buffers: what a CUDA graph needs.

    Args:
        model: A causal model in evaluation mode, on the device.
        effort: Says the device and the picture's size.
        rows: Streams N.
        bfloat16: Compute in bfloat16 where autocast does.

    Attributes:
        frame: The next pictures, shape (N, H, W, 3), uint8, on the host, page-locked for a GPU.
        logits: The last logits, shape (N, K), float32, the same.
    """

    def __init__(self, model: Tdrl, effort: Effort, rows: int, *, bfloat16: bool = False) -> None:
        self._model = model
        self._device = effort.device
        self._bfloat16 = bfloat16
        is_pinned = effort.device == "cuda"
        size = (rows, effort.size_px, effort.size_px, 3)
        self.frame = torch.zeros(size, dtype=torch.uint8, pin_memory=is_pinned)
        self._frame = self.frame.to(effort.device)
        with torch.no_grad():
            zero = model.zero_state(rows, effort.size_px, effort.size_px)
            logits, after = self._forward(zero)
        # a state's dtype is what the step gives: under autocast maps are bfloat16
        self._states = [torch.zeros_like(tensor) for tensor in after]
        self._logits = torch.zeros_like(logits, dtype=torch.float32)
        self.logits = torch.zeros(logits.shape, pin_memory=is_pinned)

    @torch.no_grad()
    def run(self) -> None:
        """Queue one step: `frame` in, `logits` out."""
        self._frame.copy_(self.frame, non_blocking=True)
        logits, after = self._forward(self._states)
        for state, new in zip(self._states, after, strict=True):
            state.copy_(new)
        self._logits.copy_(logits)
        self.logits.copy_(self._logits, non_blocking=True)

    def restart(self) -> None:
        """All streams from the zero state."""
        for state in self._states:
            state.zero_()

    def _forward(self, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        picture = self._frame.permute(0, 3, 1, 2).float()
        # the cache of casts would keep tensors of an earlier capture
        with torch.autocast(
            self._device, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False
        ):
            return self._model.step(picture, states)


def captured(run: Callable[[], None], cuda: Any = torch.cuda) -> Callable[[], None]:
    """A function's work as a CUDA graph.

    Args:
        run: Queues work on fixed buffers; it runs a few times first.
        cuda: `torch.cuda`.

    Returns:
        Launches the graph on the current stream.

    Raises:
        RuntimeError: Something of it cannot be captured.
    """
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(CAPTURE_WARM_UP):
            run()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay
