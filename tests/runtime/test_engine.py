"""The engine cache: what is built, what is trusted, what is refused."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.build_progress import StderrBar
from runtime.bundle import Bundle, load_bundle
from runtime.engine import (
    ANY_GPU,
    Engine,
    EngineKey,
    default_engine_dir,
    engine_for_bundle,
    engine_key,
    load_engine,
)
from runtime.errors import BundleError, EngineError
from runtime.nvidia import find_tensorrt
from runtime.nvidia_types import TensorRT
from runtime.plan import BuildSettings
from runtime.sessions.cuda_memory import DeviceInfo
from runtime.sessions.engine_tensors import check_device
from runtime.sessions.trt import TrtStepSession
from tests.fake_cuda import GPU, Machine
from tests.fake_nvidia import fake_tensorrt, install
from tests.full_disk import full_disk
from tests.mini_bundle import write_manifest, write_mini_bundle

DEVICE = DeviceInfo(GPU, "8.7")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_mini_bundle(tmp_path / "bundle", height_px=8, width_px=8)


@pytest.fixture
def build(machine: Machine, bundle: Bundle, tmp_path: Path) -> Callable[..., Path]:
    def build_engine(precision: Any = "int8", **changes: Any) -> Path:
        arguments: dict[str, Any] = {"trt": _trt(), "device": DEVICE} | changes
        which = arguments.pop("bundle", bundle)
        return engine_for_bundle(which, precision, tmp_path / "engines", **arguments)

    return build_engine


def _trt() -> TensorRT:
    trt = find_tensorrt(("tensorrt",))
    assert trt is not None
    return trt


def _sidecar(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def test_an_engine_is_built_once(build: Callable[..., Path], machine: Machine) -> None:
    built: list[Path] = []
    first = build(on_built=lambda path, _: built.append(path))
    assert build(on_built=lambda path, _: built.append(path)) == first
    assert (machine.builds, built) == (1, [first])
    assert first.name.startswith("mini-int8-n1-emulated-orin-sm87-")
    facts = json.loads(_sidecar(first).read_text())
    assert facts["key"]["library"] == "tensorrt 10.3.0"
    assert facts["plan_bytes"] == first.stat().st_size
    assert first.stat().st_mode & 0o777 == 0o600
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in first.parent.iterdir()) == [".cache", ".json", ".plan"]


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "float32"},
        {"device": DeviceInfo("Another GPU", "8.7")},
        {"device": DeviceInfo(GPU, "8.6")},
        {"settings": BuildSettings(num_streams=2)},
    ],
    ids=str,
)
def test_each_part_of_the_key_makes_another_engine(
    build: Callable[..., Path], machine: Machine, change: dict[str, Any]
) -> None:
    assert build() != build(**change)
    assert machine.builds == 2


def test_another_library_version_makes_another_engine(
    build: Callable[..., Path], machine: Machine
) -> None:
    assert build() != build(trt=fake_tensorrt(machine, "10.13.3"))


def test_another_graph_makes_another_engine(
    build: Callable[..., Path], machine: Machine, tmp_path: Path
) -> None:
    other = write_mini_bundle(tmp_path / "other", height_px=8, width_px=8, seed=1)
    assert build() != build(bundle=other)


def test_rows_come_from_the_bundle_or_the_settings(machine: Machine, tmp_path: Path) -> None:
    bundle = write_mini_bundle(tmp_path / "b", height_px=8, width_px=8, num_streams=3)
    assert engine_key(bundle, "int8", _trt(), DEVICE).num_streams == 3
    settings = BuildSettings(num_streams=2)
    assert engine_key(bundle, "int8", _trt(), DEVICE, settings=settings).num_streams == 2


def _change_plan(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[-1] ^= 1
    plan.write_bytes(data)


def _drop_sidecar(plan: Path) -> None:
    _sidecar(plan).unlink()


def _break_sidecar(plan: Path) -> None:
    _sidecar(plan).write_text("{")


def _old_sidecar(plan: Path) -> None:
    facts = json.loads(_sidecar(plan).read_text()) | {"sidecar_version": 0}
    _sidecar(plan).write_text(json.dumps(facts))


def _other_key(plan: Path) -> None:
    facts = json.loads(_sidecar(plan).read_text())
    facts["key"]["library"] = "tensorrt 10.0.0"
    _sidecar(plan).write_text(json.dumps(facts))


def _writable_by_all(plan: Path) -> None:
    plan.chmod(0o666)


def _sidecar_writable_by_all(plan: Path) -> None:
    _sidecar(plan).chmod(0o622)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (_change_plan, "has changed since it was built"),
    (_drop_sidecar, "cannot be read"),
    (_break_sidecar, "cannot be read"),
    (_old_sidecar, "sidecar_version must be 1"),
    (_other_key, "is refused: built by tensorrt 10.0.0, this is tensorrt 10.3.0; delete it"),
    (_writable_by_all, "can be written by others"),
    (_sidecar_writable_by_all, "can be written by others"),
]


@pytest.mark.parametrize(("damage", "match"), DAMAGES, ids=[d[0].__name__ for d in DAMAGES])
def test_a_doubtful_engine_is_refused_and_built_anew(
    build: Callable[..., Path],
    machine: Machine,
    bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    match: str,
) -> None:
    plan = build()
    key = engine_key(bundle, "int8", _trt(), DEVICE)
    damage(plan)
    with pytest.raises(EngineError, match=match):
        load_engine(plan, key)
    with caplog.at_level(logging.WARNING):
        assert build() == plan
    assert "building the engine anew: " in caplog.text
    assert machine.builds == 2
    assert load_engine(plan, key).key == key


def test_another_users_plan_is_foreign(
    build: Callable[..., Path], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build()
    monkeypatch.setattr(os, "geteuid", lambda: plan.stat().st_uid + 1)
    with pytest.raises(EngineError, match="belongs to user .* only your own is run"):
        load_engine(plan)
    with pytest.raises(EngineError, match="only your own is run"):
        TrtStepSession(bundle, plan, graph_kind="step_int8")


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="run `make engine`"):
        load_engine(tmp_path / "none.plan")


def test_the_session_refuses_another_graphs_plan(
    build: Callable[..., Path], machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="built from the int8 graph, not float32"):
        TrtStepSession(bundle, build(), graph_kind="step")
    other = write_mini_bundle(tmp_path / "other", height_px=8, width_px=8, seed=1)
    with pytest.raises(EngineError, match="built from another bundle's int8 graph, or an older"):
        TrtStepSession(other, build(), graph_kind="step_int8")
    machine.check_clean()


def test_the_session_refuses_another_versions_plan(
    build: Callable[..., Path], machine: Machine, bundle: Bundle
) -> None:
    newer = fake_tensorrt(machine, "10.16.2")
    with pytest.raises(EngineError, match=r"built by tensorrt 10.3.0, this is tensorrt 10.16.2"):
        TrtStepSession(bundle, build(), graph_kind="step_int8", trt=newer)


def test_every_refusal_has_its_reason(machine: Machine, bundle: Bundle) -> None:
    key = engine_key(bundle, "int8", _trt(), DEVICE)
    assert key.refusals(key) == []
    for change, reason in (
        ({"gpu": "Thor"}, "built for GPU Thor (8.7), this is Emulated Orin (8.7)"),
        ({"compute_capability": "8.6"}, "built for GPU Emulated Orin (8.6), this is"),
        ({"library": "tensorrt 8.6.2"}, "built by tensorrt 8.6.2, this is tensorrt 10.3.0"),
        ({"precision": "float32"}, "built from the float32 graph, not int8"),
        ({"graph_sha256": "0" * 64}, "built from another bundle's int8 graph, or an older one"),
        ({"num_streams": 4}, "built for 4 stream(s), not 1"),
        ({"strongly_typed": False}, "built with weak typing, not strong"),
    ):
        (found,) = replace(key, **change).refusals(key)
        assert found.startswith(reason)
    both = replace(key, num_streams=2, library="tensorrt 11.4.0")
    with pytest.raises(EngineError, match=r"built by tensorrt 11.4.0, .*; built for 2 stream"):
        Engine(Path("x.plan"), b"", both).require_fit(key)


def test_a_second_builder_waits_and_takes_the_first_ones_engine(
    build: Callable[..., Path], machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def hold(share: float) -> None:
        begun.set()
        may_end.wait(10)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(build, on_progress=hold)
        assert begun.wait(10)
        built: list[Path] = []
        second = pool.submit(build, on_built=lambda path, _: built.append(path))
        while "waiting for it" not in caplog.text:
            assert not second.done()
            time.sleep(0.01)
        may_end.set()
        assert second.result(10) == first.result(10)
    assert (machine.builds, built) == (1, [])
    assert not list(first.result().parent.glob(".*"))


def test_a_lock_of_a_dead_process_holds_nobody(build: Callable[..., Path], tmp_path: Path) -> None:
    plan = build()
    plan.unlink()
    code = (
        "import os, sys; from pathlib import Path; from runtime.build_lock import build_lock\n"
        "with build_lock(Path(sys.argv[1])): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(plan)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert list(plan.parent.glob(".*.lock"))
    assert build() == plan
    assert not list(plan.parent.glob(".*.lock"))


def test_a_weak_engine_is_kept_and_found_again(
    build: Callable[..., Path], machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.strong_error = "Could not find any implementation for node /conv"
    plan = build()
    assert "once more with weak typing" in caplog.text
    assert load_engine(plan).key.strongly_typed is False
    assert machine.builds == 2
    assert build() == plan, "no second failure at the next start"
    assert machine.builds == 2
    machine.strong_error = ""
    strong = build(settings=BuildSettings(typing="strong"))
    assert load_engine(strong).key.strongly_typed is True
    assert strong != plan


def test_the_workspace_follows_the_gpus_memory(
    build: Callable[..., Path], machine: Machine
) -> None:
    build()
    build("float32", device=replace(DEVICE, total_bytes=5 << 30))
    build("float32", settings=BuildSettings(workspace_mb=77, num_streams=2))
    assert [workspace >> 20 for _, _, workspace in machine.attempts[1:]] == [320, 77]


def test_a_changed_graph_is_not_built(build: Callable[..., Path], bundle: Bundle) -> None:
    bundle.graph_path("step_int8").write_bytes(b"something else")
    with pytest.raises(EngineError, match="has changed since it was exported"):
        build()


def test_no_such_graph(build: Callable[..., Path], bundle: Bundle) -> None:
    without = replace(bundle, graphs={"step": bundle.graph("step")})
    write_manifest(without)
    with pytest.raises(BundleError, match="no step_int8 graph"):
        build(bundle=load_bundle(bundle.folder))


def test_an_interrupted_build_leaves_nothing(build: Callable[..., Path], tmp_path: Path) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(on_progress=interrupt)
    assert list((tmp_path / "engines").glob("*")) == []
    assert build().is_file()


def test_a_full_disk_leaves_no_half_engine(build: Callable[..., Path], tmp_path: Path) -> None:
    """A real failed write: for a moment this process may write no file longer than 1000 bytes."""
    refused = pytest.raises(EngineError, match=r"\d MB\) cannot be written into .*--engine-dir")
    with full_disk(1000), refused:
        build()
    assert list((tmp_path / "engines").iterdir()) == []
    assert build().stat().st_size > 1000


def test_a_sidecar_without_room_takes_its_plan_along(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runtime.engine.write_json", _no_room)
    with pytest.raises(EngineError, match=r"No space left on device; make room"):
        build()
    assert list((tmp_path / "engines").iterdir()) == []


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_written_is_refused_before_the_build(
    build: Callable[..., Path], machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(EngineError, match=r"engines cannot be (made|written).*--engine-dir"):
        build()
    assert machine.builds == 0


def test_timings_are_kept_and_used(
    build: Callable[..., Path], tmp_path: Path, machine: Machine
) -> None:
    build()
    (cache,) = (tmp_path / "engines").glob("timing-tensorrt-10.3.0-emulated-orin-8.7.cache")
    assert cache.read_bytes() == b"timings"
    cache.write_bytes(b"of another library")
    build("float32")
    assert cache.read_bytes() == b"timings"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/tdrl-edge/engines"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/tdrl-edge/engines"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/tdrl-edge/engines"),
    ],
)
def test_the_default_folder(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_engine_dir() == Path(expected)


def test_file_names_are_plain() -> None:
    key = EngineKey(
        gpu="NVIDIA Thor (x/../y)",
        compute_capability="11.0",
        library="tensorrt 10.13.3",
        precision="int8",
        num_streams=4,
        graph_sha256="ab" * 32,
    )
    name = key.file_name("Äpfel & birnen")
    assert re.fullmatch(r"[a-z0-9.-]+-sm110-[0-9a-f]{12}\.plan", name)


def test_rtx_plans_fit_every_gpu_of_a_compute_capability(tmp_path: Path) -> None:
    key = EngineKey(
        gpu=ANY_GPU,
        compute_capability="8.9",
        library="tensorrt_rtx 1.7.1",
        precision="int8",
        num_streams=1,
        graph_sha256="ab" * 32,
    )
    engine = Engine(tmp_path / "x.plan", b"", key)
    check_device(engine, DeviceInfo("Any RTX 40", "8.9"))
    with pytest.raises(EngineError, match=r"built for GPU any \(8.9\), this is any \(8.6\)"):
        check_device(engine, DeviceInfo("Any RTX 30", "8.6"))


def test_doubtful_timings_are_not_used(build: Callable[..., Path], tmp_path: Path) -> None:
    build()
    (cache,) = (tmp_path / "engines").glob("*.cache")
    cache.chmod(0o666)
    assert build("float32").is_file()
    assert cache.stat().st_mode & 0o777 == 0o600


class _Terminal:
    def __init__(self, *, is_terminal: bool) -> None:
        self.text = ""
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_the_bar_ends_its_line_once() -> None:
    out: Any = _Terminal(is_terminal=True)
    with StderrBar("building", out) as bar:
        bar(0.5)
        bar(1.0)
    assert out.text.count("\n") == 1
    assert "###############..............." in out.text
    assert "building  50%" in out.text


def test_no_bar_in_a_log() -> None:
    out: Any = _Terminal(is_terminal=False)
    with StderrBar("building", out) as bar:
        bar(0.5)
        bar(1.0)
    assert out.text == ""
