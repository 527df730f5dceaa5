"""Frames with the states that come with them, as one batch: what offline passes measure on.

Unrolled once, every step of a stream is a row of its own, and a pass over a graph needs no loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.reference import reference_of
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec

# rows of one run: all feature maps of so many frames are in memory at once
ROWS = 8
CLIPS = 16


@dataclass(frozen=True)
class Probe:
    """Steps of a stream as independent rows.

    Attributes:
        feeds: Inputs of a step graph by name: `frame` (S, H, W, 3) uint8, `reset` (S, 1) float32,
            and each state (S, ...) float32 as the float graph left it.
        logits: The float graph's logits, shape (S, K).
    """

    feeds: Mapping[str, NDArray[Any]]
    logits: NDArray[np.float32]

    def __len__(self) -> int:
        """Steps S."""
        return len(self.logits)

    def thinned(self, most: int) -> Probe:
        """At most so many rows, spread evenly."""
        at = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        return Probe({name: value[at] for name, value in self.feeds.items()}, self.logits[at])


def probe_of(
    step: onnx.ModelProto,
    states: Sequence[StateSpec],
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
    *,
    every: int = 1,
) -> Probe:
    """Unroll a float step graph and keep what went into its steps.

    Args:
        step: A float step graph, N = 1.
        states: Its states.
        frames: Shape (S, H, W, 3), uint8.
        reset: 1 where a step starts anew, shape (S,).
        every: Keep one of so many steps.
    """
    kept: dict[str, list[NDArray[Any]]] = {}
    for at, (feeds, logits) in enumerate(unrolled(step, states, frames, reset)):
        if at % every == 0:
            for name, value in (*feeds.items(), (LOGITS_OUTPUT, logits)):
                kept.setdefault(name, []).append(value)
    rows = {name: np.concatenate(values) for name, values in kept.items()}
    return Probe(rows, rows.pop(LOGITS_OUTPUT))


def unrolled(
    step: onnx.ModelProto,
    states: Sequence[StateSpec],
    frames: NDArray[np.uint8],
    reset: NDArray[np.float32],
) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]]:
    """Each step's inputs by name, and its logits (1, K).

    Args:
        step: A step graph, N = 1.
        states: Its states.
        frames: Shape (S, H, W, 3), uint8.
        reset: 1 where a step starts anew, shape (S,).
    """
    session = reference_of(step.SerializeToString())
    names = [LOGITS_OUTPUT, *(state.name_out for state in states)]
    carried = {state.name_in: np.zeros(state.shape, state.dtype) for state in states}
    for frame, starts in zip(frames, reset, strict=True):
        feeds = {
            FRAME_INPUT: frame[np.newaxis],
            RESET_INPUT: np.full((1, 1), starts, np.float32),
            **carried,
        }
        logits, *after = session.run(names, feeds)
        yield feeds, logits
        carried = {s.name_in: value for s, value in zip(states, after, strict=True)}


def observed(
    graph: onnx.ModelProto, probe: Probe, tensors: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Values of some tensors, a few rows at a time.

    Args:
        graph: A step graph, N = 1; its float states are fed from the probe.
        probe: What to run.
        tensors: Tensors to give, each with the batch as its first axis.
    """
    rows = min(ROWS, len(probe))
    batched = with_rows(graph, rows)
    declared = {value.name for value in batched.graph.output}
    for name in tensors:
        if name not in declared:
            batched.graph.output.append(onnx.ValueInfoProto(name=name))
    session = reference_of(batched.SerializeToString())
    inputs = [each.name for each in session.get_inputs()]
    for start in range(0, len(probe), rows):
        at = slice(start, min(start + rows, len(probe)))
        short = rows - (at.stop - at.start)
        # the last rows are repeated to fill the batch, and cut off again
        feeds = {n: _filled(probe.feeds[n][at], short) for n in inputs}
        values = session.run(list(tensors), feeds)
        yield {n: v[: rows - short] for n, v in zip(tensors, values, strict=True)}


def logits_of(graph: onnx.ModelProto, probe: Probe) -> NDArray[np.float32]:
    """Logits of every row, shape (S, K)."""
    found = observed(graph, probe, [LOGITS_OUTPUT])
    return np.concatenate([values[LOGITS_OUTPUT] for values in found])


def clip_logits(
    graph: onnx.ModelProto, states: Sequence[StateSpec], pictures: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Consensus logits of clips, each from the zero state; several run as rows of one batch.

    Args:
        graph: A step graph, N = 1.
        states: Its states.
        pictures: Shape (B, T, H, W, 3), uint8.

    Returns:
        Mean logits over T, shape (B, K), float32.
    """
    found, sessions = [], {}
    for start in range(0, len(pictures), CLIPS):
        clips = pictures[start : start + CLIPS]
        rows = len(clips)
        if rows not in sessions:  # the last ones are fewer
            sessions[rows] = reference_of(with_rows(graph, rows).SerializeToString())
        names = [LOGITS_OUTPUT, *(state.name_out for state in states)]
        carried = {s.name_in: np.zeros((rows, *s.shape[1:]), s.dtype) for s in states}
        logits = []
        for t in range(clips.shape[1]):
            starts = np.full((rows, 1), t == 0, np.float32)
            feeds = {FRAME_INPUT: clips[:, t], RESET_INPUT: starts, **carried}
            now, *after = sessions[rows].run(names, feeds)
            logits.append(now)
            carried = {s.name_in: value for s, value in zip(states, after, strict=True)}
        found.append(np.mean(logits, axis=0, dtype=np.float32))
    return np.concatenate(found)


def with_rows(graph: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """A copy of a step graph for N rows; no node of it holds the batch size."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.graph.ClearField("value_info")
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    return copy


def _filled(rows: NDArray[Any], short: int) -> NDArray[Any]:
    return np.concatenate([rows, np.repeat(rows[-1:], short, axis=0)]) if short else rows
