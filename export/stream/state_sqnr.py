"""How near an INT8 graph's states are to the float graph's, state by state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.stream.graph_run import GraphRun
from export.stream.noise import Noise
from runtime.bundle import Bundle, GraphSpec


def state_sqnr_db(
    bundle: Bundle, int8: GraphSpec, frames: NDArray[np.uint8], reset: NDArray[np.float32]
) -> dict[str, float]:
    """SQNR of each state over unrolled steps, decibels within ±999, by its input's name.

    Args:
        bundle: A bundle with its float step graph.
        int8: The INT8 graph, in the bundle's folder.
        frames: Shape (S, H, W, 3), uint8.
        reset: 1 where a step starts anew, shape (S,).
    """
    spec = bundle.graph("step")
    exact = GraphRun(bundle.graph_path("step"), spec)
    rounded = GraphRun(bundle.folder / int8.file, int8)
    noises = [Noise() for _ in spec.states]
    for frame, starts in zip(frames, reset, strict=True):
        sides = [run.states(run.step(frame, float(starts))) for run in (exact, rounded)]
        for noise, expected, got in zip(noises, *sides, strict=True):
            noise.add(0, expected, got)
    return {s.name_in: noise.sqnr_db for s, noise in zip(spec.states, noises, strict=True)}
