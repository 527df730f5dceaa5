"""The engine cache: build a plan once for a GPU and a graph, and never run a wrong one.

A plan is executable code for one GPU and one library version. It lies in the user's cache folder,
never in a bundle, beside a sidecar that says what it was built from:

    NAME-int8-n1-orin-sm87-3f9c2ab41d07.plan
    NAME-int8-n1-orin-sm87-3f9c2ab41d07.plan.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

from runtime.build_progress import Progress
from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.errors import EngineError
from runtime.files import whole_file, write_json
from runtime.nvidia import is_rtx, library_version
from runtime.plan import DEFAULT_SETTINGS, BuildSettings, BuiltPlan, build_plan, capability_name
from runtime.sessions.cuda_memory import DeviceInfo

logger = logging.getLogger(__name__)

ANY_GPU = "any"
SIDECAR_VERSION = 1
SUFFIX = ".plan"


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What a plan is valid for; differ in one field and it is another plan.

    Attributes:
        gpu: Name of the GPU; `any` for RTX, whose plans fit every GPU of a compute capability.
        compute_capability: `8.7`.
        library: Name and version of the builder, `tensorrt 10.3.0`.
        precision: Which of the bundle's graphs.
        num_streams: Batch rows N.
        graph_sha256: Hash of the ONNX file.
        strongly_typed: How types were chosen.
    """

    gpu: str
    compute_capability: str
    library: str
    precision: Precision
    num_streams: int
    graph_sha256: str
    strongly_typed: bool = True

    def digest(self) -> str:
        """A short hash of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def file_name(self, name: str) -> str:
        """File name of the plan, for people first; the digest makes it unique."""
        gpu = capability_name(self.compute_capability)
        if self.gpu != ANY_GPU:
            gpu = f"{self.gpu}-{gpu}"
        words = [name, self.precision, f"n{self.num_streams}", gpu, self.digest()]
        return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).lower() + SUFFIX


@dataclass(frozen=True)
class Engine:
    """A plan that was checked against its sidecar.

    Attributes:
        path: Where it lies.
        plan: Its bytes, those that were hashed.
        key: What it was built for.
    """

    path: Path
    plan: bytes
    key: EngineKey


def default_engine_dir() -> Path:
    """`tdrl-edge/engines` in the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is invalid and ignored
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "tdrl-edge" / "engines"


def engine_key(
    bundle: Bundle,
    precision: Precision,
    trt: ModuleType,
    device: DeviceInfo,
    *,
    settings: BuildSettings = DEFAULT_SETTINGS,
) -> EngineKey:
    """The key of a bundle's engine on a device.

    Raises:
        BundleError: The bundle has no graph of this precision.
    """
    graph = bundle.graph(GRAPH_OF[precision])
    return EngineKey(
        gpu=ANY_GPU if is_rtx(trt) else device.name,
        compute_capability=device.compute_capability,
        library=library_version(trt),
        precision=precision,
        num_streams=settings.num_streams or (graph.states[0].shape[0] if graph.states else 1),
        graph_sha256=bundle.sha256[graph.file],
        strongly_typed=settings.strongly_typed,
    )


def engine_for_bundle(
    bundle: Bundle,
    precision: Precision,
    engine_dir: Path | None = None,
    *,
    trt: ModuleType,
    device: DeviceInfo,
    settings: BuildSettings = DEFAULT_SETTINGS,
    on_progress: Progress | None = None,
    on_built: Callable[[BuiltPlan], None] | None = None,
) -> Path:
    """The bundle's engine from the cache, built first if there is no valid one.

    Args:
        bundle: The bundle, loaded with its hashes verified.
        precision: Which graph.
        engine_dir: The cache folder; the user's by default.
        trt: `tensorrt` or `tensorrt_rtx`.
        device: The GPU; for RTX its compute capability counts, no GPU is needed.
        settings: Limits, typing and batch rows.
        on_progress: Called while building with the share that is done, 0..1.
        on_built: Called with a plan that was built, and not with one from the cache.

    Returns:
        The plan's path; `runtime.sessions.trt` takes it.

    Raises:
        EngineError: The build failed or the folder cannot be trusted.
        BundleError: The bundle has no graph of this precision, or the file has changed.
    """
    folder = default_engine_dir() if engine_dir is None else engine_dir
    key = engine_key(bundle, precision, trt, device, settings=settings)
    path = folder / key.file_name(bundle.name)
    if path.exists():
        try:
            load_engine(path, key)
        except EngineError as err:
            logger.warning("building the engine anew: %s", err)
        else:
            return path
    model = _graph_bytes(bundle, precision)
    timings = path.with_name(f"timing-{_slug(key)}.cache")
    built = build_plan(
        trt,
        model,
        compute_capability=key.compute_capability,
        settings=settings,
        timing_cache=_own_timings(timings),
        on_progress=on_progress,
    )
    _make_private(folder)
    save_engine(path, built, key)
    if built.timing_cache:
        with whole_file(timings) as part:
            part.write_bytes(built.timing_cache)
            part.chmod(0o600)
    if on_built is not None:
        on_built(built)
    return path


def save_engine(path: Path, built: BuiltPlan, key: EngineKey) -> None:
    """Write a plan and its sidecar; without the sidecar the plan is worth nothing.

    Raises:
        OSError: The folder cannot be written.
    """
    sidecar = _sidecar(path)
    sidecar.unlink(missing_ok=True)
    with whole_file(path) as part:
        part.write_bytes(built.plan)
        part.chmod(0o600)
    write_json(
        sidecar,
        {
            "sidecar_version": SIDECAR_VERSION,
            "key": asdict(key),
            "plan_sha256": hashlib.sha256(built.plan).hexdigest(),
            "plan_bytes": len(built.plan),
            "build_s": round(built.build_s, 2),
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    )
    sidecar.chmod(0o600)


def load_engine(path: Path, key: EngineKey | None = None) -> Engine:
    """Read a plan that this user wrote, that is unchanged and, with `key`, that fits.

    Args:
        path: The plan.
        key: What it must have been built for; None takes what the sidecar says.

    Raises:
        EngineError: Missing, another user's, changed, or built for something else.
    """
    plan = _own_bytes(path)
    found, plan_sha256 = _read_sidecar(_sidecar(path))
    if hashlib.sha256(plan).hexdigest() != plan_sha256:
        raise EngineError(f"{path} has changed since it was built; {_ADVICE}")
    if key is not None and found != key:
        raise EngineError(f"{path} was built for {_difference(found, key)}; {_ADVICE}")
    return Engine(path, plan, found)


_ADVICE = "delete it and run `make engine`"


def _read_sidecar(path: Path) -> tuple[EngineKey, str]:
    try:
        data = json.loads(_own_bytes(path))
        if data["sidecar_version"] != SIDECAR_VERSION:
            raise ValueError(f"sidecar_version must be {SIDECAR_VERSION}")
        return EngineKey(**data["key"]), str(data["plan_sha256"])
    except (ValueError, KeyError, TypeError) as err:
        raise EngineError(f"{path} cannot be read ({err}); {_ADVICE}") from err


def _difference(found: EngineKey, wanted: EngineKey) -> str:
    fields = [name for name in asdict(wanted) if getattr(found, name) != getattr(wanted, name)]
    return ", ".join(
        f"{name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}" for name in fields
    )


def _own_bytes(path: Path) -> bytes:
    """Read a file that belongs to this user and that nobody else can write.

    Owner and contents come from one open file: it cannot be exchanged in between.
    """
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as err:
        raise EngineError(f"{path} cannot be read ({err.strerror}); run `make engine`") from err


def _own_timings(path: Path) -> bytes:
    """Timings of an earlier build; none if there are none or they cannot be trusted."""
    try:
        return _own_bytes(path) if path.exists() else b""
    except EngineError as err:
        logger.warning("building without earlier timings: %s", err)
        return b""


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows: the cache folder's own rights protect it
        return
    if status.st_uid != os.geteuid():
        raise EngineError(
            f"{path} belongs to user {status.st_uid}, you are {os.geteuid()}; a plan is executable "
            f"code and only your own is run: {_ADVICE}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(f"{path} can be written by others; a plan is executable code: {_ADVICE}")


def _make_private(folder: Path) -> None:
    """Make the folder and, if it is new, keep it to this user."""
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700)


def _graph_bytes(bundle: Bundle, precision: Precision) -> bytes:
    path = bundle.graph_path(GRAPH_OF[precision])
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != bundle.sha256[path.name]:
        raise EngineError(f"{path} has changed since it was exported; copy the bundle again")
    return model


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _slug(key: EngineKey) -> str:
    text = f"{key.library}-{key.gpu}-{key.compute_capability}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).lower()
