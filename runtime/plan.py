"""From an ONNX graph to a plan, NVIDIA's serialised engine, on one code path.

TensorRT 10.3 (JetPack 6.1), 10.13, 10.16, 11 and TensorRT-RTX differ in flags that moved and
attributes that come and go, so everything optional is asked for with `hasattr`. TensorRT 8.6
(JetPack 6.0) takes the same path, best effort.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from runtime.build_progress import BuildMonitor, Progress, trt_monitor
from runtime.errors import EngineError
from runtime.nvidia import LogMessage, is_rtx, message_log

POLL_S = 0.1
MAX_QUOTED_ERRORS = 4

# What the library says and what helps: each was reported by users or seen with the real builder.
HINTS = (
    (
        r"Target GPU SM \d+ is not supported",
        "this TensorRT has no kernels for this GPU: use the one that came with JetPack",
    ),
    (
        r"out of memory|OutOfMemory|Tactic Device request|insufficient memory",
        "the build ran out of memory: close other programs, lower --workspace-mb or add swap",
    ),
    (
        r"Could not infer output types.*dequant|weightsHalf",
        "FP16 scales do not build on Orin (TensorRT#4832): export with float32 scales",
    ),
    (
        r"int8 is not configured|Int8 precision has been set",
        "weak typing needs the INT8 flag: use strong typing",
    ),
    (r"no optimization profile", "the graph has dynamic shapes: export it with static ones"),
    (
        r"shiftIsAllZeros|[Nn]on-zero zero point",
        "quantise symmetrically: every zero point must be 0 and INT8",
    ),
    (r"scale coefficients must all be positive", "a Q/DQ scale is 0, negative or NaN"),
    (
        r"input has type Int32 but must have type FP8",
        "a bias is quantised: leave biases in float",
    ),
    (
        r"Quantized constant .* is only allowed before DQ",
        "an INT8 constant feeds something other than DequantizeLinear: dequantise first",
    ),
    (
        r"Plugin not found|UNSUPPORTED_NODE",
        "the graph has an operator that TensorRT does not know: export with opset 17 or lower",
    ),
    (
        r"first input has type UInt8",
        "cast uint8 to float before anything else, Transpose included",
    ),
    (
        r"CUDA initialization failure|no CUDA-capable device|CUDA driver version is insufficient",
        "CUDA does not start: check the driver and that this user may use the GPU",
    ),
)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How to build.

    Attributes:
        workspace_mb: Limit of the scratch memory that tactics may use, in MiB.
        strongly_typed: Types come from the graph alone. False is the fallback for TensorRT 8 and
            10 where strong typing fails; TensorRT 11 and RTX know no other.
        num_streams: Batch rows N, stamped onto all inputs; None keeps the graph's.
    """

    workspace_mb: int = 512
    strongly_typed: bool = True
    num_streams: int | None = None

    def __post_init__(self) -> None:
        if self.workspace_mb < 1:
            raise ValueError(f"workspace_mb must be >= 1, got {self.workspace_mb}")
        if self.num_streams is not None and self.num_streams < 1:
            raise ValueError(f"num_streams must be >= 1, got {self.num_streams}")


DEFAULT_SETTINGS = BuildSettings()


@dataclass(frozen=True)
class BuiltPlan:
    """A plan and how it came about.

    Attributes:
        plan: The serialised engine.
        messages: Everything the library logged; its layer table is in there.
        build_s: Seconds that parsing and building took.
        timing_cache: Tactic timings for the next build; empty where the library keeps none.
    """

    plan: bytes
    messages: tuple[LogMessage, ...]
    build_s: float
    timing_cache: bytes = b""


def build_plan(
    trt: ModuleType,
    model: bytes,
    *,
    compute_capability: str | None = None,
    settings: BuildSettings = DEFAULT_SETTINGS,
    timing_cache: bytes = b"",
    on_progress: Progress | None = None,
) -> BuiltPlan:
    """Build a plan from a serialised ONNX model.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        model: The ONNX file's bytes, without external data.
        compute_capability: RTX only: the GPU to build for, `SM86` or `8.6`.
        settings: Limits, typing and batch rows.
        timing_cache: Tactic timings of an earlier build on this GPU.
        on_progress: Called with the share that is done, 0..1, in the calling thread.

    Raises:
        EngineError: The graph was refused or the build failed; says why and what helps.
        ValueError: A compute capability that this library cannot build for.
        KeyboardInterrupt: Ctrl-C; the build is cancelled first.
    """
    start_ns = time.monotonic_ns()
    log = message_log(trt)
    with log.recording() as messages:
        builder = trt.Builder(log.trt_logger)
        if builder is None:
            raise EngineError(_failure("the builder does not start", messages))
        network = builder.create_network(network_flags(trt, settings))
        # the parser must outlive the build: it owns the weights
        parser = _parse(trt, network, model, messages)
        if settings.num_streams is not None:
            _stamp_streams(network, settings.num_streams)
        config = _configured(trt, builder, network, settings)
        if is_rtx(trt):
            _target(trt, config, compute_capability or "SM86")
        cache = _use_timing_cache(trt, config, timing_cache)
        plan = _build_cancellable(trt, builder, network, config, on_progress)
        del parser
        if plan is None:
            raise EngineError(_failure("the build failed", messages))
        timings = b"" if cache is None else bytes(cache.serialize())
    if on_progress is not None:
        on_progress(1.0)
    build_s = (time.monotonic_ns() - start_ns) / 1e9
    return BuiltPlan(bytes(plan), tuple(messages), build_s, timings)


def network_flags(trt: ModuleType, settings: BuildSettings) -> int:
    """Flags of `create_network`; their bits moved between TensorRT 10 and 11."""
    flag = trt.NetworkDefinitionCreationFlag
    if settings.strongly_typed and hasattr(flag, "STRONGLY_TYPED"):
        return 1 << int(flag.STRONGLY_TYPED)
    if hasattr(flag, "EXPLICIT_BATCH"):
        return 1 << int(flag.EXPLICIT_BATCH)
    return 0


def capability_name(compute_capability: str) -> str:
    """A compute capability as NVIDIA's enum spells it.

    Example:
        >>> capability_name("8.6"), capability_name("sm120")
        ('SM86', 'SM120')
    """
    return "SM" + re.sub(r"^sm|\.", "", compute_capability.strip(), flags=re.IGNORECASE)


def hints_for(texts: Sequence[str]) -> list[str]:
    """What helps against errors that users report often."""
    joined = "\n".join(texts)
    return [hint for pattern, hint in HINTS if re.search(pattern, joined, re.IGNORECASE)]


def _failure(what: str, messages: Sequence[LogMessage]) -> str:
    errors = list(dict.fromkeys(m.text.strip() for m in messages if m.is_error))
    said = "; ".join(errors[:MAX_QUOTED_ERRORS]) or "nothing in its log"
    return "; ".join([f"{what}, TensorRT says: {said}", *hints_for(errors)])


def _parse(trt: ModuleType, network: Any, model: bytes, messages: Sequence[LogMessage]) -> Any:
    parser = trt.OnnxParser(network, message_log(trt).trt_logger)
    if parser.parse(model):
        return parser
    errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
    if not errors:
        raise EngineError(_failure("TensorRT refuses the graph", messages))
    said = "; ".join(errors[:MAX_QUOTED_ERRORS])
    raise EngineError("; ".join([f"TensorRT refuses the graph: {said}", *hints_for(errors)]))


def _describe(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else f"#{error.node()}"
    return f"node {node}: {error.desc().strip()}"


def _stamp_streams(network: Any, num_streams: int) -> None:
    """Give every input N rows; no node of a step graph holds the batch size."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = (num_streams, *tuple(tensor.shape)[1:])


def _configured(trt: ModuleType, builder: Any, network: Any, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else no layer table
    strong = settings.strongly_typed and hasattr(
        trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"
    )
    flags = getattr(trt, "BuilderFlag", None)
    if not strong and hasattr(flags, "INT8") and _is_quantised(trt, network):
        config.set_flag(trt.BuilderFlag.INT8)
    return config


def _is_quantised(trt: ModuleType, network: Any) -> bool:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return any(layer.type == trt.LayerType.QUANTIZE for layer in layers)


def _target(trt: ModuleType, config: Any, compute_capability: str) -> None:
    name = capability_name(compute_capability)
    known = sorted(member for member in trt.ComputeCapability.__members__ if member[:2] == "SM")
    if name not in known:
        raise ValueError(
            f"compute_capability must be one of {', '.join(known)} for {trt.__name__} "
            f"{trt.__version__}, got {compute_capability!r}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _use_timing_cache(trt: ModuleType, config: Any, data: bytes) -> Any:
    """Set the cache where the library keeps one; RTX only warns about it."""
    if is_rtx(trt) or not hasattr(config, "create_timing_cache"):
        return None
    cache = config.create_timing_cache(data)
    # a cache of another library or GPU is refused: start an empty one
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _build_cancellable(
    trt: ModuleType, builder: Any, network: Any, config: Any, on_progress: Progress | None
) -> Any:
    """Build in a thread, so that Ctrl-C reaches this one; cancel the build when it comes."""
    monitor = BuildMonitor()
    listens = hasattr(config, "progress_monitor")
    if listens:
        config.progress_monitor = trt_monitor(trt, monitor)
    outcome: list[Any] = []
    # daemon: TensorRT 8 cannot cancel a build and must not hold the process
    worker = threading.Thread(
        target=_build_into, args=(outcome, builder, network, config), daemon=True
    )
    worker.start()
    try:
        while worker.is_alive():
            worker.join(POLL_S)
            if on_progress is not None:
                on_progress(monitor.share())
    except BaseException:
        monitor.cancelled.set()
        if listens:
            worker.join()
        raise
    (plan,) = outcome
    if isinstance(plan, Exception):
        raise EngineError(f"the build failed: {plan}") from plan
    return plan


def _build_into(outcome: list[Any], builder: Any, network: Any, config: Any) -> None:
    try:
        outcome.append(builder.build_serialized_network(network, config))
    except Exception as err:  # noqa: BLE001  raised again in the caller's thread
        outcome.append(err)
