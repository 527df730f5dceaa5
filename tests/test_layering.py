"""Who may know whom: `runtime` knows no other room, and nothing that a device does not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import runtime
names = [module.name for module in pkgutil.walk_packages(runtime.__path__, "runtime.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


def in_fresh_interpreter(code: str) -> list[list[str]]:
    import json

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded: list[list[str]] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def runtime_modules() -> tuple[list[str], set[str]]:
    names, loaded = in_fresh_interpreter(IMPORT_ALL)
    return names, {name.split(".")[0] for name in loaded}


def test_every_runtime_module_was_imported(runtime_modules):
    names, _ = runtime_modules
    files = {path.stem for path in (ROOT / "runtime").rglob("*.py")} - {"__init__"}
    assert files == {name.split(".")[-1] for name in names} - {
        "recordings",
        "sources",
        "sessions",
        "web",
    }


@pytest.mark.parametrize(
    "name",
    ["torch", "train", "export", "calib", "onnx", "matplotlib", "pytorch_lightning", "av", "tests"],
)
def test_the_runtime_knows_no_other_room_and_no_training_library(runtime_modules, name):
    assert name not in runtime_modules[1]


@pytest.mark.parametrize(
    "name", ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda", "cuda"]
)
def test_engines_are_imported_where_they_are_used(runtime_modules, name):
    assert name not in runtime_modules[1]


def test_no_module_is_called_like_one_of_the_standard_library():
    # `python runtime/stream.py` puts runtime/ on the path for a moment
    names = {path.stem for path in (ROOT / "runtime").glob("*.py")} - {"__init__"}
    assert not names & sys.stdlib_module_names
    assert not names & {"numpy", "cv2", "onnxruntime", "tensorrt", "torch", "onnx"}
