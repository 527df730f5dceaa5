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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from runtime.build_lock import build_lock
from runtime.build_progress import Progress
from runtime.bundle import GRAPH_OF, Bundle, Precision
from runtime.errors import EngineError
from runtime.files import whole_file, write_json
from runtime.nvidia import is_rtx, library_version
from runtime.nvidia_types import TensorRT
from runtime.own_file import make_private, own_bytes
from runtime.plan import (
    DEFAULT_SETTINGS,
    BuildSettings,
    BuiltPlan,
    build_plan,
    capability_name,
    default_workspace_mb,
    typings,
)
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
        strongly_typed: Whether its types came from the graph alone.
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

    def refusals(self, wanted: EngineKey) -> list[str]:
        """Why a plan with this key cannot stand in for the one that is wanted; empty if it can."""
        reasons = []
        gpus = [f"{key.gpu} ({key.compute_capability})" for key in (self, wanted)]
        if gpus[0] != gpus[1]:
            reasons.append(f"built for GPU {gpus[0]}, this is {gpus[1]}")
        if self.library != wanted.library:
            reasons.append(f"built by {self.library}, this is {wanted.library}")
        if self.precision != wanted.precision:
            reasons.append(f"built from the {self.precision} graph, not {wanted.precision}")
        elif self.graph_sha256 != wanted.graph_sha256:
            reasons.append(f"built from another bundle's {self.precision} graph, or an older one")
        if self.num_streams != wanted.num_streams:
            reasons.append(f"built for {self.num_streams} stream(s), not {wanted.num_streams}")
        if self.strongly_typed != wanted.strongly_typed:
            reasons.append(f"built with {_typing(self)} typing, not {_typing(wanted)}")
        return reasons


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

    def require_fit(self, wanted: EngineKey) -> None:
        """Refuse a plan that was built for something else.

        Raises:
            EngineError: With every reason.
        """
        reasons = self.key.refusals(wanted)
        if reasons:
            raise EngineError(f"{self.path} is refused: {'; '.join(reasons)}; {_ADVICE}")


def default_engine_dir() -> Path:
    """`tdrl-edge/engines` in the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is invalid and ignored
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "tdrl-edge" / "engines"


def engine_key(
    bundle: Bundle,
    precision: Precision,
    trt: TensorRT,
    device: DeviceInfo,
    *,
    settings: BuildSettings = DEFAULT_SETTINGS,
) -> EngineKey:
    """The key of a bundle's engine on a device; of `auto` typing the one that is tried first.

    Raises:
        BundleError: The bundle has no graph of this precision.
        ValueError: The library does not know the typing.
    """
    graph = bundle.graph(GRAPH_OF[precision])
    return EngineKey(
        gpu=ANY_GPU if is_rtx(trt) else device.name,
        compute_capability=device.compute_capability,
        library=library_version(trt),
        precision=precision,
        num_streams=settings.num_streams or (graph.states[0].shape[0] if graph.states else 1),
        graph_sha256=bundle.sha256[graph.file],
        strongly_typed=typings(trt, settings.typing)[0],
    )


def engine_for_bundle(
    bundle: Bundle,
    precision: Precision,
    engine_dir: Path | None = None,
    *,
    trt: TensorRT,
    device: DeviceInfo,
    settings: BuildSettings = DEFAULT_SETTINGS,
    on_progress: Progress | None = None,
    on_built: Callable[[Path, BuiltPlan], None] | None = None,
) -> Path:
    """The bundle's engine from the cache, built first if there is no valid one.

    While another process builds the same engine this one waits, and takes what it built.

    Args:
        bundle: The bundle, loaded with its hashes verified.
        precision: Which graph.
        engine_dir: The cache folder; the user's by default.
        trt: `tensorrt` or `tensorrt_rtx`.
        device: The GPU; for RTX its compute capability counts, no GPU is needed.
        settings: Limits, typing and batch rows.
        on_progress: Called while building with the share that is done, 0..1.
        on_built: Called with a plan that was built and its path, and not with one from the cache;
            other processes that want the engine wait until it returns.

    Returns:
        The plan's path; `runtime.sessions.trt` takes it.

    Raises:
        EngineError: The build failed, or the folder cannot be written or trusted.
        BundleError: The bundle has no graph of this precision, or the file has changed.
        ValueError: The library does not know the typing.
    """
    folder = default_engine_dir() if engine_dir is None else engine_dir
    first = engine_key(bundle, precision, trt, device, settings=settings)
    keys = [replace(first, strongly_typed=typed) for typed in typings(trt, settings.typing)]
    paths = {folder / key.file_name(bundle.name): key for key in keys}
    ready = _valid_engine(paths)
    if ready is not None:
        return ready
    model = _graph_bytes(bundle, precision)
    make_private(folder)
    with build_lock(next(iter(paths))):
        ready = _valid_engine(paths)  # another process may just have built it
        if ready is not None:
            return ready
        timings = folder / f"timing-{_slug(first)}.cache"
        workspace_mb = settings.workspace_mb or default_workspace_mb(device.total_bytes)
        built = build_plan(
            trt,
            model,
            compute_capability=first.compute_capability,
            settings=replace(settings, workspace_mb=workspace_mb),
            timing_cache=_own_timings(timings),
            on_progress=on_progress,
        )
        key = replace(first, strongly_typed=built.strongly_typed)
        path = folder / key.file_name(bundle.name)
        save_engine(path, built, key)
        _save_timings(timings, built.timing_cache)
        if on_built is not None:
            on_built(path, built)
    return path


def save_engine(path: Path, built: BuiltPlan, key: EngineKey) -> None:
    """Write a plan and its sidecar: both, or neither.

    Raises:
        EngineError: The folder cannot be written, or its disk is full.
    """
    sidecar = _sidecar(path)
    try:
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
                "workspace_mb": built.workspace_mb,
                "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        )
        sidecar.chmod(0o600)
    except BaseException as err:
        path.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)
        if isinstance(err, OSError):
            raise EngineError(
                f"the engine ({len(built.plan) / 1e6:.1f} MB) cannot be written into "
                f"{path.parent}: {err.strerror}; make room or pass --engine-dir"
            ) from err
        raise


def load_engine(path: Path, key: EngineKey | None = None) -> Engine:
    """Read a plan that this user wrote, that is unchanged and, with `key`, that fits.

    Args:
        path: The plan.
        key: What it must have been built for; None takes what the sidecar says.

    Raises:
        EngineError: Missing, another user's, changed, or built for something else.
    """
    plan = own_bytes(path)
    found, plan_sha256 = _read_sidecar(_sidecar(path))
    if hashlib.sha256(plan).hexdigest() != plan_sha256:
        raise EngineError(f"{path} has changed since it was built; {_ADVICE}")
    engine = Engine(path, plan, found)
    if key is not None:
        engine.require_fit(key)
    return engine


_ADVICE = "delete it and run `make engine`"


def _typing(key: EngineKey) -> str:
    return "strong" if key.strongly_typed else "weak"


def _valid_engine(paths: Mapping[Path, EngineKey]) -> Path | None:
    for path, key in paths.items():
        if not path.exists():
            continue
        try:
            load_engine(path, key)
        except EngineError as err:
            logger.warning("building the engine anew: %s", err)
        else:
            return path
    return None


def _read_sidecar(path: Path) -> tuple[EngineKey, str]:
    try:
        data = json.loads(own_bytes(path))
        if data["sidecar_version"] != SIDECAR_VERSION:
            raise ValueError(f"sidecar_version must be {SIDECAR_VERSION}")
        return EngineKey(**data["key"]), str(data["plan_sha256"])
    except (ValueError, KeyError, TypeError) as err:
        raise EngineError(f"{path} cannot be read ({err}); {_ADVICE}") from err


def _own_timings(path: Path) -> bytes:
    """Timings of an earlier build; none if there are none or they cannot be trusted."""
    try:
        return own_bytes(path) if path.exists() else b""
    except EngineError as err:
        logger.warning("building without earlier timings: %s", err)
        return b""


def _save_timings(path: Path, timings: bytes) -> None:
    """Keep timings for the next build; without them it only takes longer."""
    if not timings:
        return
    try:
        with whole_file(path) as part:
            part.write_bytes(timings)
            part.chmod(0o600)
    except OSError as err:
        logger.warning("timings are not kept: %s", err)


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
