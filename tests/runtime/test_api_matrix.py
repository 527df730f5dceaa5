"""Every name and signature of NVIDIA's that we use, held against its real bindings.

TensorRT 10.3.0 is JetPack 6.1 and 6.2, 10.13.3 JetPack 7.0, 10.16.1 nearly JetPack 7.2 (10.16.2),
11.4.0 what comes next. TensorRT 8.6 (JetPack 6.0, best effort) is not covered: its bindings want
more libraries than stand-ins can give.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from runtime.nvidia import Severity
from runtime.sessions.engine_tensors import TRT_DTYPES
from tests.nvidia_bindings import Api, Signature, api_of_module, api_of_wheel
from tests.nvidia_uses import Use, Uses, uses_in

ROOT = Path(__file__).resolve().parents[2]
# `make test-all` downloads them (see the Makefile)
WHEELS = ROOT / ".venv" / "nvidia-bindings"
RELEASES = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
TEN = RELEASES[:3]
RTX = "tensorrt_rtx"
BASE = RELEASES[0]

OURS = [path for room in ("runtime", "export") for path in sorted((ROOT / room).rglob("*.py"))]
SOURCES = [
    path
    for path in OURS
    if re.search(r"\bimport tensorrt\b|runtime.nvidia_types", path.read_text(encoding="utf-8"))
]
# What the code asks for before it uses it, and where it must be there: a name that comes or goes
# elsewhere changes what our code does, so it has to be looked at.
OPTIONAL: dict[tuple[str, str], tuple[str, ...]] = {
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): (*RELEASES, RTX),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): TEN,
    ("BuilderFlag", "INT8"): TEN,
    ("BuilderFlag", "FP16"): TEN,
    ("IBuilderConfig", "progress_monitor"): (*RELEASES, RTX),
    ("IBuilderConfig", "create_timing_cache"): (*RELEASES, RTX),
    ("ParserError", "node_name"): (*RELEASES, RTX),
    ("", "ComputeCapability"): (RTX,),
    ("ComputeCapability", "__members__"): (RTX,),
    ("IBuilderConfig", "num_compute_capabilities"): (RTX,),
    ("IBuilderConfig", "set_compute_capability"): (RTX,),
}
# Names that NVIDIA's classes share with everything else in the world.
ORDINARY = {"name", "shape", "dtype", "precision", "file", "node"}


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Api]:
    """Every release's classes, each read in a process of its own."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheels = {release: list(WHEELS.glob(f"*-{release}-{tag}-*.whl")) for release in RELEASES}
    missing = [release for release, found in wheels.items() if not found]
    if missing:
        pytest.skip(f"TensorRT's bindings {', '.join(missing)} for {tag} are not in {WHEELS.name}")
    scratch = tmp_path_factory.mktemp("bindings")
    return {release: api_of_wheel(found[0], scratch) for release, found in wheels.items()}


@pytest.fixture(scope="module")
def uses(apis: dict[str, Api]) -> Uses:
    return uses_in(SOURCES, apis[BASE])


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_has_all_that_we_use(apis: dict[str, Api], uses: Uses, release: str) -> None:
    assert problems(apis[release], uses.found, release) == []


@pytest.mark.rtx
def test_rtx_has_all_that_we_use(uses: Uses) -> None:
    assert problems(api_of_module(RTX), uses.found, RTX) == []


@pytest.mark.parametrize("release", RELEASES)
def test_names_that_we_compare_as_text(apis: dict[str, Api], release: str) -> None:
    classes = apis[release].classes
    severities = {name for name in classes["ILogger.Severity"] if name.isupper()}
    assert severities == set(get_args(Severity))
    assert TRT_DTYPES.keys() <= classes["DataType"].keys()


def test_what_is_asked_for_is_listed(uses: Uses) -> None:
    asked = {use.key for use in uses.found if use.how == "hasattr" or use.rtx_only}
    used = {use.key for use in uses.found}
    assert asked <= OPTIONAL.keys(), "a new question: say in OPTIONAL which releases have it"
    assert OPTIONAL.keys() <= used, "the code uses this no longer"


def test_no_use_is_overlooked(apis: dict[str, Api], uses: Uses) -> None:
    """An attribute with a name of NVIDIA's, on something whose type is not known."""
    owners = {use.owner for use in uses.found} - {""}
    theirs = {name for owner in owners for name in apis[BASE].classes.get(owner, ())}
    theirs = {name for name in theirs if not name.startswith("__")} - ORDINARY
    overlooked = [f"{name} ({where})" for name, where in uses.unknown if name in theirs]
    assert overlooked == [], "annotate what it is an attribute of"


def test_no_file_is_overlooked() -> None:
    """Who handles the module says so in its types."""
    handling = {path for path in OURS if re.search(r"\btrt\.[A-Z]", path.read_text("utf-8"))}
    assert handling <= set(SOURCES)
    assert ROOT / "runtime" / "sessions" / "trt.py" in handling


def test_the_uses_are_those_of_building_and_running(uses: Uses) -> None:
    """The walk finds what everyone knows to be there; otherwise it proves nothing."""
    found = {(use.owner, use.name, use.how) for use in uses.found}
    assert {
        ("", "Builder", "read"),
        ("Builder", "__init__", "call"),
        ("Builder", "build_serialized_network", "call"),
        ("IBuilderConfig", "progress_monitor", "write"),
        ("IBuilderConfig", "set_timing_cache", "call"),
        ("MemoryPoolType", "WORKSPACE", "read"),
        ("OnnxParser", "parse", "call"),
        ("ParserError", "desc", "call"),
        ("ITensor", "shape", "write"),
        ("ILayer", "type", "read"),
        ("LayerType", "QUANTIZE", "read"),
        ("IProgressMonitor", "step_complete", "override"),
        ("ILogger", "log", "override"),
        ("Runtime", "deserialize_cuda_engine", "call"),
        ("ICudaEngine", "get_tensor_dtype", "call"),
        ("IExecutionContext", "set_tensor_address", "call"),
        ("IExecutionContext", "execute_async_v3", "call"),
    } <= found


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("config.set_flags(1)", "IBuilderConfig has no set_flags"),
        ("config.set_flag()", "IBuilderConfig.set_flag takes no 0 arguments ()"),
        ("config.set_flag(flags=1)", "takes no 0 arguments (flags)"),
        ("trt.Builder()", "Builder.__init__ takes no 0 arguments"),
        ("trt.Biulder", "module has no Biulder"),
        ("config.platform = 1", "IBuilderConfig has no platform"),
        ("trt.MemoryPoolType.WORKSPACES", "MemoryPoolType has no WORKSPACES"),
        ("trt.OnnxParser(config, config).num_errors = 1", "OnnxParser.num_errors cannot be set"),
        ("any(x.typ for x in [config.get_flag(i) for i in y])", ""),
        ("class A(trt.ILogger):\n  def log(self, severity): ...", "takes (severity, msg), ours"),
        ("class A(trt.ILogger):\n  def lag(self, severity, msg): ...", "ILogger has no lag"),
    ],
)
def test_a_wrong_use_is_a_problem(
    apis: dict[str, Api], tmp_path: Path, code: str, problem: str
) -> None:
    path = tmp_path / "wrong.py"
    body = "\n ".join(code.splitlines())
    path.write_text(f"def f(trt: TensorRT, config: nv.IBuilderConfig):\n {body}\n")
    found = problems(apis[BASE], uses_in([path], apis[BASE]).found, BASE)
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_signatures() -> None:
    signature = Signature(("a", "b", "c"), 1, "bool")
    assert signature.takes(1, ())
    assert signature.takes(1, ("c",))
    assert not signature.takes(0, ("b",))
    assert not signature.takes(1, ("a",))
    assert not signature.takes(4, ())


def problems(api: Api, uses: list[Use], release: str) -> list[str]:
    """What a release does not have as we use it."""
    found = []
    for use in uses:
        is_there = api.member(use.owner, use.name) is not None
        if use.key in OPTIONAL:
            if is_there != (release in OPTIONAL[use.key]):
                found.append(f"{use}: {'is' if is_there else 'is not'} in {release}")
                continue
            if not is_there:
                continue
        text = _problem(api, use)
        if text:
            found.append(f"{use}: {text} in {release}")
    return found


def _problem(api: Api, use: Use) -> str:
    member = api.member(use.owner, use.name)
    owner = use.owner or "module"
    if member is None:
        return f"{owner} has no {use.name}"
    if use.how == "write" and not (member["kind"] == "property" and member["settable"]):
        return f"{owner}.{use.name} cannot be set"
    if use.how not in ("call", "override"):
        return ""
    signatures = api.signatures(use.owner, use.name)
    if use.how == "override":
        if any(signature.names == use.keywords for signature in signatures):
            return ""
        names = ", ".join(signatures[0].names) if signatures else "?"
        return f"{owner}.{use.name} takes ({names}), ours ({', '.join(use.keywords)})"
    if any(signature.takes(use.num_positional, use.keywords) for signature in signatures):
        return ""
    given = ", ".join(use.keywords)
    return f"{owner}.{use.name} takes no {use.num_positional} arguments ({given})"
