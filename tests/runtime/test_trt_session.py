"""The unchanged TensorRT session on the emulated device, and mutants that must not pass."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.build_progress import BuildMonitor
from runtime.bundle import Bundle, GraphKind, Precision, StateSpec
from runtime.engine import engine_for_bundle
from runtime.errors import EngineError, SessionError
from runtime.nvidia import find_tensorrt
from runtime.plan import BuildSettings
from runtime.sessions.cuda_graph import CudaGraph, capture_graph
from runtime.sessions.cuda_memory import (
    DeviceInfo,
    DeviceMemory,
    PycudaMemory,
    cuda_device,
    require_cuda_device,
)
from runtime.sessions.cudart_memory import open_memory
from runtime.sessions.trt import StateBuffers, TrtStepSession
from tests.fake_cuda import CAPABILITY, GPU, MEMORY_BYTES, Machine
from tests.fake_nvidia import install
from tests.mini_bundle import mini_model, reference_logits, write_mini_bundle

LABELS = ("a", "b", "c")
STREAMS = 3
PHASES = 2
STEPS = 12
KINDS: dict[GraphKind, Precision] = {"step": "float32", "step_int8": "int8"}

# What is installed, and whether the GPU shares the CPU's memory.
MODES: dict[str, dict[str, bool]] = {
    "queued": {"pycuda": True, "cudart": False, "integrated": False},
    "graphs": {"pycuda": True, "cudart": True, "integrated": False},
    "cudart": {"pycuda": False, "cudart": True, "integrated": False},
    "mapped": {"pycuda": True, "cudart": False, "integrated": True},
    "mapped graphs": {"pycuda": True, "cudart": True, "integrated": True},
    "mapped cudart": {"pycuda": False, "cudart": True, "integrated": True},
}
WITH_GRAPHS = [mode for mode, parts in MODES.items() if parts["cudart"]]
WITH_COPIES = [mode for mode, parts in MODES.items() if not parts["integrated"]]

Make = Callable[..., TrtStepSession]
in_modes = partial(pytest.mark.parametrize, "mode", ids=lambda mode: mode.replace(" ", "-"))


@pytest.fixture
def mode() -> str:
    return "queued"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, mode: str) -> Machine:
    parts = MODES[mode]
    machine = install(monkeypatch, pycuda=parts["pycuda"], cudart=parts["cudart"])
    machine.integrated = parts["integrated"]
    return machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("mini") / "bundle"
    return write_mini_bundle(folder, labels=LABELS, height_px=8, width_px=8)


@pytest.fixture
def make(machine: Machine, bundle: Bundle, tmp_path: Path) -> Iterator[Make]:
    """Makes sessions of a mini bundle, and closes them."""
    sessions: list[TrtStepSession] = []

    def make_session(
        kind: GraphKind = "step",
        phases: int = PHASES,
        cls: type[TrtStepSession] = TrtStepSession,
        **more: Any,
    ) -> TrtStepSession:
        trt, device = find_tensorrt(), cuda_device()
        assert trt is not None
        assert device is not None
        plan = engine_for_bundle(
            bundle,
            KINDS[kind],
            tmp_path / "engines",
            trt=trt,
            device=device,
            settings=BuildSettings(num_streams=STREAMS),
        )
        sessions.append(cls(bundle, plan, graph_kind=kind, phases=phases, **more))
        return sessions[-1]

    yield make_session
    for session in sessions:
        session.close()


def check_equals_reference(session: TrtStepSession, *, int8: bool) -> None:
    """Steps of all phases, mixed, equal numpy's: each row of each phase is a stream of its own.

    A held row's frame, reset and logits are nonsense: its stream goes on as if nothing had been.
    """
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 256, (PHASES, STEPS, STREAMS, 8, 8, 3), np.uint8)
    reset = (rng.random((PHASES, STEPS, STREAMS)) < 0.25).astype(np.float32)
    held = rng.random((PHASES, STEPS, STREAMS)) < 0.3
    reset[1] = held[1]  # this phase lives on the zeros that the session made
    order = rng.permutation(np.repeat(np.arange(PHASES), STEPS))
    found: list[list[Any]] = [[] for _ in range(PHASES)]
    for phase in order:
        step = len(found[phase])
        logits = session.step(
            int(phase), frames[phase, step], reset[phase, step][:, None], held[phase, step]
        )
        found[phase].append(logits)
    for phase in range(PHASES):
        for row in range(STREAMS):
            steps = ~held[phase, :, row]
            expected = reference_logits(
                mini_model(len(LABELS)),
                frames[phase, steps, row],
                reset[phase, steps, row],
                int8=int8,
            )
            got = np.stack(found[phase])[steps, row]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@in_modes(MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_reference(
    make: Make, machine: Machine, kind: GraphKind, mode: str
) -> None:
    session = make(kind)
    assert session.description.endswith("CUDA graphs") == (mode in WITH_GRAPHS)
    assert (session.why_queued == "") == (mode in WITH_GRAPHS)
    check_equals_reference(session, int8=kind == "step_int8")
    assert len(machine.launches) == (PHASES * STEPS if mode in WITH_GRAPHS else 0)
    assert {"to device", "to host"} <= set(machine.copies) or mode not in WITH_COPIES
    session.close()
    machine.check_clean()


class SameBufferInAndOut(TrtStepSession):
    def _pair(self, memory: DeviceMemory, spec: StateSpec) -> tuple[int, int]:
        first, _ = super()._pair(memory, spec)
        return first, first


class NoSwap(TrtStepSession):
    def step(self, phase: int, *arguments: Any) -> Any:
        logits = super().step(phase, *arguments)
        self._turns[phase] ^= 1
        return logits


class OneTurnForAllPhases(TrtStepSession):
    def step(self, phase: int, *arguments: Any) -> Any:
        logits = super().step(phase, *arguments)
        self._turns = [self._turns[phase]] * len(self._turns)
        return logits


class PhasesMixed(TrtStepSession):
    def _bind_states(self, phase: int, turn: int) -> None:
        super()._bind_states(0, turn)


class PhasesShareBuffers(TrtStepSession):
    def _allocate(self, memory: DeviceMemory, states: tuple[StateSpec, ...]) -> None:
        super()._allocate(memory, states)
        self._states = [self._states[0]] * len(self._states)


class ResetForgotten(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any, held: Any = None) -> Any:
        return super().step(phase, frames, np.zeros_like(reset), held)


class RowsSwapped(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any, held: Any = None) -> Any:
        return super().step(phase, frames[::-1], reset, held)[::-1]


class StatesNotCleared(TrtStepSession):
    def _clear_states(self, memory: DeviceMemory) -> None:
        memory.synchronize()


class OneStateNotSwapped(TrtStepSession):
    def _bind_states(self, phase: int, turn: int) -> None:
        super()._bind_states(phase, turn)
        state: StateBuffers = self._states[phase][0]
        self._bind(state.spec.name_in, state.addresses[0])
        self._bind(state.spec.name_out, state.addresses[1])


class NotSynchronised(TrtStepSession):
    def _queue_step(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        super()._queue_step(memory, phase, turn)
        memory.synchronize = lambda: None  # type: ignore[method-assign]


class LogitsNotCopied(TrtStepSession):
    def step(self, phase: int, *arguments: Any) -> Any:
        super().step(phase, *arguments)
        return self._hosts["logits"]


class HeldForgotten(TrtStepSession):
    def _hold(self, *arguments: Any) -> None:
        pass


class HeldWrongRow(TrtStepSession):
    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        super()._hold(memory, phase, turn, (first + 1) % STREAMS, 1)


class HeldOnlyTheFirstOfNeighbours(TrtStepSession):
    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        super()._hold(memory, phase, turn, first, 1)


class HeldWrongDirection(TrtStepSession):
    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        super()._hold(memory, phase, turn ^ 1, first, count)


class HeldWrongPhase(TrtStepSession):
    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        super()._hold(memory, (phase + 1) % PHASES, turn, first, count)


class HeldOneStateOnly(TrtStepSession):
    def _hold(self, memory: DeviceMemory, phase: int, turn: int, first: int, count: int) -> None:
        every = self._states[phase]
        self._states[phase] = every[:1]
        super()._hold(memory, phase, turn, first, count)
        self._states[phase] = every


class HeldBeforeTheStep(TrtStepSession):
    def _queue_step(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        for first, count in self._early:
            self._hold(memory, phase, turn, first, count)
        super()._queue_step(memory, phase, turn)

    def _held_runs(self, held: Any) -> list[tuple[int, int]]:
        self._early = super()._held_runs(held)
        return []


class FrameUploadedElsewhere(TrtStepSession):
    def _allocate(self, memory: DeviceMemory, states: tuple[StateSpec, ...]) -> None:
        super()._allocate(memory, states)
        self._addresses["reset"] = memory.alloc(4 * STREAMS)


class GraphOfTheOtherTurn(TrtStepSession):
    def _queue_step(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        super()._queue_step(memory, phase, turn ^ 1)


class GraphOfTheOtherPhase(TrtStepSession):
    def _queue_step(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        super()._queue_step(memory, 1 - phase, turn)


class OneGraphForBothTurns(TrtStepSession):
    """As if the states were bound anew and the step not recorded again."""

    def _record_steps(self) -> None:
        super()._record_steps()
        for phase in range(self.num_phases):
            self._graphs[phase, 1] = self._graphs[phase, 0]

    def _destroy_graphs(self) -> None:
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] == 0}
        super()._destroy_graphs()


class RecordedWithoutBinding(TrtStepSession):
    def _bind_states(self, phase: int, turn: int) -> None:
        super()._bind_states(0, 0)


MUTANTS = [
    SameBufferInAndOut,
    NoSwap,
    OneTurnForAllPhases,
    PhasesMixed,
    PhasesShareBuffers,
    ResetForgotten,
    RowsSwapped,
    StatesNotCleared,
    OneStateNotSwapped,
    NotSynchronised,
    LogitsNotCopied,
    HeldForgotten,
    HeldWrongRow,
    HeldOnlyTheFirstOfNeighbours,
    HeldWrongDirection,
    HeldWrongPhase,
    HeldOneStateOnly,
    HeldBeforeTheStep,
]
COPY_MUTANTS = [FrameUploadedElsewhere]
GRAPH_MUTANTS = [
    GraphOfTheOtherTurn,
    GraphOfTheOtherPhase,
    OneGraphForBothTurns,
    RecordedWithoutBinding,
]


@pytest.mark.parametrize(
    ("mutant", "mode"),
    [
        *((mutant, mode) for mutant in MUTANTS for mode in ("queued", "graphs", "mapped graphs")),
        *((mutant, mode) for mutant in COPY_MUTANTS for mode in ("queued", "graphs")),
        *((mutant, mode) for mutant in GRAPH_MUTANTS for mode in ("graphs", "mapped graphs")),
    ],
)
def test_a_broken_session_is_caught(make: Make, mutant: type[TrtStepSession]) -> None:
    session = make("step", cls=mutant)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_equals_reference(session, int8=False)


@pytest.mark.parametrize("mode", ["queued", "graphs"])
def test_each_phase_alternates_two_sets_of_buffers(make: Make, machine: Machine) -> None:
    session = make()
    frames, reset = _blank()
    machine.executions.clear()
    for phase in (0, 0, 1, 0, 1, 1):
        session.step(phase, frames, reset)
    by_phase = {0: [machine.executions[i] for i in (0, 1, 3)]}
    by_phase[1] = [machine.executions[i] for i in (2, 4, 5)]
    for state in ("00", "01"):
        for runs in by_phase.values():
            ins = [run[f"state_in_{state}"] for run in runs]
            outs = [run[f"state_out_{state}"] for run in runs]
            assert ins[1:] == outs[:-1], "a step reads what the last one wrote"
            assert ins[0] == outs[1] == ins[2], "two buffers, no more"
            assert all(a != b for a, b in zip(ins, outs, strict=True))
    used = [
        {a for run in runs for n, a in run.items() if "state" in n} for runs in by_phase.values()
    ]
    assert not used[0] & used[1]
    fixed = {(run["frame"], run["reset"], run["logits"]) for run in machine.executions}
    assert len(fixed) == 1


@in_modes(MODES)
def test_stepping_allocates_nothing(make: Make, machine: Machine, mode: str) -> None:
    session = make()
    before = (machine.allocations, machine.pinned, len(machine.graphs))
    for _ in range(5):
        session.step(0, *_blank())
    assert (machine.allocations, machine.pinned, len(machine.graphs)) == before
    # frame, reset, logits, and two buffers for each of two states and two phases
    fixed = 3 if mode in WITH_COPIES else 0
    graphs = 2 * PHASES if mode in WITH_GRAPHS else 0
    assert before == (fixed + 2 * 2 * PHASES, 3, graphs)


@in_modes([mode for mode in MODES if mode not in WITH_COPIES])
def test_a_gpu_that_shares_memory_gets_no_copies(make: Make, machine: Machine) -> None:
    session = make()
    for value in (3, 200):
        session.step(0, *_blank(value))
    assert machine.copies == []
    session.step(0, *_blank(), np.array([True, False, True]))
    # rows 0 and 2 of two states
    assert machine.copies == ["on device"] * 4


def test_neighbouring_held_rows_are_one_copy(make: Make, machine: Machine) -> None:
    session = make()
    machine.copies.clear()
    session.step(0, *_blank(), np.array([False, True, True]))
    assert machine.copies == ["to device"] * 2 + ["to host"] + ["on device"] * 2


@in_modes(["cudart", "mapped cudart"])  # pycuda's context is gone as well
def test_a_graph_is_gone_with_its_session(make: Make, machine: Machine) -> None:
    session = make()
    graph = session._graphs[0, 0]
    session.close()
    machine.check_clean()
    with pytest.raises(SessionError, match="a CUDA graph does not start: invalid resource"):
        graph.launch()
    assert machine.faults == ["a graph was launched that is not there"]


class KeepsGraphs(TrtStepSession):
    def _destroy_graphs(self) -> None:
        self._graphs.clear()


@in_modes(["graphs"])
def test_graphs_that_are_kept_are_caught(make: Make, machine: Machine) -> None:
    make(cls=KeepsGraphs).close()
    with pytest.raises(AssertionError):
        machine.check_clean()


class NoWarmUp(TrtStepSession):
    def _recorded(self, cudart: Any, memory: DeviceMemory, phase: int, turn: int) -> CudaGraph:
        enqueue = partial(self._enqueue, memory, phase, turn)
        return capture_graph(cudart, memory.stream_handle, enqueue)


class WaitsInCapture(TrtStepSession):
    def _enqueue(self, memory: DeviceMemory, phase: int, turn: int) -> None:
        super()._enqueue(memory, phase, turn)
        memory.synchronize()


@in_modes(["graphs", "mapped cudart"])
@pytest.mark.parametrize(
    ("cls", "fail", "reason"),
    [
        (TrtStepSession, "cudaStreamBeginCapture", "cannot be recorded: cudaStreamBeginCapture"),
        (TrtStepSession, "end capture", "the step cannot be recorded: end capture: injected"),
        (TrtStepSession, "cudaGraphInstantiate", "a CUDA graph cannot be made: cudaGraphInst"),
        (
            TrtStepSession,
            "execute",
            "the engine does not run, TensorRT says: Error Code 3: an address is missing",
        ),
        (NoWarmUp, "", "cudaMalloc is not permitted in a capture"),
        (WaitsInCapture, "", "not permitted when stream is capturing"),
    ],
)
def test_steps_run_without_graphs_if_recording_fails(
    make: Make,
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    cls: type[TrtStepSession],
    fail: str,
    reason: str,
) -> None:
    machine.fail = fail
    session = make(cls=cls)
    (line,) = [record for record in caplog.records if record.name == "runtime.sessions.trt"]
    assert line.levelname == "WARNING"
    assert "steps are queued call by call, not as CUDA graphs: " in line.message
    assert reason in line.message
    assert reason in session.why_queued
    assert "CUDA graphs" not in session.description
    check_equals_reference(session, int8=False)
    session.close()
    machine.faults = [fault for fault in machine.faults if fault != "synchronize in a capture"]
    machine.check_clean()


def test_graphs_need_cuda_bindings(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "runtime.sessions.trt"):
        make()
    (line,) = [record for record in caplog.records if record.name == "runtime.sessions.trt"]
    assert line.levelname == "INFO"
    assert "cuda-bindings cannot be imported" in line.message
    assert "pip install 'cuda-bindings==12.9.*' on JetPack 6" in line.message


@in_modes(["graphs"])
def test_graphs_can_be_declined(make: Make, machine: Machine) -> None:
    session = make(cuda_graphs=False)
    check_equals_reference(session, int8=False)
    assert machine.launches == []
    assert session.why_queued == "not asked for"
    assert session.description == f"tensorrt 10.3.0 on {GPU}, float32"


@in_modes(["queued", "graphs", "cudart"])
def test_shutdown_goes_inside_out(make: Make, machine: Machine, mode: str) -> None:
    session = make()
    session.step(0, *_blank())
    machine.events.clear()
    session.close()
    assert machine.events == [
        *["graph destroyed"] * (2 * PHASES if mode in WITH_GRAPHS else 0),
        "execution context destroyed",
        "engine destroyed",
        "runtime destroyed",
        *["buffer freed"] * (3 + 2 * 2 * PHASES),
        "stream destroyed" if mode == "cudart" else "context popped",
    ]
    machine.check_clean()
    machine.events.clear()
    session.close()
    assert machine.events == []
    with pytest.raises(SessionError, match="closed"):
        session.step(0, *_blank())


@in_modes(MODES)
@pytest.mark.parametrize("fail", ["stream", "alloc", "deserialise", "context", "pinned"])
def test_a_failed_start_frees_everything(make: Make, machine: Machine, fail: str) -> None:
    machine.fail = fail
    with pytest.raises((SessionError, EngineError)):
        make()
    machine.check_clean()


def test_another_thread_is_refused(make: Make) -> None:
    session = make()
    errors: list[Exception] = []

    def call(action: Callable[[], Any]) -> None:
        try:
            action()
        except SessionError as err:
            errors.append(err)

    for action in (lambda: session.step(0, *_blank()), session.close):
        thread = threading.Thread(target=call, args=(action,))
        thread.start()
        thread.join()
    assert ["another thread" in str(err) for err in errors] == [True, True]
    session.step(0, *_blank())


@pytest.mark.parametrize(
    ("mode", "fail", "match"),
    [
        ("queued", "execute", "an address is missing"),
        ("graphs", "cudaGraphLaunch", "a CUDA graph does not start"),
        ("mapped", "execute", "an address is missing"),
    ],
)
def test_a_failed_step_leaves_the_states_as_they_were(
    make: Make, machine: Machine, fail: str, match: str
) -> None:
    session, twin = make(), make()
    frames, reset = _blank(200)
    for each in (session, twin):
        each.step(0, frames, reset)
    machine.fail = fail
    with pytest.raises(SessionError, match=match):
        session.step(0, _blank(3)[0], reset)
    np.testing.assert_array_equal(session.step(0, *_blank(90)), twin.step(0, *_blank(90)))


FRAMES = np.zeros((STREAMS, 8, 8, 3), np.uint8)
RESET = np.zeros((STREAMS, 1), np.float32)


@pytest.mark.parametrize(
    ("frames", "reset", "phase", "match"),
    [
        (FRAMES[:1], RESET, 0, r"frame must be \(3, 8"),
        (FRAMES.astype(np.float32), RESET, 0, "uint8, got"),
        (FRAMES, RESET[:, 0], 0, r"reset must be \(3, 1\)"),
        (FRAMES, RESET, 2, "phase must be in 0..1"),
        (FRAMES, RESET, -1, "phase must be in"),
    ],
)
def test_wrong_arguments(make: Make, frames: Any, reset: Any, phase: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make().step(phase, frames, reset)


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (np.zeros((STREAMS, 1), np.bool_), r"held must be \(3,\) bool, got \(3, 1\) bool"),
        (np.zeros(STREAMS, np.float32), r"held must be \(3,\) bool, got \(3,\) float32"),
    ],
)
def test_wrong_held(make: Make, held: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make().step(0, *_blank(), held)


def test_properties(make: Make) -> None:
    with make("step_int8") as session:
        assert session.num_streams == STREAMS
        assert session.num_phases == PHASES
        assert session.description == f"tensorrt 10.3.0 on {GPU}, int8"


def test_no_phases(make: Make) -> None:
    with pytest.raises(ValueError, match="phases must be >= 1, got 0"):
        make(phases=0)


def _rename_state(model: onnx.ModelProto) -> None:
    model.graph.output[1].name = "state_out_07"
    for node in model.graph.node:
        node.output[:] = ["state_out_07" if o == "state_out_00" else o for o in node.output]


def _double_logits(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["once" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Concat", ["once"] * 2, ["logits"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2 * len(LABELS)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (
            _rename_state,
            r"state_out_00 is missing.*state_out_07 is \(3, 3\) float32, must be absent",
        ),
        (_double_logits, r"logits is \(3, 6\) float32, must be \(3, 3\) float32"),
    ],
)
def test_an_engine_that_does_not_fit_the_bundle(
    make: Make, machine: Machine, tmp_path: Path, edit: Callable[[Any], None], match: str
) -> None:
    """The sidecar says the right graph, and the engine is another: names and shapes decide."""
    make().close()
    (plan,) = (tmp_path / "engines").glob("*.plan")
    magic, head, model = plan.read_bytes().split(b"\n", 2)
    edited = onnx.load_from_string(model)
    edit(edited)
    plan.write_bytes(b"\n".join([magic, head, edited.SerializeToString()]))
    sidecar = plan.with_name(plan.name + ".json")
    facts = json.loads(sidecar.read_text()) | {"plan_sha256": sha256(plan.read_bytes()).hexdigest()}
    sidecar.write_text(json.dumps(facts))
    with pytest.raises(EngineError, match=match):
        make()
    machine.check_clean()


def test_the_gpu_must_be_the_plans(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(PycudaMemory):
        @property
        def device(self) -> DeviceInfo:
            return DeviceInfo("Another GPU", "8.6")

    with pytest.raises(EngineError, match=r"built for GPU Emulated Orin \(8.7\), this is Another"):
        make(memory=Elsewhere())


@in_modes(MODES)
def test_device_of_this_machine(machine: Machine, mode: str) -> None:
    device = cuda_device()
    assert device == DeviceInfo(GPU, f"{CAPABILITY[0]}.{CAPABILITY[1]}")
    assert device is not None
    assert device.total_bytes == MEMORY_BYTES
    assert device.is_integrated == (mode not in WITH_COPIES)
    machine.fail = "init"
    assert cuda_device() is None


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert cuda_device() is None
    with pytest.raises(SessionError, match="pycuda cannot be imported"):
        open_memory()


def test_a_pycuda_of_another_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text(
        "raise ImportError('libcurand.so.10: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SessionError, match=r"libcurand.*built for another CUDA.*--force-reinstall"):
        require_cuda_device()
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


@in_modes(["queued", "cudart"])
def test_cuda_that_does_not_start(machine: Machine) -> None:
    machine.fail = "init"
    with pytest.raises(SessionError, match="CUDA does not start: .*check the driver"):
        require_cuda_device()


@pytest.mark.parametrize(
    ("text", "help_text"),
    [
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 10.3.0.30 got 10.13.3.9, please rebuild.",
            "the engine is of another TensorRT: engines are built on the device",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.7 "
            "got compute 8.6, please rebuild.",
            "the engine is of another GPU",
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", "the memory is not enough"),
    ],
)
def test_a_plan_that_tensorrt_cannot_load(
    make: Make, machine: Machine, text: str, help_text: str
) -> None:
    """`deserialize_cuda_engine` gives None; the reason is in the log only."""
    machine.load_error = text
    with pytest.raises(EngineError) as caught:
        make()
    assert text in str(caught.value)
    assert help_text in str(caught.value)
    assert "delete the engine and run `make engine`" in str(caught.value)
    machine.check_clean()


def test_type_stubs_are_no_tensorrt() -> None:
    """`tensorrt-stubs` leaves an importable, empty `tensorrt`."""
    found = find_tensorrt(("tensorrt",))
    assert found is None or hasattr(found, "Builder")


def test_progress_never_falls() -> None:
    monitor = BuildMonitor()
    monitor.start("build", None, 2)
    monitor.step("build", 0)
    assert monitor.share() == 0.5
    monitor.finish("build")
    monitor.start("pack", None, 10)
    assert monitor.share() == 0.5


def _blank(value: int = 0) -> tuple[Any, Any]:
    return np.full((STREAMS, 8, 8, 3), value, np.uint8), np.zeros((STREAMS, 1), np.float32)
