"""Every function of cuda-bindings that we use, held against the real packages; no GPU is needed.

12.9 is for JetPack 6, 13 for JetPack 7. The packages load without a driver: names, arguments and
results can be looked at, and every call reports that there is no driver.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda import Machine
from tests.fake_cudart import fake_cudart

ROOT = Path(__file__).resolve().parents[2]
# `make test-all` downloads them (see the Makefile)
WHEELS = ROOT / ".venv" / "nvidia-bindings"
RELEASES = ("12.9.10", "13.5.0")
SOURCES = [
    path
    for path in sorted((ROOT / "runtime" / "sessions").glob("*.py"))
    if "cuda.bindings" in path.read_text(encoding="utf-8")
    or "import Cudart" in path.read_text(encoding="utf-8")
]
PROPERTIES = {"name", "major", "minor", "totalGlobalMem", "integrated"}

# What the child process prints of the package: arguments and results of every function, members of
# every enum. Functions are called with integers, as our code does; none finds a device.
DESCRIBE = """
import json, sys
from cuda.bindings import runtime

names, functions = json.loads(sys.argv[1]), {}
classes = {name: value for name, value in vars(runtime).items() if isinstance(value, type)}
members = {"": dir(runtime)} | {name: dir(value) for name, value in classes.items()}
special = {
    "cudaMemcpyAsync": (256, 512, 4, runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice, 9),
    "cudaStreamBeginCapture": (
        9, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
    "cudaGetErrorString": (runtime.cudaError_t(35),),
}
for name, count in names:
    if name in classes or not callable(getattr(runtime, name, None)):
        continue  # a number, or missing
    result = getattr(runtime, name)(*special.get(name, [0] * count))
    assert isinstance(result[0], runtime.cudaError_t), result
    functions[name] = len(result)
print(json.dumps({"functions": functions, "members": members}))
"""
OPEN = """
from runtime.errors import SessionError
from runtime.sessions.cuda_memory import require_cuda_device
from runtime.sessions.cudart_memory import CudartMemory
for start in (CudartMemory, require_cuda_device):
    try:
        start()
    except SessionError as err:
        print(err)
"""


@pytest.fixture(scope="module", params=RELEASES)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one release and what it imports."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheels = [*WHEELS.glob(f"cuda_bindings-{request.param}-{tag}-*.whl")]
    wheels += WHEELS.glob("cuda_pathfinder-*.whl")
    if len(wheels) != 2:
        pytest.skip(f"cuda-bindings {request.param} for {tag} is not in {WHEELS.name}")
    folder = tmp_path_factory.mktemp("bindings")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def run_python(package: Path, code: str, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT}",
        "CUDA_VISIBLE_DEVICES": "",  # calls with made-up addresses must not reach a GPU
    }
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def uses() -> tuple[set[tuple[str, int]], set[str]]:
    """Calls as (name, number of arguments), numbers among them, and every name used."""
    calls, names = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _is_theirs(node):
                names.add(_name(node))
            if isinstance(node, ast.Call):
                # `function(…)`, or `call(what, function, …)`
                for place, argument in enumerate([node.func, *node.args]):
                    if _is_theirs(argument):
                        calls.add((_name(argument), len(node.args) - place))
    return calls, names


def _is_theirs(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr.startswith("cuda")


def _name(node: ast.AST) -> str:
    assert isinstance(node, ast.Attribute)
    return node.attr


def test_the_uses_are_those_of_memory_and_graphs() -> None:
    """The walk finds what everyone knows to be there; otherwise it proves nothing."""
    calls, names = uses()
    assert {
        ("cudaMalloc", 1),
        ("cudaFree", 1),
        ("cudaHostAlloc", 2),
        ("cudaHostGetDevicePointer", 2),
        ("cudaMemcpyAsync", 5),
        ("cudaStreamBeginCapture", 2),
        ("cudaStreamEndCapture", 1),
        ("cudaGraphInstantiate", 2),
        ("cudaGraphLaunch", 2),
        ("cudaGraphExecDestroy", 1),
        ("cudaGraphDestroy", 1),
    } <= calls
    assert {"cudaSuccess", "cudaMemcpyDeviceToDevice", "cudaHostAllocMapped"} <= names


def test_a_release_has_all_that_we_use(package: Path) -> None:
    calls, names = uses()
    found = json.loads(run_python(package, DESCRIBE, json.dumps(sorted(calls))))
    there = {name for members in found["members"].values() for name in members}
    assert names <= there
    assert set(found["members"]["cudaDeviceProp"]) >= PROPERTIES
    for name, num_results in found["functions"].items():
        assert num_results == 1 + stand_in_gives_something(name), name


def test_a_wrong_number_of_arguments_is_caught(package: Path) -> None:
    with pytest.raises(AssertionError, match="TypeError"):
        run_python(package, DESCRIBE, json.dumps([("cudaGraphLaunch", 3)]))


def stand_in_gives_something(name: str) -> bool:
    """Whether the emulated device's function gives a result besides the code."""
    functions: Any = inspect.getclosurevars(getattr(fake_cudart(Machine()), name)).nonlocals
    annotation = inspect.signature(getattr(functions["functions"], name)).return_annotation
    return bool(annotation != "None")


def test_without_a_gpu_our_code_says_so(package: Path) -> None:
    for line in run_python(package, OPEN).splitlines():
        assert line.startswith("CUDA does not start: ")
        assert "driver" in line
        assert "nvidia-smi" in line
