"""NVIDIA's real Python bindings of one release, made importable without its libraries.

The binding wheels miss nine C functions of three libraries, of which stand-ins that do nothing are
compiled here. Every class, enum and signature of that very release can then be read; nothing runs.
A process can load one release only, so each is read in its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING = re.compile(
    r"\bU (\w+_INTERNAL|get\w*PluginRegistry|getNvOnnxParserVersion|initLibNvInferPlugins)$", re.M
)
LIBRARY = re.compile(r"\[(libnv[^]]+)\]")
SIGNATURE = re.compile(r"(?m)^(?:\d+\. )?\w+\((?P<arguments>.*)\) -> (?P<returns>.+)$")
GETTER = re.compile(r"-> (?P<returns>.+)$")

# What the child process prints: members of every class, nested ones by their dotted name.
DESCRIBE = """
import importlib, importlib.util, inspect, json, sys
if sys.argv[1].endswith(".so"):
    spec = importlib.util.spec_from_file_location("tensorrt_bindings.tensorrt", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
else:
    module = importlib.import_module(sys.argv[1])

def member(value):
    if isinstance(value, property):
        doc = (value.fget.__doc__ or "") if value.fget else ""
        return {"kind": "property", "doc": doc, "settable": value.fset is not None}
    if callable(value) and not inspect.isclass(value):
        return {"kind": "method", "doc": value.__doc__ or "", "settable": False}
    return {"kind": "value", "doc": "", "settable": False}

classes = {}
def describe(cls, name):
    classes[name] = {m: member(inspect.getattr_static(cls, m)) if m != "__init__" else
                     member(cls.__init__) for m in dir(cls)}
    for m in dir(cls):
        inner = getattr(cls, m)
        if inspect.isclass(inner) and not m.startswith("_") and inner is not cls:
            describe(inner, name + "." + m)
for name in dir(module):
    if inspect.isclass(getattr(module, name)) and not name.startswith("_"):
        describe(getattr(module, name), name)
print(json.dumps(classes))
"""


@dataclass(frozen=True)
class Signature:
    """How a method may be called: names in order, without `self`, and how many have no default."""

    names: tuple[str, ...]
    num_required: int
    returns: str

    def takes(self, num_positional: int, keywords: Sequence[str]) -> bool:
        """Whether a call with these arguments is one of this signature."""
        by_position = self.names[:num_positional]
        given = {*by_position, *keywords}
        return (
            num_positional <= len(self.names)
            and len(given) == num_positional + len(keywords)
            and given <= set(self.names)
            and set(self.names[: self.num_required]) <= given
        )


class Api:
    """The classes of one release.

    Args:
        classes: What the child process printed.
    """

    def __init__(self, classes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        self.classes = classes

    def member(self, owner: str, name: str) -> Mapping[str, Any] | None:
        """A class's member, None if it has none of the name; `owner` is empty for the module."""
        if not owner:
            return {"kind": "class"} if name in self.classes else None
        return self.classes.get(owner, {}).get(name)

    def signatures(self, owner: str, name: str) -> list[Signature]:
        """All ways to call a method."""
        found = self.member(owner, name)
        return [] if found is None else [_signature(m) for m in SIGNATURE.finditer(found["doc"])]

    def returns(self, owner: str, name: str) -> str | None:
        """Class that a method or property gives, where its documentation names one."""
        found = self.member(owner, name)
        if found is None:
            return None
        match = (GETTER if found["kind"] == "property" else SIGNATURE).search(found.get("doc", ""))
        return None if match is None else match["returns"].strip().split(".")[-1]


def api_of_wheel(wheel: Path, scratch: Path) -> Api:
    """Read the bindings in a wheel.

    Args:
        wheel: A `tensorrt-cu12-bindings` or `tensorrt-cu13-bindings` wheel for this Python.
        scratch: Folder for unpacked and compiled files.
    """
    with zipfile.ZipFile(wheel) as archive:
        module = Path(archive.extract("tensorrt_bindings/tensorrt.so", scratch / wheel.stem))
    libraries = scratch / wheel.stem / "lib"
    libraries.mkdir()
    undefined = _output("nm", "-D", "--undefined-only", str(module))
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in MISSING.findall(undefined))
    for name in LIBRARY.findall(_output("readelf", "-d", str(module))):
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(libraries / name)]
        subprocess.run(["gcc", *flags, "-xc", "-"], input=source, text=True, check=True)
    return _described(str(module), {"LD_LIBRARY_PATH": str(libraries)})


def api_of_module(name: str) -> Api:
    """Read an installed module, as `tensorrt_rtx`."""
    return _described(name, {})


def _described(what: str, environment: Mapping[str, str]) -> Api:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DESCRIBE, what],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Api(json.loads(done.stdout))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _signature(match: re.Match[str]) -> Signature:
    arguments = [text for text in _split(match["arguments"]) if text]
    parsed = [(text.split(":")[0].split("=")[0].strip(), "=" in text) for text in arguments]
    own = [(name, optional) for name, optional in parsed if name != "self"]
    required = [name for name, optional in own if not optional]
    return Signature(tuple(name for name, _ in own), len(required), match["returns"].strip())


def _split(arguments: str) -> list[str]:
    """Split at commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
