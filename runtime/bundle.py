"""The bundle: one folder that is all a device needs, checked before a camera opens.

bundle.json        what is in it (this module's `Bundle`)
step.onnx          one frame and the states in, logits and the states out
step.fp16.onnx     the same graph with feature maps in float16 (older bundles have none)
step.int8.onnx     the same graph with Q/DQ
clip.onnx          T frames at once
golden.npz         frames with the logits they must give
report.json        how it was made and what was measured
report.html        the same as a page
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zipfile import BadZipFile

import numpy as np

from runtime.errors import BundleError
from runtime.files import sha256_of
from runtime.operating_point import OperatingPoint
from runtime.policy import check_policy
from runtime.preprocess import PictureRule
from runtime.sampling import SamplingContract

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
OWN_HASH = "own_sha256"
GOLDEN = "golden.npz"
FRAME_INPUT = "frame"
RESET_INPUT = "reset"
LOGITS_OUTPUT = "logits"
CLIP_INPUT = "clip"
_JSON_NAMES = {list: "a list", dict: "an object"}
_FIELD_TYPES = {
    "labels": list,
    **dict.fromkeys(
        ("picture", "sampling", "graphs", "model", "accuracy", "versions", "sha256"), dict
    ),
}

GraphKind: TypeAlias = Literal["step", "step_fp16", "step_int8", "clip"]
StateDtype: TypeAlias = Literal["float32", "int8"]
Precision: TypeAlias = Literal["float32", "float16", "int8"]

# in the order in which commands try and list them
GRAPH_OF: Mapping[Precision, GraphKind] = {
    "float32": "step",
    "float16": "step_fp16",
    "int8": "step_int8",
}


@dataclass(frozen=True)
class StateSpec:
    """One recurrent state of a step graph.

    Attributes:
        name_in: Input that takes it, `state_in_00` ...
        name_out: Output that gives the next one, `state_out_00` ...
        shape: Shape with the batch axis first.
        dtype: `float32`, or `int8` where the graph keeps it quantised.
    """

    name_in: str
    name_out: str
    shape: tuple[int, ...]
    dtype: StateDtype

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(
                f"{self.name_in} has shape {list(self.shape)}, every size must be >= 1"
            )

    def to_json(self) -> dict[str, Any]:
        """The spec as `bundle.json` stores it."""
        return {
            "name_in": self.name_in,
            "name_out": self.name_out,
            "shape": list(self.shape),
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file of a bundle and, for a step graph, its states in order."""

    file: str
    states: tuple[StateSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle's manifest, and where the folder is.

    Attributes:
        folder: The bundle folder.
        name: Name of the model, for people.
        labels: Class names in the order of the logits.
        picture: How a frame becomes the model's input.
        sampling: The sampling contract.
        operating: Temperature and policy; older bundles have none fitted.
        graphs: Graph files by kind: `step`, `step_fp16` and `step_int8` (may be absent), `clip`.
        model: Architecture facts, for people: backbone, temporal module, form.
        accuracy: Measured accuracies, 0..1, for people.
        versions: Library versions it was made with.
        created_utc: When it was made, ISO 8601.
        sha256: Hash of every file, by file name.
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    picture: PictureRule
    sampling: SamplingContract
    graphs: Mapping[GraphKind, GraphSpec]
    operating: OperatingPoint = field(default_factory=OperatingPoint)
    model: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created_utc: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)

    def graph_path(self, kind: GraphKind) -> Path:
        """Path of a graph's ONNX file.

        Raises:
            BundleError: The bundle has no such graph.
        """
        return self.folder / self.graph(kind).file

    def graph(self, kind: GraphKind) -> GraphSpec:
        """A graph's file name and states.

        Raises:
            BundleError: The bundle has no such graph.
        """
        if kind not in self.graphs:
            raise BundleError(
                f"{self.folder} has no {kind} graph, it has {', '.join(sorted(self.graphs))}; "
                "export it again (python -m export.bundle)"
            )
        return self.graphs[kind]

    def to_json(self) -> dict[str, Any]:
        """The manifest as `bundle.json` stores it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "created_utc": self.created_utc,
            "labels": list(self.labels),
            "picture": self.picture.to_json(),
            "sampling": self.sampling.to_json(),
            "operating_point": self.operating.to_json(),
            "model": dict(self.model),
            "graphs": {
                kind: {"file": graph.file, "states": [state.to_json() for state in graph.states]}
                for kind, graph in self.graphs.items()
            },
            "accuracy": dict(self.accuracy),
            "versions": dict(self.versions),
            "sha256": dict(self.sha256),
        }


@dataclass(frozen=True)
class Golden:
    """A frame sequence with the logits it must give, so that any device can prove its engine.

    Attributes:
        frames: Model pictures, shape (S, H, W, 3), uint8, RGB.
        reset: 1 where a step starts from the zero state, shape (S,), float32.
        logits: Logits of the float graph, shape (S, K), float32.
        logits_int8: Logits of the INT8 graph, shape (S, K), float32; empty where there is none.
        camera_frames: Camera-sized pictures, each (H, W, 3) uint8 RGB.
        camera_pictures: What `fit_picture` must make of them, shape (C, h, w, 3), uint8.
    """

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    reset: np.ndarray[Any, np.dtype[np.float32]]
    logits: np.ndarray[Any, np.dtype[np.float32]]
    logits_int8: np.ndarray[Any, np.dtype[np.float32]]
    camera_frames: tuple[np.ndarray[Any, np.dtype[np.uint8]], ...]
    camera_pictures: np.ndarray[Any, np.dtype[np.uint8]]


def load_bundle(folder: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and check the folder against it.

    Args:
        folder: The bundle folder.
        verify: Compare every file with its hash.

    Returns:
        The bundle.

    Raises:
        BundleError: No bundle there, unknown schema, missing or changed file, fields that do not
            fit one another.
    """
    data = _read_manifest(folder)
    if verify:
        _verify_manifest(folder / MANIFEST, data)
    try:
        bundle = _parse_manifest(folder, data)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as err:
        what = f"has no field {err}" if isinstance(err, KeyError) else f"is wrong: {err}"
        raise BundleError(f"{folder / MANIFEST} {what}; export the bundle again") from err
    _check_names(bundle)
    if verify:
        verify_files(bundle)
    return bundle


def with_own_hash(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the hash of all else that it says: JSON with sorted keys, SHA-256."""
    content = {name: value for name, value in manifest.items() if name != OWN_HASH}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return {**content, OWN_HASH: hashlib.sha256(text.encode("ascii")).hexdigest()}


def _verify_manifest(path: Path, data: Mapping[str, Any]) -> None:
    """Compare a manifest with its own hash; one written before there was such a hash has none."""
    try:
        is_same = OWN_HASH not in data or with_own_hash(data) == data
    except (ValueError, RecursionError):  # NaN, or too deep
        is_same = False
    if not is_same:
        raise BundleError(
            f"{path} was changed after the export: it does not match its own hash; copy the bundle "
            "again or export it anew (events have a --policy file)"
        )


def verify_files(bundle: Bundle) -> None:
    """Compare every file of a bundle with its hash.

    Raises:
        BundleError: A file is missing or has changed.
    """
    for name, expected in bundle.sha256.items():
        path = bundle.folder / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the whole bundle folder again")
        found = sha256_of(path)
        if found != expected:
            raise BundleError(
                f"{path} does not match its hash (expected {expected[:12]}…, got {found[:12]}…); "
                "copy the bundle again or export it anew"
            )


def load_golden(bundle: Bundle) -> Golden:
    """Read a bundle's golden sequence.

    Raises:
        BundleError: `golden.npz` is unreadable or its arrays do not fit the bundle.
    """
    path = bundle.folder / GOLDEN
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            cameras = sorted(name for name in arrays.files if name.startswith("camera_frame_"))
            golden = Golden(
                frames=arrays["frames"],
                reset=arrays["reset"],
                logits=arrays["logits"],
                logits_int8=arrays["logits_int8"],
                camera_frames=tuple(arrays[name] for name in cameras),
                camera_pictures=arrays["camera_pictures"],
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as err:
        raise BundleError(f"{path} cannot be read ({err}); export the bundle again") from err
    rule = bundle.picture
    steps = golden.frames.shape[0]
    wanted_frames = (steps, rule.height_px, rule.width_px, 3)
    wanted_logits = (steps, len(bundle.labels))
    if golden.frames.shape != wanted_frames or golden.logits.shape != wanted_logits:
        raise BundleError(
            f"{path} holds frames {golden.frames.shape} and logits {golden.logits.shape}, the "
            f"bundle wants {wanted_frames} and {wanted_logits}; export the bundle again"
        )
    return golden


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"no bundle at {folder} ({MANIFEST} not found); run `make demo` or pass --bundle"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise BundleError(f"{path} cannot be read ({err}); export the bundle again") from err
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {version!r}, this runtime reads {SCHEMA_VERSION}; "
            "use the runtime the bundle was exported with, or export again"
        )
    return dict(data)


def _parse_manifest(folder: Path, data: dict[str, Any]) -> Bundle:
    for name, kind in _FIELD_TYPES.items():
        if not isinstance(data[name], kind):
            raise TypeError(f"{name} must be {_JSON_NAMES[kind]}, got {reprlib.repr(data[name])}")
    labels = tuple(data["labels"])
    if not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels must be texts, got {reprlib.repr(list(labels))}")
    sampling = SamplingContract.from_json(data["sampling"])
    operating = OperatingPoint.from_json(data.get("operating_point"))
    check_policy(operating.policy, labels, sampling.warm_up_s)
    return Bundle(
        folder=folder,
        name=str(data["name"]),
        labels=labels,
        picture=PictureRule.from_json(data["picture"]),
        sampling=sampling,
        operating=operating,
        graphs={kind: _parse_graph(graph) for kind, graph in data["graphs"].items()},
        model=data["model"],
        accuracy=data["accuracy"],
        versions=data["versions"],
        created_utc=str(data["created_utc"]),
        sha256={str(name): str(digest) for name, digest in data["sha256"].items()},
    )


def _parse_graph(data: dict[str, Any]) -> GraphSpec:
    return GraphSpec(
        file=str(data["file"]),
        states=tuple(
            StateSpec(
                name_in=str(state["name_in"]),
                name_out=str(state["name_out"]),
                shape=tuple(int(size) for size in state["shape"]),
                dtype=state["dtype"],
            )
            for state in data["states"]
        ),
    )


def _check_names(bundle: Bundle) -> None:
    """Labels are unique, files are plain names inside the folder, and every graph has a hash."""
    path = bundle.folder / MANIFEST
    if len(set(bundle.labels)) != len(bundle.labels) or not bundle.labels:
        raise BundleError(f"{path} must list unique labels, got {list(bundle.labels)}")
    for name in bundle.sha256:
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
            raise BundleError(f"{path} names the file {name!r}; only plain file names are allowed")
    wanted = {graph.file for graph in bundle.graphs.values()} | {GOLDEN}
    missing = sorted(wanted - set(bundle.sha256))
    if missing or "step" not in bundle.graphs:
        raise BundleError(f"{path} has no hash for {missing or ['step.onnx']}; export it again")
