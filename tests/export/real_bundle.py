"""A bundle of a small real network, without training, calibration clips or a checkpoint.

The mini bundle of `tests/mini_bundle.py` has two states of different shapes. This one has a packed
PEM state and several shift states, two of which could be swapped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.golden import camera_frames, golden_frames, write_golden
from runtime.bundle import GOLDEN, LOGITS_OUTPUT, Bundle, Golden, GraphSpec, Precision, load_bundle
from runtime.sampling import SamplingContract
from runtime.sessions.base import Logits
from runtime.sessions.ort import OrtStepSession
from tests.export.small import NUM_CLASSES, PICTURE, Exported, int8_of, moving_frames, run_steps
from tests.mini_bundle import write_manifest

LABELS = tuple(f"class {number}" for number in range(NUM_CLASSES))


def write_real_bundle(folder: Path, step: Exported) -> Bundle:
    """Write a float and an INT8 step graph with their golden sequence, and load them."""
    folder.mkdir(parents=True)
    frames, reset = golden_frames(list(moving_frames(16, seed=5)))
    step = replace(step, path=_centred(step, frames, folder / "step.onnx"))
    int8_path, int8_states = int8_of(step, folder)
    bundle = Bundle(
        folder=folder,
        name="real",
        labels=LABELS,
        picture=PICTURE,
        sampling=SamplingContract(num_segments=4, window_s=0.4, consensus_len=4),
        graphs={
            "step": GraphSpec("step.onnx", step.states),
            "step_int8": GraphSpec(int8_path.name, int8_states),
        },
    )
    none = np.empty(0, np.float32)
    golden = Golden(frames, reset, none, none, (), np.empty(0, np.uint8))
    logits, logits_int8 = (_logits(bundle, golden, name) for name in ("float32", "int8"))
    cameras = camera_frames(list(moving_frames(3, seed=6)))
    write_golden(folder / GOLDEN, frames, reset, logits, logits_int8, cameras, PICTURE)
    write_manifest(bundle)
    return load_bundle(folder)


def swapped_states(bundle: Bundle) -> Bundle:
    """The bundle with two states of one shape fed into each other's inputs; files are the same."""
    graphs = dict(bundle.graphs)
    for kind, graph in bundle.graphs.items():
        states = list(graph.states)
        first, second = _same_shape(bundle)
        names = states[first].name_out, states[second].name_out
        states[second] = replace(states[second], name_out=names[0])
        states[first] = replace(states[first], name_out=names[1])
        graphs[kind] = replace(graph, states=tuple(states))
    return replace(bundle, graphs=graphs)


def _centred(step: Exported, frames: NDArray[np.uint8], path: Path) -> Path:
    """The step graph with logits around zero.

    A random network says nearly the same about everything; a constant that large would hide any
    fault behind INT8's noise.
    """
    proto = step.proto
    (head,) = [node for node in proto.graph.node if LOGITS_OUTPUT in node.output]
    (bias,) = [tensor for tensor in proto.graph.initializer if tensor.name == head.input[2]]
    logits, _ = run_steps(proto, step.states, frames)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - logits.mean(0), bias.name))
    onnx.save(proto, path)
    return path


def _same_shape(bundle: Bundle) -> tuple[int, int]:
    shapes = [state.shape for state in bundle.graphs["step"].states]
    return next((i, j) for j, shape in enumerate(shapes) for i in range(j) if shapes[i] == shape)


def _logits(bundle: Bundle, golden: Golden, precision: Precision) -> Logits:
    with OrtStepSession(bundle, precision, optimise=False) as session:
        rows = [
            session.step(0, frame[np.newaxis], np.full((1, 1), start, np.float32))[0]
            for frame, start in zip(golden.frames, golden.reset, strict=True)
        ]
    return np.stack(rows)
