"""From a graph to a plan on the emulated device: flags, second chances, and what failures say."""

from __future__ import annotations

import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest

from runtime.build_failure import hints_for, is_out_of_memory
from runtime.cancellable_build import THREAD_NAME
from runtime.errors import EngineError
from runtime.nvidia import LogMessage, find_tensorrt, message_log, why_no_tensorrt
from runtime.nvidia_types import TensorRT
from runtime.plan import (
    BuildSettings,
    BuiltPlan,
    build_plan,
    default_workspace_mb,
    network_flags,
    typings,
)
from tests.fake_cuda import Machine
from tests.fake_nvidia import STRONG, WEAK, install
from tests.mini_bundle import write_mini_bundle

# As users reported them (NVIDIA/TensorRT#3355, #4832, #4021, #2176; isaac-ros-cli#22; and others)
SEEN = [
    (
        "Error Code 2: Internal Error (Target GPU SM 87 is not supported by this TensorRT "
        "release.)",
        "this TensorRT has no kernels for this GPU: use the one that came with JetPack",
    ),
    (
        "Tactic Device request: 4869MB Available: 2843MB. Device memory is insufficient to use "
        "tactic. [defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)",
        "close other programs, lower --workspace-mb or add swap",
    ),
    (
        "Could not infer output types for operation: dequantize ... weightsHalf",
        "FP16 scales do not build on Orin",
    ),
    (
        "Int8 precision has been set for a layer or layer output, but int8 is not configured in "
        "the builder",
        "use strong typing",
    ),
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library "
        "version 10.3.0.30 got 10.13.3.9, please rebuild.",
        "engines are built on the device that runs them",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == serializationVersion failed.Version tag does not match.)",
        "the engine is of another TensorRT",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.7 got "
        "compute 8.6, please rebuild.",
        "the engine is of another GPU",
    ),
    ("Error Code 1: Myelin (invalid device context)", "from another thread or context"),
    ("CUDA initialization failure with error: 35", "CUDA does not start: check the driver"),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    """A quantised step graph."""
    bundle = write_mini_bundle(tmp_path / "bundle", height_px=8, width_px=8)
    return bundle.graph_path("step_int8").read_bytes()


def _trt() -> TensorRT:
    trt = find_tensorrt(("tensorrt",))
    assert trt is not None
    return trt


def _build(model: bytes, **settings: Any) -> BuiltPlan:
    return build_plan(_trt(), model, settings=BuildSettings(**({"workspace_mb": 512} | settings)))


@pytest.mark.parametrize(("text", "help_text"), SEEN, ids=[text[:30] for text, _ in SEEN])
def test_a_failure_quotes_the_library_and_says_what_helps(
    machine: Machine, model: bytes, text: str, help_text: str
) -> None:
    machine.build_errors = [text] * 2
    with pytest.raises(EngineError) as caught:
        _build(model)
    assert text in str(caught.value)
    assert help_text in str(caught.value)


def test_no_hint_where_nothing_is_known() -> None:
    assert hints_for(["all is well"]) == []
    assert not is_out_of_memory(["all is well"])


@pytest.mark.parametrize(("version", "node"), [("8.6.2", "#0"), ("10.3.0", "")])
def test_a_refused_graph(monkeypatch: pytest.MonkeyPatch, version: str, node: str) -> None:
    """TensorRT 8 knows a node by its number only."""
    machine = install(monkeypatch, version)
    with pytest.raises(EngineError, match=f"TensorRT refuses the graph: node {node}: "):
        build_plan(_trt(), b"\xff\xff\xff")
    assert machine.builds == 0


def test_out_of_memory_gets_half_the_workspace_once(
    machine: Machine, model: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    machine.build_errors = [SEEN[1][0]]
    built = _build(model)
    assert [workspace >> 20 for _, _, workspace in machine.attempts] == [512, 256]
    assert (built.workspace_mb, built.strongly_typed) == (256, True)
    assert "once more with a workspace of 256 MiB" in caplog.text
    machine.build_errors = [SEEN[1][0]] * 3
    with pytest.raises(EngineError, match=r"close other programs.*a second try \(256 MiB, strong"):
        _build(model)
    assert len(machine.build_errors) == 1
    machine.build_errors = [SEEN[1][0]] * 2
    with pytest.raises(EngineError, match="Tactic Device request"):
        _build(model, workspace_mb=40)
    assert len(machine.build_errors) == 1, "nothing left to halve"


def test_what_the_bindings_raise_is_a_failed_build(machine: Machine, model: bytes) -> None:
    machine.build_raises = [MemoryError()]
    assert _build(model).workspace_mb == 256
    machine.build_raises = [RuntimeError("std::exception"), RuntimeError("again")]
    with pytest.raises(EngineError, match="TensorRT says: std::exception; a second try"):
        _build(model)


@pytest.mark.parametrize(("half", "flags"), [(False, {"INT8"}), (True, {"INT8", "FP16"})])
def test_weak_typing_when_strong_fails(
    machine: Machine,
    model: bytes,
    caplog: pytest.LogCaptureFixture,
    half: bool,
    flags: set[str],
) -> None:
    """With the flags of the types that the graph has, and no other."""
    machine.strong_error = "Could not find any implementation for node /conv"
    if half:
        graph = onnx.load_from_string(model)
        graph.graph.node.append(onnx.helper.make_node("Cast", ["logits"], ["half"], to=10))
        model = graph.SerializeToString()
    built = _build(model)
    assert built.strongly_typed is False
    assert [(tried[0], tried[1]) for tried in machine.attempts] == [(STRONG, set()), (WEAK, flags)]
    assert "once more with weak typing" in caplog.text


def test_a_float_graph_needs_no_flag(machine: Machine, tmp_path: Path) -> None:
    bundle = write_mini_bundle(tmp_path / "float", height_px=8, width_px=8)
    built = _build(bundle.graph_path("step").read_bytes(), typing="weak")
    assert (built.strongly_typed, machine.attempts[0][1]) == (False, set())


def test_strong_typing_that_was_asked_for_has_no_fallback(machine: Machine, model: bytes) -> None:
    machine.strong_error = "no"
    with pytest.raises(EngineError, match="the build failed, TensorRT says: no$"):
        _build(model, typing="strong")
    assert machine.builds == 1


def test_if_weak_typing_fails_too_the_first_failure_tells(machine: Machine, model: bytes) -> None:
    machine.build_errors = ["first", "second"]
    with pytest.raises(EngineError, match=r"says: first; a second try \(512 MiB, weak typing\).*"):
        _build(model)
    assert machine.builds == 2


def test_typing_follows_the_library(machine: Machine, model: bytes) -> None:
    """TensorRT 8 has no strong typing, 11 and RTX no weak one."""
    trt: Any = _trt()
    assert typings(trt, "auto") == (True, False)
    trt.BuilderFlag = type("Flags11", (), {})
    assert typings(trt, "auto") == (True,)
    with pytest.raises(ValueError, match=r"tensorrt 10.3.0 has no weak typing; pass --typing str"):
        _build(model, typing="weak")
    machine.build_errors = ["first", "second"]
    with pytest.raises(EngineError, match="says: first$"):
        _build(model)
    trt.BuilderFlag = type("Flags8", (), {"INT8": 1})
    trt.NetworkDefinitionCreationFlag = type("Flags8", (), {"EXPLICIT_BATCH": 0})
    assert typings(trt, "auto") == (False,)
    with pytest.raises(ValueError, match="has no strong typing; pass --typing weak"):
        typings(trt, "strong")


def test_network_flags_follow_the_library(machine: Machine) -> None:
    """The bit of STRONGLY_TYPED moved between TensorRT 10 and 11, and 8 has none."""
    trt: Any = _trt()
    assert network_flags(trt) == STRONG
    assert network_flags(trt, strongly_typed=False) == WEAK
    trt.NetworkDefinitionCreationFlag = type("Flag11", (), {"STRONGLY_TYPED": 0})
    assert network_flags(trt) == 0b01
    trt.NetworkDefinitionCreationFlag = type("Flag8", (), {"EXPLICIT_BATCH": 0})
    assert network_flags(trt) == 0b01
    trt.NetworkDefinitionCreationFlag = type("None", (), {})
    assert network_flags(trt) == 0


@pytest.mark.parametrize(
    ("machine_gib", "gpu_gib", "expected_mb"),
    [
        (7.4, 7.4, 473),
        (7.4, 80, 473),
        (64, 4, 256),
        (64, 80, 2048),
        (2, None, 256),
        (16, None, 1024),
    ],
)
def test_the_workspace_follows_the_memory(
    monkeypatch: pytest.MonkeyPatch, machine_gib: float, gpu_gib: float | None, expected_mb: int
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(machine_gib * 2**30) // 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    gpu_bytes = None if gpu_gib is None else int(gpu_gib * 2**30)
    assert default_workspace_mb(gpu_bytes) == expected_mb


@pytest.mark.parametrize("number", [0, -1])
def test_wrong_settings(number: int) -> None:
    with pytest.raises(ValueError, match="workspace_mb must be >= 1"):
        BuildSettings(workspace_mb=number)
    with pytest.raises(ValueError, match="num_streams must be >= 1"):
        BuildSettings(num_streams=number)


def test_messages_outside_a_build_go_to_logging(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    log: Any = message_log(_trt())
    severity = type("Severity", (), {"name": "WARNING"})
    with log.recording() as messages:
        log.trt_logger.log(severity, "while building")
    log.trt_logger.log(severity, "while running")
    assert messages == [LogMessage("WARNING", "while building")]
    assert "while running" in caplog.text
    assert "while building" not in caplog.text
    assert message_log(_trt()) is log


@pytest.mark.rtx
def test_ctrl_c_cancels_nvidias_real_builder() -> None:
    """A real signal in the middle of a real build: the builder says that it was cancelled."""
    from tests.qdq_graphs import QdqRule, qdq_step_graph

    trt = find_tensorrt(("tensorrt_rtx",))
    assert trt is not None
    graph = qdq_step_graph(QdqRule(blocks=24, channels=64, size_px=96)).SerializeToString()
    seen: list[list[LogMessage]] = []
    shares: list[float] = []

    def interrupt(share: float) -> None:
        shares.append(share)
        if share > 0 and len(seen) == 0:
            seen.append(message_log(trt)._recording or [])
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, graph, on_progress=interrupt)
    assert 0 < shares[-1] < 1
    assert any("BuildCanceled" in message.text for message in seen[0])
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    shares.clear()
    build_plan(trt, graph, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["python{own}"], "does not see it: make it again with /usr/bin/python{own} -m venv --sys"),
        (["python3"], "does not see it: make it again with"),
        (["python3.8"], "is installed for python3.8, this is python{own}: make the environment w"),
        ([], "is not installed; on a Jetson it comes with JetPack"),
    ],
)
def test_a_tensorrt_that_this_python_does_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, versions: list[str], expected: str
) -> None:
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for version in versions:
        folder = version.format(own=own)
        (tmp_path / folder / "dist-packages" / "tensorrt").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert expected.format(own=own) in why_no_tensorrt(system=tmp_path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy; numpy.bool_that_went", "too old for this numpy .*pip install 'numpy<1.24'"),
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            r"lacks a library \(libnvinfer.so.10: cannot open .*reinstall TensorRT",
        ),
        ("raise OSError('libcudart.so.12: no such file')", "lacks a library"),
        ("import a_part_that_is_missing", "cannot be imported .*a_part_that_is_missing"),
        ("Builder = object", "nvx is here"),
    ],
)
def test_a_tensorrt_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, expected: str
) -> None:
    (tmp_path / "nvx.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvx", raising=False)
    assert re.search(expected, why_no_tensorrt("nvx"))
    sys.modules.pop("nvx", None)
