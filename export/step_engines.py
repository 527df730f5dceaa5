"""One step of a graph file as a bare call, in the runtime's session of an engine on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from export.checks.step import states_by_name
from export.graph_view import load_graph
from runtime.bundle import FRAME_INPUT, LOGITS_OUTPUT, Bundle, GraphSpec
from runtime.errors import ExportError
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract
from runtime.sessions.base import Logits
from runtime.sessions.choose import Backend, SessionChoice, open_chosen
from runtime.sessions.ov import has_openvino

Engine: TypeAlias = Literal["onnxruntime", "openvino"]
Step: TypeAlias = Callable[[], Logits]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "openvino")


def step_in(engine: Engine, path: Path) -> Step:
    """A call that runs the next step of a graph and gives its logits, (1, K), float32.

    States carry over, the picture stays.

    Args:
        engine: What runs it, on one thread; OpenVINO computes in float32, never in bfloat16.
        path: A step graph of any precision.

    Raises:
        ExportError: OpenVINO is not installed.
    """
    if engine == "openvino" and not has_openvino():
        raise ExportError(
            "openvino is not installed; pip install openvino, or --engine onnxruntime"
        )
    backend: Backend = "ort" if engine == "onnxruntime" else "openvino"
    bundle = _bundle_of(path)
    session = open_chosen(bundle, SessionChoice(backend, "float32", "measured"), 1, threads=1)
    shape = (1, bundle.picture.height_px, bundle.picture.width_px, 3)
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    go_on = np.zeros((1, 1), np.float32)
    return lambda: session.step(0, frame, go_on)


def _bundle_of(path: Path) -> Bundle:
    """What a session has to know of a graph, whatever its precision, read off the graph."""
    view = load_graph(path)
    _, height_px, width_px, _ = view.inputs[FRAME_INPUT].shape or ()
    _, num_classes = view.outputs[LOGITS_OUTPUT].shape or ()
    return Bundle(
        folder=path.parent,
        name=path.stem,
        labels=tuple(f"class {number}" for number in range(num_classes)),
        picture=PictureRule(height_px=height_px, width_px=width_px),
        sampling=SamplingContract(num_segments=8, window_s=2.0, consensus_len=8),
        graphs={"step": GraphSpec(path.name, tuple(states_by_name(view)))},
    )
