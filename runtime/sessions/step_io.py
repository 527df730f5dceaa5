"""What every session on the CPU does alike: checks of a graph and of calls, and its buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.batch_rows import with_rows
from runtime.bundle import (
    FRAME_INPUT,
    GRAPH_OF,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    GraphSpec,
    Precision,
    StateSpec,
)
from runtime.errors import BundleError
from runtime.sessions.base import Held, Logits

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of a graph's input or output; a dynamic axis is -1, which fits nothing."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """`float32 [1, 3]`."""
        return f"{self.dtype} {list(self.shape)}"


def graph_to_load(bundle: Bundle, precision: Precision, num_streams: int | None) -> Path | bytes:
    """What an engine loads: a bundle's step graph as it is, or its bytes with other rows.

    Args:
        bundle: The bundle.
        precision: Which of its step graphs.
        num_streams: Rows N; the graph's own where it is None.

    Raises:
        BundleError: No such graph, or a file that is none.
        ValueError: `num_streams` < 1.
    """
    kind = GRAPH_OF[precision]
    graph, path = bundle.graph(kind), bundle.graph_path(kind)
    own_rows = graph.states[0].shape[0] if graph.states else 1
    if num_streams is None or num_streams == own_rows:
        return path
    if num_streams < 1:
        raise ValueError(f"num_streams must be >= 1, got {num_streams}")
    try:
        return with_rows(path.read_bytes(), num_streams)
    except ValueError as err:
        raise BundleError(f"{path} is no step graph: {err}; export the bundle again") from err


def step_tensors(
    bundle: Bundle, states: Sequence[StateSpec], num_streams: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and outputs that a step graph must have, by name.

    Args:
        bundle: Picture rule and labels.
        states: The graph's states; their N is not looked at.
        num_streams: Rows N.
    """
    rule = bundle.picture
    carried = [(state, Tensor((num_streams, *state.shape[1:]), state.dtype)) for state in states]
    inputs = {
        FRAME_INPUT: Tensor((num_streams, rule.height_px, rule.width_px, 3), "uint8"),
        RESET_INPUT: Tensor((num_streams, 1), "float32"),
        **{state.name_in: tensor for state, tensor in carried},
    }
    outputs = {
        LOGITS_OUTPUT: Tensor((num_streams, len(bundle.labels)), "float32"),
        **{state.name_out: tensor for state, tensor in carried},
    }
    return inputs, outputs


def check_step_graph(
    bundle: Bundle,
    graph: GraphSpec,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> None:
    """Check that a step graph has the inputs and outputs of the manifest and no others.

    Args:
        bundle: The bundle.
        graph: Which of its graphs; N is the engine's.
        inputs: What an engine found in the file, by name.
        outputs: The same.

    Raises:
        BundleError: A name, shape or dtype differs, or the labels do not fit the logits.
    """
    path = bundle.folder / graph.file
    num_streams = inputs.get(FRAME_INPUT, Tensor((1,), "")).shape[0]
    wanted_inputs, wanted_outputs = step_tensors(bundle, graph.states, num_streams)
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
    engine binds both turns once, so nothing is copied but the frame, and the states of held rows.

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

    def fill(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> int:
        """Take a step's frames and resets; gives the turn that has to run.

        Raises:
            ValueError: No such phase, or shapes or dtypes that the graph does not take.
        """
        if not 0 <= phase < self.num_phases:
            raise ValueError(f"phase must be 0 ... {self.num_phases - 1}, got {phase}")
        _check_array("frames", frames, self._frames)
        _check_array("reset", reset, self._reset)
        if held is not None and (held.shape != (self.num_streams,) or held.dtype != np.bool_):
            raise ValueError(
                f"held must be bool ({self.num_streams},), got {held.dtype} {held.shape}"
            )
        np.copyto(self._frames, frames)
        np.copyto(self._reset, reset)
        return self._turns[phase]

    def swap(self, phase: int, held: Held | None = None) -> Logits:
        """End a step that ran; gives a copy of its logits, (N, K), float32.

        A step that failed is not ended: its phase keeps the states that it had.
        """
        turn = self._turns[phase]
        if held is not None:
            read, written = self._sets[phase][turn], self._sets[phase][1 - turn]
            for old, new in zip(read, written, strict=True):
                new[held] = old[held]
        self._turns[phase] = 1 - turn
        return self._logits.copy()


def _zeros(tensor: Tensor) -> NDArray[Any]:
    return np.zeros(tensor.shape, tensor.dtype)


def _check_array(name: str, array: NDArray[Any], own: NDArray[Any]) -> None:
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(f"{name} must be {own.dtype} {own.shape}, got {array.dtype} {array.shape}")
