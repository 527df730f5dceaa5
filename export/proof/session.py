"""Sessions of a bundle with any number of batch rows, on whatever engine is here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from export.engines.layer_table import layer_table, write_layers
from runtime.batch_rows import with_rows
from runtime.build_progress import StderrBar
from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.engine import engine_for_bundle
from runtime.errors import BundleError, SessionError
from runtime.nvidia import find_tensorrt
from runtime.plan import BuildSettings, BuiltPlan
from runtime.sessions.base import StepSession
from runtime.sessions.choose import Backend
from runtime.sessions.cuda_memory import cuda_device
from runtime.sessions.ort import OrtStepSession
from runtime.sessions.ov import OvStepSession
from runtime.sessions.trt import TrtStepSession


@dataclass(frozen=True)
class Opener:
    """How to open sessions on this device.

    Attributes:
        bundle: The bundle.
        backend: What runs it.
        engine_dir: Where engines are kept; the user's cache folder where it is None.
        threads: Threads of a step on the CPU; the engine's own choice where it is None.
    """

    bundle: Bundle
    backend: Backend
    engine_dir: Path | None = None
    threads: int | None = None

    @contextmanager
    def open(self, precision: Precision, rows: int, phases: int) -> Iterator[StepSession]:
        """Open a session with N rows; the graph is stamped with them, an engine is built for them.

        Args:
            precision: Which of the bundle's graphs.
            rows: Batch rows N, >= 1.
            phases: Sets of states, >= 1.

        Raises:
            BundleError: The graph cannot be read or does not fit the bundle.
            EngineError: An engine cannot be built or trusted.
            SessionError: The engine is missing or refuses the graph.
        """
        if self.backend == "ort":
            with (
                stamped_bundle(self.bundle, precision, rows) as stamped,
                OrtStepSession(stamped, precision, phases, self.threads) as session,
            ):
                yield session
        elif self.backend == "openvino":
            with (
                stamped_bundle(self.bundle, precision, rows) as stamped,
                OvStepSession(stamped, precision, phases, self.threads) as session,
            ):
                yield session
        else:
            plan_path = self._plan(precision, rows)
            kind = GRAPH_OF[precision]
            trt = find_tensorrt((self.backend,))
            with TrtStepSession(
                self.bundle, plan_path, graph_kind=kind, phases=phases, trt=trt
            ) as session:
                yield session

    def _plan(self, precision: Precision, rows: int) -> Path:
        """The engine from the cache, built first where there is no valid one."""
        trt, device = find_tensorrt((self.backend,)), cuda_device()
        if trt is None:
            raise SessionError(f"{self.backend} is not installed; install it or pass --backend ort")
        if device is None:
            raise SessionError(
                f"{self.backend} needs an NVIDIA GPU and pycuda; install them or pass --backend ort"
            )

        def describe(path: Path, built: BuiltPlan) -> None:
            write_layers(layer_table(built, self.bundle, precision, path.name), path)

        with StderrBar(f"build {precision} engine, {rows} row(s)") as progress:
            return engine_for_bundle(
                self.bundle,
                precision,
                self.engine_dir,
                trt=trt,
                device=device,
                settings=BuildSettings(num_streams=rows),
                on_progress=progress,
                on_built=describe,
            )


@contextmanager
def stamped_bundle(bundle: Bundle, precision: Precision, rows: int) -> Iterator[Bundle]:
    """The bundle with N rows in one of its graphs; its own folder is left alone.

    Args:
        bundle: The bundle.
        precision: Which graph.
        rows: Batch rows N, >= 1.

    Raises:
        BundleError: The bundle has no such graph, or the file is no ONNX model.
    """
    kind = GRAPH_OF[precision]
    graph = bundle.graph(kind)
    if all(state.shape[0] == rows for state in graph.states) and (graph.states or rows == 1):
        yield bundle
        return
    path = bundle.graph_path(kind)
    try:
        model = with_rows(path.read_bytes(), rows)
    except ValueError as err:
        raise BundleError(f"{path} cannot be stamped with {rows} rows ({err})") from err
    states = tuple(replace(state, shape=(rows, *state.shape[1:])) for state in graph.states)
    with tempfile.TemporaryDirectory(prefix="tdrl-rows-") as folder:
        stamped = replace(
            bundle,
            folder=Path(folder),
            graphs={**bundle.graphs, kind: replace(graph, states=states)},
        )
        stamped.graph_path(kind).write_bytes(model)
        yield stamped
