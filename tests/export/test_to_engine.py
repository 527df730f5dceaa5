"""`make engine` in its three worlds: TensorRT with a GPU, RTX without one, and neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.to_engine import main
from runtime.bundle import GOLDEN, Bundle
from runtime.command import run_command
from runtime.engine import load_engine
from tests.fake_nvidia import install
from tests.mini_bundle import write_manifest, write_mini_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_mini_bundle(tmp_path / "bundle", height_px=8, width_px=8)


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
    assert sum("golden check passed" in line for line in lines) == 2
    assert sum("a step takes" in line for line in lines) == 2
    assert "fastest: " in lines[-1]
    assert "runtime/stream.py" in lines[-1]
    assert machine.builds == 2
    machine.check_clean()
    assert _run(bundle, tmp_path / "engines", "--precision", "int8") == 0
    assert "from the cache" in capsys.readouterr().out


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
    assert sum("golden check passed" in line for line in lines) == 2
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
