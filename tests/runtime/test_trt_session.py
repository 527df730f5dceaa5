"""The unchanged TensorRT session on the emulated device, and mutants that must not pass."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.build_progress import BuildMonitor
from runtime.bundle import GraphKind, Precision, StateSpec
from runtime.engine import engine_for_bundle
from runtime.errors import EngineError, SessionError
from runtime.nvidia import find_tensorrt
from runtime.plan import BuildSettings
from runtime.sessions.cuda_memory import (
    DeviceInfo,
    DeviceMemory,
    PycudaMemory,
    cuda_device,
    require_cuda_device,
)
from runtime.sessions.trt import StateBuffers, TrtStepSession
from tests.fake_cuda import CAPABILITY, GPU, Machine
from tests.fake_nvidia import install
from tests.mini_bundle import mini_model, reference_logits, write_mini_bundle

LABELS = ("a", "b", "c")
STREAMS = 2
PHASES = 2
STEPS = 12
KINDS: dict[GraphKind, Precision] = {"step": "float32", "step_int8": "int8"}

Make = Callable[..., TrtStepSession]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


@pytest.fixture
def make(machine: Machine, tmp_path: Path) -> Iterator[Make]:
    """Makes sessions of a mini bundle, and closes them."""
    bundle = write_mini_bundle(tmp_path / "bundle", labels=LABELS, height_px=8, width_px=8)
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
    """Steps of all phases, mixed, equal numpy's: each row of each phase is a stream of its own."""
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 256, (PHASES, STEPS, STREAMS, 8, 8, 3), np.uint8)
    reset = (rng.random((PHASES, STEPS, STREAMS)) < 0.25).astype(np.float32)
    reset[1] = 0  # this phase lives on the zeros that the session made
    order = rng.permutation(np.repeat(np.arange(PHASES), STEPS))
    found: list[list[Any]] = [[] for _ in range(PHASES)]
    for phase in order:
        step = len(found[phase])
        logits = session.step(int(phase), frames[phase, step], reset[phase, step][:, None])
        found[phase].append(logits)
    for phase in range(PHASES):
        for row in range(STREAMS):
            expected = reference_logits(
                mini_model(len(LABELS)), frames[phase, :, row], reset[phase, :, row], int8=int8
            )
            got = np.stack(found[phase])[:, row]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_reference(make: Make, machine: Machine, kind: GraphKind) -> None:
    session = make(kind)
    check_equals_reference(session, int8=kind == "step_int8")
    session.close()
    machine.check_clean()


class SameBufferInAndOut(TrtStepSession):
    def _zeroed_pair(self, memory: DeviceMemory, spec: StateSpec) -> tuple[int, int]:
        first, _ = super()._zeroed_pair(memory, spec)
        return first, first


class NoSwap(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any) -> Any:
        logits = super().step(phase, frames, reset)
        self._turns[phase] ^= 1
        return logits


class OneTurnForAllPhases(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any) -> Any:
        logits = super().step(phase, frames, reset)
        self._turns = [self._turns[phase]] * len(self._turns)
        return logits


class PhasesMixed(TrtStepSession):
    def _bind_states(self, phase: int) -> None:
        super()._bind_states(0)


class PhasesShareBuffers(TrtStepSession):
    def _allocate(self, memory: DeviceMemory, states: tuple[StateSpec, ...]) -> None:
        super()._allocate(memory, states)
        self._states = [self._states[0]] * len(self._states)


class ResetForgotten(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any) -> Any:
        return super().step(phase, frames, np.zeros_like(reset))


class ResetNotUploaded(TrtStepSession):
    def _upload(self, memory: DeviceMemory, name: str, values: Any) -> None:
        if name != "reset":
            super()._upload(memory, name, values)


class RowsSwapped(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any) -> Any:
        return super().step(phase, frames[::-1], reset)[::-1]


class StatesNotCleared(TrtStepSession):
    def _zeroed_pair(self, memory: DeviceMemory, spec: StateSpec) -> tuple[int, int]:
        size_bytes = self._tensors[spec.name_in].size_bytes
        return memory.alloc(size_bytes), memory.alloc(size_bytes)


class OneStateNotSwapped(TrtStepSession):
    def _bind_states(self, phase: int) -> None:
        super()._bind_states(phase)
        state: StateBuffers = self._states[phase][0]
        self._bind(state.spec.name_in, state.addresses[0])
        self._bind(state.spec.name_out, state.addresses[1])


class NotSynchronised(TrtStepSession):
    def _upload(self, memory: DeviceMemory, name: str, values: Any) -> None:
        super()._upload(memory, name, values)
        memory.synchronize = lambda: None  # type: ignore[method-assign]


class LogitsNotCopied(TrtStepSession):
    def step(self, phase: int, frames: Any, reset: Any) -> Any:
        super().step(phase, frames, reset)
        return self._hosts["logits"]


MUTANTS = [
    SameBufferInAndOut,
    NoSwap,
    OneTurnForAllPhases,
    PhasesMixed,
    PhasesShareBuffers,
    ResetForgotten,
    ResetNotUploaded,
    RowsSwapped,
    StatesNotCleared,
    OneStateNotSwapped,
    NotSynchronised,
    LogitsNotCopied,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_session_is_caught(make: Make, mutant: type[TrtStepSession]) -> None:
    session = make("step", cls=mutant)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_equals_reference(session, int8=False)


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


def test_stepping_allocates_nothing(make: Make, machine: Machine) -> None:
    session = make()
    before = (machine.allocations, machine.pinned)
    for _ in range(5):
        session.step(0, *_blank())
    assert (machine.allocations, machine.pinned) == before
    # frame, reset, logits, and two buffers for each of two states and two phases
    assert before == (3 + 2 * 2 * PHASES, 3)


def test_shutdown_goes_inside_out(make: Make, machine: Machine) -> None:
    session = make()
    session.step(0, *_blank())
    machine.events.clear()
    session.close()
    first = ["execution context destroyed", "engine destroyed", "runtime destroyed"]
    assert machine.events[:3] == first
    assert machine.events[-1] == "context popped"
    assert machine.events[3:-1] == ["buffer freed"] * (3 + 2 * 2 * PHASES)
    machine.check_clean()
    machine.events.clear()
    session.close()
    assert machine.events == []
    with pytest.raises(SessionError, match="closed"):
        session.step(0, *_blank())


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


def test_a_failed_step_leaves_the_states_as_they_were(make: Make, machine: Machine) -> None:
    session, twin = make(), make()
    frames, reset = _blank(200)
    for each in (session, twin):
        each.step(0, frames, reset)
    machine.fail = "execute"
    with pytest.raises(SessionError, match="an address is missing"):
        session.step(0, _blank(3)[0], reset)
    np.testing.assert_array_equal(session.step(0, *_blank(90)), twin.step(0, *_blank(90)))


@pytest.mark.parametrize(
    ("frames", "reset", "phase", "match"),
    [
        (
            np.zeros((1, 8, 8, 3), np.uint8),
            np.zeros((2, 1), np.float32),
            0,
            r"frame must be \(2, 8",
        ),
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 1), np.float32), 0, "uint8, got"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.float32), 0, r"reset must be \(2, 1\)"),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            np.zeros((2, 1), np.float32),
            2,
            "phase must be in 0..1",
        ),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 1), np.float32), -1, "phase must be in"),
    ],
)
def test_wrong_arguments(make: Make, frames: Any, reset: Any, phase: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make().step(phase, frames, reset)


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
            r"state_out_00 is missing.*state_out_07 is \(2, 3\) float32, must be absent",
        ),
        (_double_logits, r"logits is \(2, 6\) float32, must be \(2, 3\) float32"),
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


def test_device_of_this_machine(machine: Machine) -> None:
    assert cuda_device() == DeviceInfo(GPU, f"{CAPABILITY[0]}.{CAPABILITY[1]}")
    machine.fail = "init"
    assert cuda_device() is None


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert cuda_device() is None
    with pytest.raises(SessionError, match="pycuda cannot be imported"):
        PycudaMemory()


def test_a_pycuda_of_another_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text(
        "raise ImportError('libcurand.so.10: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SessionError, match=r"libcurand.*built for another CUDA.*--force-reinstall"):
        require_cuda_device()
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


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
