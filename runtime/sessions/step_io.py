"""What every session on the CPU does alike: checks of a graph and of calls, and its buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, Bundle, GraphSpec
from runtime.errors import BundleError
from runtime.sessions.base import Logits

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of a graph's input or output; a dynamic axis is -1, which fits nothing."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """`float32 [1, 3]`."""
        return f"{self.dtype} {list(self.shape)}"


def check_step_graph(
    bundle: Bundle,
    graph: GraphSpec,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> None:
    """Check that a step graph has the inputs and outputs of the manifest and no others.

    Args:
        bundle: The bundle.
        graph: Which of its graphs; N is the graph's own.
        inputs: What an engine found in the file, by name.
        outputs: The same.

    Raises:
        BundleError: A name, shape or dtype differs, or the labels do not fit the logits.
    """
    path = bundle.folder / graph.file
    num_streams = inputs.get(FRAME_INPUT, Tensor((1,), "")).shape[0]
    rule = bundle.picture
    wanted_inputs = {
        FRAME_INPUT: Tensor((num_streams, rule.height_px, rule.width_px, 3), "uint8"),
        RESET_INPUT: Tensor((num_streams, 1), "float32"),
        **{state.name_in: Tensor(state.shape, state.dtype) for state in graph.states},
    }
    wanted_outputs = {
        LOGITS_OUTPUT: Tensor((num_streams, len(bundle.labels)), "float32"),
        **{state.name_out: Tensor(state.shape, state.dtype) for state in graph.states},
    }
    logits = outputs.get(LOGITS_OUTPUT)
    if logits is not None and logits.shape[-1] != len(bundle.labels):
        raise BundleError(
            f"labels do not fit: {bundle.folder} lists {len(bundle.labels)} labels, "
            f"{path.name} gives {logits.shape[-1]} logits; export the bundle again"
        )
    _check_tensors(path, "input", wanted_inputs, inputs)
    _check_tensors(path, "output", wanted_outputs, outputs)


def _check_tensors(
    path: Path, role: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise BundleError(
                f"{path}: {role} {name} is {found.get(name, 'missing')}, bundle.json "
                f"wants {wanted.get(name, 'none')}; export the bundle again"
            )


class StepBuffers:
    """The memory that an engine reads and writes: two sets of states for each phase.

    A step of a phase reads one set and writes the other; `swap` turns them for the next step. The
    engine binds both turns once, so nothing but the frame is copied.

    Args:
        graph: The step graph, checked against its file.
        inputs: The graph's inputs, by name.
        outputs: The graph's outputs, by name.
        phases: Independent sets of states, >= 1.
    """

    def __init__(
        self,
        graph: GraphSpec,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        phases: int,
    ) -> None:
        self._frames = _zeros(inputs[FRAME_INPUT])
        self._reset = _zeros(inputs[RESET_INPUT])
        self._logits: Logits = _zeros(outputs[LOGITS_OUTPUT])
        self._names = [(state.name_in, state.name_out) for state in graph.states]
        self._sets = [
            tuple([_zeros(inputs[name]) for name, _ in self._names] for _ in range(2))
            for _ in range(phases)
        ]
        self._turns = [0] * phases

    @property
    def num_streams(self) -> int:
        """Rows N of the batch."""
        return int(self._frames.shape[0])

    @property
    def num_phases(self) -> int:
        """Independent sets of states."""
        return len(self._turns)

    def bound(self, phase: int, turn: int) -> tuple[Arrays, Arrays]:
        """The inputs and outputs of a step, by name: what an engine binds, once for each turn."""
        read, written = self._sets[phase][turn], self._sets[phase][1 - turn]
        inputs: Arrays = {FRAME_INPUT: self._frames, RESET_INPUT: self._reset}
        outputs: Arrays = {LOGITS_OUTPUT: self._logits}
        for (name_in, name_out), old, new in zip(self._names, read, written, strict=True):
            inputs[name_in], outputs[name_out] = old, new
        return inputs, outputs

    def fill(self, phase: int, frames: NDArray[np.uint8], reset: NDArray[np.float32]) -> int:
        """Take a step's frames and resets; gives the turn that has to run.

        Raises:
            ValueError: No such phase, or shapes or dtypes that the graph does not take.
        """
        if not 0 <= phase < self.num_phases:
            raise ValueError(f"phase must be 0 ... {self.num_phases - 1}, got {phase}")
        _check_array("frames", frames, self._frames)
        _check_array("reset", reset, self._reset)
        np.copyto(self._frames, frames)
        np.copyto(self._reset, reset)
        return self._turns[phase]

    def swap(self, phase: int) -> Logits:
        """End a step that ran; gives a copy of its logits, (N, K), float32.

        A step that failed is not ended: its phase keeps the states that it had.
        """
        self._turns[phase] = 1 - self._turns[phase]
        return self._logits.copy()


def _zeros(tensor: Tensor) -> NDArray[Any]:
    return np.zeros(tensor.shape, tensor.dtype)


def _check_array(name: str, array: NDArray[Any], own: NDArray[Any]) -> None:
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(f"{name} must be {own.dtype} {own.shape}, got {array.dtype} {array.shape}")
