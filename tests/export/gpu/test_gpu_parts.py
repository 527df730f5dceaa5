"""Every part of the GPU check on a CPU at tiny sizes, and faults that each must find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
import torch
from torch.profiler import ProfilerActivity

from export.gpu import engine_step, learning, profiled, speed
from export.gpu.effort import ON_CPU
from export.gpu.engine_step import engine_rows
from export.gpu.law import law_difference, law_rows
from export.gpu.learning import learning_rows, resume_rows
from export.gpu.loader import loader_rows
from export.gpu.models import fresh_model
from export.gpu.onnx_step import OnnxStep, onnx_rows
from export.gpu.profiled import Operation, operations_of, profile_rows
from export.gpu.row import CheckFailed, Row
from export.gpu.speed import fitting_batch, speed_rows
from export.gpu.steps import step_rows
from export.gpu.timing import times_s
from export.gpu.torch_step import TorchStep
from export.gpu.trainee import Trainee
from runtime.sessions.trt import TrtStepSession
from tests.fake_nvidia import install
from train.model.tdrl import Tdrl

ROOT = Path(__file__).resolve().parents[3]
QUICK = replace(ON_CPU, seconds=0.0)


def by_what(rows: Iterator[Row]) -> dict[str, Row]:
    found = list(rows)
    assert len({row.what for row in found}) == len(found), "each row has a name of its own"
    return {row.what: row for row in found}


def value(row: Row) -> float:
    assert row.value is not None
    return row.value


def test_training_steps_learn() -> None:
    rows = by_what(learning_rows(QUICK))
    assert 0 < value(rows["float32: last loss ÷ first"]) < 1
    assert 0 < value(rows["bfloat16: last loss ÷ first"]) < 1
    assert 0 < value(rows["first loss, bfloat16 against float32"]) <= 0.05


def test_a_step_that_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.gpu.trainee.LEARNING_RATE", 0.0)
    with pytest.raises(CheckFailed, match="float32: the loss went from"):
        list(learning_rows(QUICK))


def test_a_gradient_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(*arguments: Any, **more: Any) -> Tdrl:
        model = real(*arguments, **more)
        model.fc.bias.requires_grad_(False)
        return model

    real = fresh_model
    monkeypatch.setattr(learning, "fresh_model", frozen)
    with pytest.raises(CheckFailed, match=r"float32: fc\.bias has no finite gradient"):
        list(learning_rows(QUICK))


def test_a_resumed_run_is_the_same() -> None:
    rows = by_what(resume_rows(QUICK))
    assert value(rows["largest difference of a weight, resumed against uninterrupted"]) == 0
    assert not torch.are_deterministic_algorithms_enabled()


def test_momentum_that_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
    with pytest.raises(CheckFailed, match="the resumed run's weights differ by"):
        list(resume_rows(QUICK))


def test_dropout_that_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.manual_seed
    # later updates go on from where the generator is
    monkeypatch.setattr(torch, "manual_seed", lambda seed: real(seed) if seed == 0 else None)
    with pytest.raises(CheckFailed, match="the resumed run's weights differ by"):
        list(resume_rows(QUICK))


def test_steps_equal_the_clip() -> None:
    (row,) = law_rows(QUICK)
    assert row.what == "tiny: clip against 4 steps, share of the logits' range"
    assert value(row) < 1e-5


@pytest.mark.parametrize("forgotten", [0, 1])
def test_a_state_that_is_forgotten(monkeypatch: pytest.MonkeyPatch, forgotten: int) -> None:
    """PEM's vectors, or one block's feature map."""

    def forgetful(self: Tdrl, frame: Any, state: Any = None) -> Any:
        logits, after = real(self, frame, state)
        after[forgotten] = torch.zeros_like(after[forgotten])
        return logits, after

    real = Tdrl.step
    monkeypatch.setattr(Tdrl, "step", forgetful)
    assert law_difference("tiny", QUICK) > 1e-3
    with pytest.raises(CheckFailed, match="tiny: steps differ from the clip by"):
        list(law_rows(QUICK))


def test_training_speed() -> None:
    rows = by_what(speed_rows(QUICK))
    for way in ("eager", "channels_last", "compiled"):
        tdrl, plain, share = (
            rows[f"tiny 4f, {way}, {what}"] for what in ("TDRL", "plain backbone", "TDRL ÷ plain")
        )
        assert tdrl.unit == plain.unit == "clips/s"
        assert value(tdrl) > 0
        assert value(share) > 0
        assert share.low is not None
        assert share.high is not None
        assert share.low <= value(share) <= share.high


def test_a_compiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("Cannot find a working triton\ninstallation")

    monkeypatch.setattr(torch, "compile", broken)
    rows = by_what(speed_rows(QUICK))
    assert rows["tiny 4f, compiled"].value is None
    note = "torch.compile does not work here: Cannot find a working triton installation"
    assert rows["tiny 4f, compiled"].note == note
    assert len(rows) == 7


def test_an_error_of_the_step_itself_is_none_of_the_compilers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "times_s", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        list(speed_rows(QUICK))


def test_the_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def limited(self: Trainee, clip: Any, label: Any) -> None:
        sizes.append(len(clip))
        if len(clip) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainee, "step", limited)
    most = 1
    assert fitting_batch(QUICK) == 1
    assert sizes == [4, 2, 1, 1], "of both models"
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        fitting_batch(QUICK)


def test_a_step_without_a_gpu() -> None:
    rows = by_what(step_rows(QUICK))
    assert rows["CUDA graphs in PyTorch"].note == "no GPU"
    for streams in (1, 3):
        name = f"tiny, float32, N = {streams}"
        step, speed = rows[f"{name}: step, eager"], rows[f"{name}: eager"]
        assert (step.unit, speed.unit) == ("ms", "frames/s")
        assert value(step) > 0
        assert value(speed) > 0


class Cuda:
    """A stand-in for `torch.cuda`: a graph runs again what ran while it was captured.

    Capturing itself computes, where the real one only records; each replay is the real work.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, replayed: Any = TorchStep.run) -> None:
        self.log: list[str] = []
        self._capturing: Any = None
        self._replayed = replayed
        monkeypatch.setattr(TorchStep, "run", self._noting(TorchStep.run))

    def _noting(self, run: Any) -> Any:
        def noting(step: TorchStep) -> None:
            self.log.append("run")
            if self._capturing is not None:
                self._capturing.step = step
            run(step)

        return noting

    def CUDAGraph(self) -> Any:
        graph = SimpleNamespace(step=None)
        graph.replay = lambda: self._replayed(graph.step)
        return graph

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        self.log.append("capture")
        self._capturing = graph
        yield
        self._capturing = None

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))

    def current_stream(self) -> Any:
        return self.Stream()

    def stream(self, side: Any) -> Any:
        return nullcontext()


def test_a_cuda_graph_is_captured_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    rows = by_what(step_rows(replace(QUICK, streams=(2,)), cuda))
    name = "tiny, float32, N = 2"
    assert value(rows[f"{name}: CUDA graph against eager, share of the logits' range"]) == 0
    assert value(rows[f"{name}: CUDA graph"]) > 0
    assert cuda.log[:7] == ["wait", *["run"] * 3, "wait", "capture", "run"]


def replays_nothing(step: TorchStep) -> None:
    pass


def replays_without_states(step: TorchStep) -> None:
    step.restart()
    TorchStep.run(step)


def replays_the_captured_picture(step: TorchStep) -> None:
    step.frame.zero_()
    TorchStep.run(step)


@pytest.mark.parametrize(
    "replayed", [replays_nothing, replays_without_states, replays_the_captured_picture]
)
def test_a_wrong_cuda_graph(monkeypatch: pytest.MonkeyPatch, replayed: Any) -> None:
    cuda = Cuda(monkeypatch, replayed)
    with pytest.raises(CheckFailed, match="the CUDA graph's logits differ"):
        list(step_rows(QUICK, cuda))


def test_a_cuda_graph_that_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    message = "operation not permitted when stream is capturing\n(CUDA kernel errors ...)"
    monkeypatch.setattr(cuda, "graph", lambda graph: (_ for _ in ()).throw(RuntimeError(message)))
    rows = by_what(step_rows(replace(QUICK, streams=(2,)), cuda))
    graph = rows["tiny, float32, N = 2: CUDA graph"]
    assert graph.value is None
    assert graph.note.startswith("it cannot be captured: operation not permitted when stream is")
    assert value(rows["tiny, float32, N = 2: eager"]) > 0


def test_onnx_runtime() -> None:
    rows = by_what(onnx_rows(QUICK))
    assert value(rows["tiny, float32, N = 1: logits, SQNR"]) > 80
    assert value(rows["tiny, float32, N = 3: step"]) > 0
    assert rows["tiny, float32, N = 3"].unit == "frames/s"


def test_onnx_runtime_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    (row,) = onnx_rows(replace(QUICK, device="cuda"))
    assert row.value is None
    assert "pip install onnxruntime-gpu" in row.note


def test_onnx_runtime_that_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: fallen)
    with pytest.raises(CheckFailed, match="did not take CUDAExecutionProvider"):
        OnnxStep(b"", (), replace(QUICK, device="cuda"), 1)


def test_onnx_states_that_do_not_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(self: OnnxStep) -> Any:
        self._turn = 0
        return real(self)

    real = OnnxStep.run
    monkeypatch.setattr(OnnxStep, "run", stuck)
    with pytest.raises(CheckFailed, match="dB from PyTorch's"):
        list(onnx_rows(QUICK))


@pytest.fixture
def only_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)


@pytest.mark.usefixtures("only_tensorrt")
@pytest.mark.parametrize("cudart", [False, True])
def test_engines_on_the_emulated_device(monkeypatch: pytest.MonkeyPatch, cudart: bool) -> None:
    machine = install(monkeypatch, cudart=cudart)
    rows = by_what(engine_rows(QUICK))
    assert rows["tensorrt_rtx"].value is None
    for precision in ("int8", "float32"):
        name = f"tiny at 32, tensorrt 10.3.0, {precision}"
        assert value(rows[f"{name}, N = 1: logits, SQNR"]) > 80
        for streams in (1, 3):
            assert value(rows[f"{name}, N = {streams}: step, queued"]) > 0
            assert (f"{name}, N = {streams}: step, CUDA graph" in rows) == cudart
            if not cudart:
                why = rows[f"{name}, N = {streams}: CUDA graph"].note
                assert "cuda-bindings cannot be imported" in why
    machine.check_clean()


class NoSwap(TrtStepSession):
    def step(self, phase: int, *arguments: Any) -> Any:
        logits = super().step(phase, *arguments)
        self._turns[phase] ^= 1
        return logits


@pytest.mark.usefixtures("only_tensorrt")
def test_an_engine_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(engine_step, "TrtStepSession", NoSwap)
    with pytest.raises(CheckFailed, match=r"int8, N = 1: logits are -?\d+ dB from the graph's"):
        list(engine_rows(QUICK))


@pytest.mark.usefixtures("only_tensorrt")
def test_engines_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    machine.strong_error = "Target GPU SM 87 is not supported by this TensorRT release."
    machine.build_errors = ["no kernel"] * 9
    rows = by_what(engine_rows(replace(QUICK, streams=(1,))))
    assert all(row.value is None for row in rows.values())
    name = "tiny at 32, tensorrt 10.3.0, float32, N = 1"
    assert "SM 87 is not supported" in rows[name].note


@pytest.mark.usefixtures("only_tensorrt")
def test_no_gpu_for_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, pycuda=False)
    rows = by_what(engine_rows(QUICK))
    assert "or install cuda-bindings" in rows["engines"].note


def test_the_loader() -> None:
    rows = by_what(loader_rows(QUICK))
    assert list(rows) == ["loader alone", "training step alone", "both", "loader ÷ training step"]
    assert all(value(row) > 0 for row in rows.values())
    assert rows["loader alone"].note == "0 loader processes, H.264 of 40 px"


def test_the_profile() -> None:
    rows = by_what(profile_rows(QUICK))
    for what in ("tiny 4f, float32, batch 4: training step", "tiny, float32, N = 1: live step"):
        whole, *largest = (row for name, row in rows.items() if name.startswith(f"{what}, "))
        assert whole.what == f"{what}, all operations"
        assert value(whole) > 0
        assert whole.note.startswith("of the CPU, ")
        shares = [value(row) for row in largest]
        assert len(shares) == profiled.MOST
        assert shares == sorted(shares, reverse=True)
        assert 50 < sum(shares) <= 100
        assert any("conv" in row.what for row in largest)
        assert {row.unit for row in largest} == {"%"}


class Profiler:
    """What torch.profiler gives on a GPU: kernels by their own names too, and annotations."""

    def __init__(self, activities: Any) -> None:
        self.activities = activities

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def key_averages(self) -> list[Any]:
        assert self.activities == [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        return [
            self.event("Optimizer.step#SGD.step", 900, is_user_annotation=True),
            self.event("aten::relu", 600),
            self.event("aten::cudnn_convolution", 2400),
            self.event("sm90_xmma_fprop_implicit_gemm", 2400, device="CUDA"),
        ]

    @staticmethod
    def event(
        key: str, own_us: float, *, device: str = "CPU", is_user_annotation: bool = False
    ) -> Any:
        return SimpleNamespace(
            key=key,
            count=6,
            device_type=SimpleNamespace(name=device),
            is_user_annotation=is_user_annotation,
            self_cpu_time_total=77.0,
            self_device_time_total=own_us,
        )


def test_a_kernel_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    runs: list[None] = []
    found = operations_of(lambda: runs.append(None), replace(QUICK, device="cuda"))
    assert len(runs) == profiled.RUNS == 3
    names = [each.name for each in found]
    assert names == ["aten::cudnn_convolution", "aten::relu"]
    assert [each.ms for each in found] == pytest.approx([0.8, 0.2])
    assert [each.calls for each in found] == [2, 2]


def test_a_torch_that_cannot_profile_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "supported_activities", lambda: {ProfilerActivity.CPU})
    (row,) = profile_rows(replace(QUICK, device="cuda"))
    assert row.value is None
    assert "built without CUPTI" in row.note


def test_a_profiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> Any:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES\n(status 35)")

    monkeypatch.setattr(profiled, "profile", refused)
    rows = by_what(profile_rows(QUICK))
    assert len(rows) == 2
    for row in rows.values():
        assert row.value is None
        assert "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES (status 35)" in row.note


def test_a_profiler_that_sees_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "operations_of", lambda *_: [Operation("aten::relu", 0.0, 3)])
    rows = by_what(profile_rows(QUICK))
    assert {row.value for row in rows.values()} == {None}
    assert all("saw no time of the device" in row.note for row in rows.values())


def test_an_error_of_a_step_is_none_of_the_profilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "step_of", lambda *_: lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(profile_rows(QUICK))


def test_times_are_taken_in_turn() -> None:
    log: list[str] = []
    effort = replace(QUICK, rounds=2)
    found = times_s({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, effort, warm_up=1)
    assert log == ["a", "b"] * 3
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


FIRST_ROWS = """
import warnings

warnings.simplefilter("ignore")
import export.gpu_check
from export.gpu.effort import ON_CPU
from export.gpu.parts import PARTS

for part in PARTS:
    try:
        rows = part.rows(ON_CPU)
    except ImportError as err:
        print(part.name, "needs", err.name.split(".")[0])
    else:
        # the others use what these use
        is_begun = part.name in ("learning", "law", "steps")
        print(part.name, "begins with", next(iter(rows)).what if is_begun else rows)
"""


def link_torch(folder: Path) -> None:
    """Put torch and what it requires into a folder, and nothing else."""
    names, seen = ["torch"], set()
    while names:
        name = names.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system
        if name in seen:
            continue
        seen.add(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        required = [line for line in distribution.requires or () if "extra ==" not in line]
        names += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required]
    assert "numpy" not in seen


@pytest.mark.slow
def test_torch_alone_is_enough(tmp_path: Path) -> None:
    """For all parts but three, which say what they need."""
    link_torch(tmp_path)
    done = subprocess.run(
        [sys.executable, "-S", "-c", FIRST_ROWS],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    for name in ("learning", "resume", "law", "speed", "steps", "profile"):
        assert found[name].startswith("begins with"), name
    assert {found[name].split()[0] for name in ("onnx", "engines", "loader")} == {"needs"}
