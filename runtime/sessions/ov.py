"""OpenVINO on the CPU: the fast session of machines without an NVIDIA GPU, above all in INT8."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import (
    FRAME_INPUT,
    GRAPH_OF,
    LOGITS_OUTPUT,
    RESET_INPUT,
    Bundle,
    Precision,
)
from runtime.errors import SessionError
from runtime.sessions.base import Held, Logits
from runtime.sessions.ov_shift import quantise_before_concat
from runtime.sessions.step_io import Arrays, StepBuffers, Tensor, check_step_graph, graph_to_load

CONVERTER = "openvino.tools.ovc"
SETTINGS = {
    # else "float" may be bfloat16 on a processor that has it
    "INFERENCE_PRECISION_HINT": "f32",
    # one step at a time, all threads on it
    "NUM_STREAMS": "1",
    # pinned, two processes would wait for each other on the same cores
    "ENABLE_CPU_PINNING": "NO",
}


class OvStepSession:
    """A step graph in OpenVINO, with two buffers for each state and phase.

    Every phase has two requests made once, as `OrtStepSession` has bindings: they share the
    compiled graph and differ in which buffers they read and write.

    Args:
        bundle: A loaded bundle.
        precision: `float32` runs `step.onnx`, `int8` runs `step.int8.onnx` on INT8 kernels,
            `float16` runs `step.fp16.onnx` with its rounded weights, computed in float32.
        phases: Independent sets of states, >= 1.
        threads: Threads of one step; OpenVINO's choice where it is None.
        num_streams: Rows N; the graph's own where it is None.

    Raises:
        BundleError: No such graph, or one that does not fit `bundle.json`.
        SessionError: OpenVINO is missing or refuses the graph.
        ValueError: `phases`, `threads` or `num_streams` out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "float32",
        phases: int = 1,
        threads: int | None = None,
        num_streams: int | None = None,
    ) -> None:
        if phases < 1 or (threads is not None and threads < 1):
            raise ValueError(f"phases and threads must be >= 1, got {phases} and {threads}")
        kind = GRAPH_OF[precision]
        graph = bundle.graph(kind)
        self._path = bundle.graph_path(kind)
        self._openvino = import_openvino()
        self._compiled = compiled_step(graph_to_load(bundle, precision, num_streams), threads)
        try:
            known_in = {FRAME_INPUT, RESET_INPUT, *(state.name_in for state in graph.states)}
            known_out = {LOGITS_OUTPUT, *(state.name_out for state in graph.states)}
            inputs = _named(self._compiled.inputs, known_in)
            outputs = _named(self._compiled.outputs, known_out)
            check_step_graph(bundle, graph, inputs, outputs)
            buffers = StepBuffers(graph, inputs, outputs, phases)
            self._buffers: StepBuffers | None = buffers
            self.num_phases = phases
            self.num_streams = buffers.num_streams
            version = self._openvino.__version__.split("-")[0]
            self.description = f"OpenVINO {version}, CPU, {precision}"
            self._requests = [
                tuple(self._request(*buffers.bound(phase, turn)) for turn in range(2))
                for phase in range(phases)
            ]
        except RuntimeError as err:  # a shape without a rank, no memory for a request
            raise SessionError(f"OpenVINO cannot run {self._path}: {_said(err)}") from err

    def step(
        self,
        phase: int,
        frames: NDArray[np.uint8],
        reset: NDArray[np.float32],
        held: Held | None = None,
    ) -> Logits:
        """Advance one phase by one frame a stream; see `StepSession.step`."""
        if self._buffers is None:
            raise SessionError("this session is closed; open a new one")
        turn = self._buffers.fill(phase, frames, reset, held)
        try:
            # without share_outputs every state would be copied into a dictionary
            self._requests[phase][turn].infer(share_outputs=True)
        except RuntimeError as err:
            raise SessionError(f"OpenVINO failed on {self._path}: {_said(err)}") from err
        return self._buffers.swap(phase, held)

    def close(self) -> None:
        """Free the engine and its buffers."""
        self._requests = []
        self._compiled = self._buffers = None

    def __enter__(self) -> OvStepSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _request(self, inputs: Arrays, outputs: Arrays) -> Any:
        request = self._compiled.create_infer_request()
        for name, array in (inputs | outputs).items():
            request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
        return request


def compiled_step(
    graph: Path | bytes, threads: int | None = None, *, counters: bool = False
) -> Any:
    """A step graph as OpenVINO's compiled model, on the CPU and in float32 where it is not INT8.

    Args:
        graph: A step graph of any precision, its file or its bytes.
        threads: Threads of one step; OpenVINO's choice where it is None.
        counters: Time every operation, which costs time itself.

    Raises:
        SessionError: OpenVINO is missing or refuses the graph.
    """
    openvino = import_openvino()
    settings = dict(SETTINGS)
    if counters:
        settings["PERF_COUNT"] = "YES"
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        core = _core_of(openvino)
        model = core.read_model(graph if isinstance(graph, bytes) else str(graph))
        quantise_before_concat(model)
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as err:
        what = "a step graph's bytes" if isinstance(graph, bytes) else graph
        raise SessionError(f"OpenVINO cannot load {what}: {_said(err)}") from err


@cache
def _core_of(openvino: Any) -> Any:
    """The process's one Core, never closed.

    OpenVINO gives the calling thread a stack of its own for signal handlers, and the last one back
    when its Core goes. Two of them that go in the order in which they came leave one that is not
    there any more, and the next signal, a Ctrl-C, kills the process.

    Args:
        openvino: The module.
    """
    return openvino.Core()


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """The openvino module, without its converter.

    The package imports its model converter, and the converter reports each import to a server in
    the internet (`openvino_telemetry`, on unless a user opts out). A program that looks at
    people reports nothing. The package runs without its converter, and starts faster.

    Raises:
        SessionError: OpenVINO is not installed, or cannot be loaded.
    """
    missing = object()
    converter = sys.modules.get(CONVERTER, missing)
    if converter is missing:
        sys.modules[CONVERTER] = None  # type: ignore[assignment]  # Python's way to say: no such module
    try:
        return import_module("openvino")
    except ImportError as err:
        raise SessionError(
            f"openvino cannot be imported ({err}); pip install 'tdrl-edge[openvino]' or pass "
            "--backend ort"
        ) from err
    finally:
        if converter is missing:
            del sys.modules[CONVERTER]


def _named(ports: Iterable[Any], known: Collection[str]) -> dict[str, Tensor]:
    """Inputs or outputs by name; an output may have a second name, from inside the graph."""
    tensors = {}
    for port in ports:
        names = port.names.intersection(known) or {port.any_name}
        shape = (int(size.get_length()) if size.is_static else -1 for size in port.partial_shape)
        dtype = np.dtype(port.element_type.to_dtype()).name
        tensors[min(names)] = Tensor(tuple(shape), dtype)
    return tensors


def _said(err: RuntimeError) -> str:
    """The last line of an error: those above are places in OpenVINO's source."""
    return (str(err).strip().splitlines() or [type(err).__name__])[-1]
