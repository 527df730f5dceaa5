"""`make engine` in its three worlds: TensorRT with a GPU, RTX without one, and neither."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.engines.jobs import Target, targets_here
from export.proof.session import Opener
from export.to_engine import main
from runtime.bundle import GOLDEN, Bundle
from runtime.command import run_command
from runtime.engine import load_engine
from runtime.sessions.cuda_memory import DeviceInfo
from tests.fake_nvidia import fake_tensorrt, install
from tests.mini_bundle import write_manifest, write_mini_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_mini_bundle(tmp_path / "bundle", height_px=8, width_px=8, fp16=True)


@pytest.fixture
def without_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)


def _run(bundle: Bundle, engine_dir: Path, *more: str) -> int:
    arguments = ["--bundle", str(bundle.folder), "--engine-dir", str(engine_dir), *more]
    return run_command(lambda: main(arguments))


def test_on_a_device(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch)
    assert _run(bundle, tmp_path / "engines") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("golden check passed" in line for line in lines) == 3
    assert sum("a step takes" in line for line in lines) == 3
    assert "fastest: " in lines[-1]
    assert "runtime/stream.py" in lines[-1]
    assert machine.builds == 3
    machine.check_clean()
    assert _run(bundle, tmp_path / "engines", "--precision", "int8") == 0
    assert "from the cache" in capsys.readouterr().out
    assert _run(bundle, tmp_path / "engines", "--precision", "float16") == 0
    assert "float16 for " in capsys.readouterr().out


def test_an_engine_that_fails_the_golden_check(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch)
    _spoil_golden(bundle)
    assert _run(bundle, tmp_path / "engines", "--precision", "float32") == 1
    out, err = capsys.readouterr()
    assert "fastest" not in out
    assert "no engine works" in err


@pytest.mark.rtx
def test_with_rtx_and_no_gpu(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    more = ("--compute-capability", "SM86", "8.9", "--precision", "int8")
    assert _run(bundle, tmp_path / "engines", *more) == 0
    out = capsys.readouterr().out
    assert "kernels" in out
    plans = sorted((tmp_path / "engines").glob("*.plan"))
    keys = [load_engine(plan).key for plan in plans]
    assert sorted(key.compute_capability for key in keys) == ["8.6", "8.9"]
    assert {key.gpu for key in keys} == {"any"}
    assert _run(bundle, tmp_path / "engines", "--compute-capability", "SM87") == 1
    assert "compute_capability must be one of" in capsys.readouterr().err


@pytest.mark.usefixtures("without_nvidia")
def test_without_nvidia(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(bundle, tmp_path / "engines") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no TensorRT here")
    assert sum("golden check passed" in line for line in lines) == 3
    assert not (tmp_path / "engines").exists()


@pytest.mark.usefixtures("without_nvidia")
def test_a_bad_bundle_fails_without_nvidia(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoil_golden(bundle)
    assert _run(bundle, tmp_path) == 1
    assert "error: self-test failed" in capsys.readouterr().err


def test_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.to_engine.default_bundle", lambda: tmp_path / "none")
    assert run_command(lambda: main([])) == 1
    err = capsys.readouterr().err
    assert "run `make demo` or pass --bundle" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.6.2", [(0b01, set()), (0b01, {"FP16"}), (0b01, {"INT8"})]),
        ("10.3.0", [(0b10, set())] * 3),
        ("11.4.0", [(0b01, set())] * 3),
    ],
)
def test_one_path_for_every_generation(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    flags: list[tuple[int, set[str]]],
) -> None:
    """Weak typing with the flags that a graph needs on 8, strong typing from 10 on."""
    machine = install(monkeypatch, version)
    assert _run(bundle, tmp_path / "engines") == 0
    assert capsys.readouterr().out.count(f"golden check passed: tensorrt {version} on ") == 3
    assert [(tried[0], tried[1]) for tried in machine.attempts] == flags
    machine.check_clean()
    keys = [load_engine(plan).key for plan in (tmp_path / "engines").glob("*.plan")]
    assert {key.strongly_typed for key in keys} == {version != "8.6.2"}


def test_prebuild_builds_every_engine_and_nothing_else(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch)
    _spoil_golden(bundle)  # nobody looks at it
    assert _run(bundle, tmp_path / "engines", "--prebuild", "--streams", "1", "3", "1") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"6 engines in {tmp_path / 'engines'}"
    assert "golden check" not in out
    assert machine.executions == []
    keys = [load_engine(plan).key for plan in (tmp_path / "engines").glob("*.plan")]
    built = sorted((key.precision, key.num_streams) for key in keys)
    assert built == [(name, n) for name in ("float16", "float32", "int8") for n in (1, 3)]
    assert _run(bundle, tmp_path / "engines", "--prebuild", "--streams", "1", "3") == 0
    assert machine.builds == 6


def test_prebuild_goes_on_after_a_failure_and_fails(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch)
    machine.build_errors = ["Could not find any implementation", "nor for this"]
    assert _run(bundle, tmp_path / "engines", "--prebuild") == 1
    assert len(list((tmp_path / "engines").glob("*.plan"))) == 2
    assert "1 of 3 engines not built: float32 for Emulated Orin SM87: " in capsys.readouterr().err


@pytest.mark.usefixtures("without_nvidia")
def test_prebuild_without_nvidia(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(bundle, tmp_path, "--prebuild") == 1
    assert "error: nothing can be built here: tensorrt is not installed" in capsys.readouterr().err


def test_list_says_what_fits_and_why_not(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engines = tmp_path / "engines"
    other = write_mini_bundle(tmp_path / "other", height_px=8, width_px=8, seed=1)
    with monkeypatch.context() as older:
        install(older, "10.0.1")
        assert _run(bundle, engines, "--prebuild", "--precision", "int8") == 0
    machine = install(monkeypatch)
    assert _run(other, engines, "--prebuild", "--precision", "int8", "--streams", "2") == 0
    assert _run(bundle, engines, "--prebuild", "--streams", "2") == 0
    broken = engines / "broken.plan"
    broken.write_bytes(b"")
    (engines / ".half.1.part.plan").write_bytes(b"")
    builds = machine.builds
    capsys.readouterr()
    assert _run(bundle, engines, "--list", "--streams", "2", "--precision", "int8") == 0
    lines = capsys.readouterr().out.splitlines()
    verdicts = sorted(line.split("  ", 2)[-1].replace("  ", " ") for line in lines[:-1])
    mine = "2 stream(s), Emulated Orin 8.7, tensorrt 10.3.0"
    assert verdicts == sorted(
        [
            f"refused: {broken}.json cannot be read (No such file or directory); run `make engine`",
            f"float16, {mine} refused: built from the float16 graph, not int8",
            f"float32, {mine} refused: built from the float32 graph, not int8",
            f"int8, {mine} fits",
            f"int8, {mine} refused: built from another bundle's int8 graph, or an older one",
            "int8, 1 stream(s), Emulated Orin 8.7, tensorrt 10.0.1 refused: built by tensorrt "
            "10.0.1, this is tensorrt 10.3.0; built for 1 stream(s), not 2",
        ]
    )
    assert lines[-1] == f"6 engines in {engines}, 1 fit the bundle and this machine"
    assert machine.builds == builds


@pytest.mark.usefixtures("without_nvidia")
def test_list_without_nvidia(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        assert _run(bundle, tmp_path, "--prebuild", "--precision", "int8") == 0
    assert _run(bundle, tmp_path, "--list") == 0
    assert "refused: nothing here to run it: no TensorRT or no GPU" in capsys.readouterr().out


def test_layer_tables_go_where_they_are_wanted(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch)
    wanted = tmp_path / "tables" / "layers.md"
    for more in ((), ("--precision", "int8")):  # built, and from the cache
        more = (*more, "--prebuild", "--layers", str(wanted))
        assert _run(bundle, tmp_path / "engines", *more) == 0
    names = {path.name for path in wanted.parent.iterdir()}
    each = {f"layers-{name}" for name in ("float16", "float32", "int8")} | {"layers"}
    assert names == {f"{name}.{kind}" for name in each for kind in ("md", "json")}
    assert wanted.read_text().startswith("# Layers of mini-int8-n1-emulated-orin-sm87-")
    assert f"layer table: {wanted}" in capsys.readouterr().out
    for table in (tmp_path / "engines").glob("*.layers.*"):
        table.unlink()
    assert _run(bundle, tmp_path / "engines", "--layers", str(wanted)) == 0
    out = capsys.readouterr().out
    assert out.count("warning: no layer table beside ") == 3
    assert "fastest: " in out.splitlines()[-1]


def test_every_compute_capability_has_its_own_layer_table(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = install(monkeypatch)
    targets = [
        Target(fake_tensorrt(machine), DeviceInfo("any", name), is_here=False)
        for name in ("8.6", "8.9")
    ]
    monkeypatch.setattr("export.to_engine.targets_here", lambda _: tuple(targets))
    more = ("--precision", "int8", "--layers", str(tmp_path / "tables" / "layers.md"))
    for mode in ((), ("--prebuild",)):
        assert _run(bundle, tmp_path / "engines", *more, *mode) == 0
        for name in ("sm86", "sm89"):
            table = tmp_path / "tables" / f"layers-int8-{name}.md"
            assert f"-{name}-" in table.read_text().splitlines()[0]
            table.unlink()


def test_an_engine_that_verify_built_has_its_layer_table(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch)
    with Opener(bundle, "tensorrt", tmp_path / "engines").open("int8", 1, 1):
        pass
    wanted = tmp_path / "layers.md"
    more = ("--precision", "int8", "--streams", "1", "--layers", str(wanted))
    assert _run(bundle, tmp_path / "engines", *more) == 0
    assert machine.builds == 1
    assert f"layer table: {wanted}" in capsys.readouterr().out


@pytest.mark.parametrize("gpu", [True, False])
def test_compute_capabilities_without_rtx(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gpu: bool,
) -> None:
    machine = install(monkeypatch)
    missing = ("tensorrt_rtx",) if gpu else ("tensorrt_rtx", "tensorrt", "pycuda")
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert _run(bundle, tmp_path / "engines", "--compute-capability", "SM89") == 1
    assert "error: --compute-capability needs tensorrt_rtx" in capsys.readouterr().err
    assert machine.builds == 0


@pytest.mark.rtx
def test_compute_capabilities_are_for_rtx_where_tensorrt_is_here_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch)
    assert [target.device.compute_capability for target in targets_here(["SM89"])] == ["8.9"]
    assert [target.trt.__name__ for target in targets_here(None)] == ["tensorrt"]


def test_a_gpu_whose_tensorrt_is_not_seen(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It never falls to the CPU by itself."""
    install(monkeypatch)
    monkeypatch.setattr("export.engines.jobs.has_nvidia_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert _run(bundle, tmp_path) == 1
    err = capsys.readouterr().err
    assert "an NVIDIA GPU is here, but tensorrt is not installed; on a Jetson" in err
    assert "export.verify --backend ort" in err
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert _run(bundle, tmp_path) == 1
    assert "error: pycuda cannot be imported" in capsys.readouterr().err


def test_a_typing_that_the_library_does_not_know(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch)
    assert _run(bundle, tmp_path, "--typing", "weak", "--precision", "int8") == 0
    assert "weakly typed" in capsys.readouterr().out
    assert [flags for flags, _, _ in machine.attempts] == [0b01]
    sys.modules["tensorrt"].BuilderFlag = type("Flags11", (), {})  # type: ignore[attr-defined]
    assert _run(bundle, tmp_path, "--typing", "weak") == 1
    assert "has no weak typing; pass --typing strong" in capsys.readouterr().err


@pytest.mark.rtx
def test_ctrl_c_in_nvidias_real_build_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    from tests.qdq_graphs import QdqRule, qdq_step_graph

    big = qdq_step_graph(QdqRule(blocks=96, channels=64, size_px=96))
    onnx.save(big, bundle.graph_path("step_int8"))
    write_manifest(bundle)
    engines = tmp_path / "engines"
    command = ("--bundle", str(bundle.folder), "--engine-dir", str(engines), "--precision", "int8")
    run = subprocess.Popen(
        [sys.executable, "-m", "export.to_engine", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while run.poll() is None and not list(engines.glob(".*.lock")):
        time.sleep(0.02)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, out + err
    assert err.splitlines()[-1] == "interrupted", out + err
    assert list(engines.iterdir()) == []


# A device has neither of them, nor the training rooms.
NOT_ON_A_DEVICE = """
import sys
for name in [*sys.modules, "torch", "onnx", "train", "calib", "pytorch_lightning"]:
    if name.split(".")[0] in ("torch", "onnx", "train", "calib", "pytorch_lightning"):
        sys.modules[name] = None
from export.to_engine import main
"""
EMULATED = """
import pytest
from tests.fake_nvidia import install
install(pytest.MonkeyPatch())
"""


@pytest.mark.parametrize(
    ("before", "result"),
    [
        pytest.param(EMULATED, "fastest: ", id="emulated device"),
        pytest.param("", "copy the bundle", id="rtx", marks=pytest.mark.rtx),
    ],
)
def test_engines_are_built_without_torch_and_onnx(
    bundle: Bundle, tmp_path: Path, before: str, result: str
) -> None:
    arguments = ["--bundle", str(bundle.folder), "--engine-dir", str(tmp_path / "engines")]
    code = f"{before}{NOT_ON_A_DEVICE}sys.exit(main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert result in done.stdout.splitlines()[-1]
    tables = list((tmp_path / "engines").glob("*.layers.md"))
    assert len(tables) == 3
    assert all("Without onnx the reasons" in table.read_text() for table in tables)


def test_runs_without_torch(bundle: Bundle, tmp_path: Path) -> None:
    """A device has no torch, no onnx and none of the training room."""
    blocked = ("torch", "onnx", "train", "calib", "pytorch_lightning", "tensorrt_rtx", "pycuda")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from export.to_engine import main\n"
        f"sys.exit(main(['--bundle', {str(bundle.folder)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "is good" in done.stdout


def _spoil_golden(bundle: Bundle) -> None:
    path = bundle.folder / GOLDEN
    with np.load(path) as arrays:
        spoilt = {name: arrays[name] for name in arrays.files}
    spoilt["logits"] = -spoilt["logits"]
    np.savez(path, **spoilt)
    write_manifest(bundle)
