"""From an ONNX graph to a plan, NVIDIA's serialised engine, on one code path.

TensorRT 10.3 (JetPack 6.1), 10.13, 10.16, 11 and TensorRT-RTX differ in flags that moved and
attributes that come and go, so everything optional is asked for with `hasattr`. TensorRT 8.6
(JetPack 6.0) takes the same path, best effort.

A build that fails gets a second chance: out of memory with half the workspace, and otherwise, where
the library knows it (8 and 10), with weak typing.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from runtime.build_failure import MAX_QUOTED_ERRORS, explained, hints_for, is_out_of_memory
from runtime.build_progress import Progress
from runtime.cancellable_build import cancellable_build, in_thread
from runtime.errors import EngineError
from runtime.nvidia import LogMessage, is_rtx, library_version, message_log
from runtime.nvidia_types import RtxConfig, TensorRT, TensorRTRtx

if TYPE_CHECKING:
    import tensorrt as nv

logger = logging.getLogger(__name__)

Typing: TypeAlias = Literal["auto", "strong", "weak"]

# A sixteenth of the memory: 480 MiB on an 8 GB board, where CPU and GPU share it with everything
# else. Tactics of these small graphs ask for less; the limit stops the few that ask for much.
WORKSPACE_SHARE = 16
WORKSPACE_MB = range(256, 2049)
LEAST_WORKSPACE_MB = 32


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How to build.

    Attributes:
        workspace_mb: Limit of the scratch memory that tactics may use, in MiB; None for a
            sixteenth of the memory.
        typing: `strong` takes types from the graph alone. `weak` is the fallback for TensorRT 8
            and 10 where strong typing fails; TensorRT 11 and RTX know no other than strong.
            `auto` tries strong, then weak.
        num_streams: Batch rows N, stamped onto all inputs; None keeps the graph's.
    """

    workspace_mb: int | None = None
    typing: Typing = "auto"
    num_streams: int | None = None

    def __post_init__(self) -> None:
        if self.workspace_mb is not None and self.workspace_mb < 1:
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
        build_s: Seconds that parsing and building took, failed attempts included.
        timing_cache: Tactic timings for the next build; empty where the library keeps none.
        strongly_typed: Whether types came from the graph alone.
        workspace_mb: Limit of the scratch memory that it was built with, in MiB.
    """

    plan: bytes
    messages: tuple[LogMessage, ...]
    build_s: float
    timing_cache: bytes = b""
    strongly_typed: bool = True
    workspace_mb: int = 0


class BuildFailedError(EngineError):
    """The builder gave no plan.

    Attributes:
        errors: What the library logged.
    """

    def __init__(self, text: str, errors: Sequence[str]) -> None:
        super().__init__(text)
        self.errors = tuple(errors)


@dataclass(frozen=True)
class _Attempt:
    strongly_typed: bool
    workspace_mb: int


@dataclass(frozen=True)
class _Inputs:
    """What stays the same over the attempts."""

    trt: TensorRT
    model: bytes
    capability: str | None
    num_streams: int | None
    timing_cache: bytes
    on_progress: Progress | None


def build_plan(
    trt: TensorRT,
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
        ValueError: A compute capability that this library cannot build for, or a typing that it
            does not know.
        KeyboardInterrupt: Ctrl-C; the build is cancelled first.
    """
    start_ns = time.monotonic_ns()
    inputs = _Inputs(
        trt, model, compute_capability, settings.num_streams, timing_cache, on_progress
    )
    attempt = _Attempt(
        typings(trt, settings.typing)[0], settings.workspace_mb or default_workspace_mb()
    )
    try:
        built = _build(inputs, attempt)
    except BuildFailedError as err:
        second = _second_attempt(trt, settings, attempt, err)
        if second is None:
            raise
        built = _again(inputs, second, err)
    if on_progress is not None:
        on_progress(1.0)
    return replace(built, build_s=(time.monotonic_ns() - start_ns) / 1e9)


def typings(trt: TensorRT, wanted: Typing) -> tuple[bool, ...]:
    """The typings to try in order: True is strong, False is weak.

    Raises:
        ValueError: The library does not know the one that is wanted.
    """
    flag = trt.NetworkDefinitionCreationFlag
    known = (hasattr(flag, "STRONGLY_TYPED"), hasattr(trt.BuilderFlag, "INT8"))
    possible: dict[Typing, tuple[bool, ...]] = {
        "strong": (True,) * known[0],
        "weak": (False,) * known[1],
        "auto": (True,) * known[0] + (False,) * known[1],
    }
    if not possible[wanted]:
        other = "strong" if known[0] else "weak"
        raise ValueError(f"{library_version(trt)} has no {wanted} typing; pass --typing {other}")
    return possible[wanted]


def default_workspace_mb(total_bytes: int | None = None) -> int:
    """Limit of the scratch memory in MiB: a sixteenth of the memory, 256 ... 2048.

    Args:
        total_bytes: The GPU's memory; the machine's if None or more than the machine's.

    Example:
        >>> default_workspace_mb(7_600 << 20) <= 475
        True
    """
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total_mb = min(total_bytes or machine_bytes, machine_bytes) >> 20
    return max(WORKSPACE_MB[0], min(WORKSPACE_MB[-1], total_mb // WORKSPACE_SHARE))


def network_flags(trt: TensorRT, *, strongly_typed: bool = True) -> int:
    """Flags of `create_network`; their bits moved between TensorRT 10 and 11."""
    flag = trt.NetworkDefinitionCreationFlag
    if strongly_typed and hasattr(flag, "STRONGLY_TYPED"):
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


def _second_attempt(
    trt: TensorRT, settings: BuildSettings, first: _Attempt, err: BuildFailedError
) -> _Attempt | None:
    """What else to try after a failure, with a warning; None if nothing is left."""
    if is_out_of_memory(err.errors):
        half_mb = first.workspace_mb // 2
        if half_mb < LEAST_WORKSPACE_MB:
            return None
        logger.warning("%s; once more with a workspace of %d MiB", err, half_mb)
        return replace(first, workspace_mb=half_mb)
    if first.strongly_typed and False in typings(trt, settings.typing):
        logger.warning("%s; once more with weak typing", err)
        return replace(first, strongly_typed=False)
    return None


def _again(inputs: _Inputs, attempt: _Attempt, first: BuildFailedError) -> BuiltPlan:
    """The second attempt; if it fails too, the first failure is the telling one."""
    how = f"{attempt.workspace_mb} MiB, {'strong' if attempt.strongly_typed else 'weak'} typing"
    try:
        return _build(inputs, attempt)
    except BuildFailedError as err:
        said = err.errors[0].strip() if err.errors else "no reason"
        raise BuildFailedError(
            f"{first}; a second try ({how}) fails too: {said}", err.errors
        ) from err


def _build(inputs: _Inputs, attempt: _Attempt) -> BuiltPlan:
    trt = inputs.trt
    log = message_log(trt)
    with log.recording() as messages:
        builder: nv.Builder | None = trt.Builder(log.trt_logger)
        if builder is None:
            raise _failure("the builder does not start", messages)
        network = builder.create_network(network_flags(trt, strongly_typed=attempt.strongly_typed))
        # the parser must outlive the build: it owns the weights
        parser = _parse(trt, network, inputs.model, messages)
        if inputs.num_streams is not None:
            _stamp_streams(trt, network, inputs.num_streams)
        config = _configured(trt, builder, network, attempt)
        if is_rtx(trt):
            _target(trt, cast(RtxConfig, config), inputs.capability or "SM86")
        cache = _use_timing_cache(trt, config, inputs.timing_cache)
        try:
            plan = cancellable_build(trt, builder, network, config, inputs.on_progress)
        except (RuntimeError, MemoryError) as err:  # what the bindings make of C++ exceptions
            said = str(err) if isinstance(err, RuntimeError) else "out of memory"
            raise BuildFailedError(explained("the build failed", [said]), [said]) from err
        del parser
        if plan is None:
            raise _failure("the build failed", messages)
        timings = b"" if cache is None else bytes(cache.serialize())
    return BuiltPlan(
        bytes(plan),
        tuple(messages),
        0.0,
        timings,
        strongly_typed=attempt.strongly_typed,
        workspace_mb=attempt.workspace_mb,
    )


def _failure(what: str, messages: Sequence[LogMessage]) -> BuildFailedError:
    errors = [message.text for message in messages if message.is_error]
    return BuildFailedError(explained(what, errors), errors)


def _parse(
    trt: TensorRT, network: nv.INetworkDefinition, model: bytes, messages: Sequence[LogMessage]
) -> nv.OnnxParser:
    parser = trt.OnnxParser(network, message_log(trt).trt_logger)
    if in_thread(lambda: bool(parser.parse(model))):
        return parser
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    if not errors:
        raise _failure("TensorRT refuses the graph", messages)
    said = "; ".join(errors[:MAX_QUOTED_ERRORS])
    text = "; ".join([f"TensorRT refuses the graph: {said}", *hints_for(errors)])
    raise BuildFailedError(text, errors)


def _describe(error: nv.ParserError) -> str:
    node = error.node_name() if hasattr(error, "node_name") else f"#{error.node()}"
    return f"node {node}: {error.desc().strip()}"


def _stamp_streams(trt: TensorRT, network: nv.INetworkDefinition, num_streams: int) -> None:
    """Give every input N rows; no node of a step graph holds the batch size."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        others = [tensor.shape[axis] for axis in range(1, len(tensor.shape))]
        tensor.shape = trt.Dims([num_streams, *others])


def _configured(
    trt: TensorRT, builder: nv.Builder, network: nv.INetworkDefinition, attempt: _Attempt
) -> nv.IBuilderConfig:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, attempt.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else no layer table
    if not attempt.strongly_typed:
        # without its flag weak typing refuses a type that is in the graph; with it, it may use the
        # type elsewhere too, so only what the graph has is allowed
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        if any(_is_quantiser(trt, layer) for layer in layers):
            config.set_flag(trt.BuilderFlag.INT8)
        if any(_gives_half(trt, layer) for layer in layers):
            config.set_flag(trt.BuilderFlag.FP16)
    return config


def _is_quantiser(trt: TensorRT, layer: nv.ILayer) -> bool:
    return layer.type == trt.LayerType.QUANTIZE


def _gives_half(trt: TensorRT, layer: nv.ILayer) -> bool:
    outputs = (layer.get_output(index) for index in range(layer.num_outputs))
    return any(_is_half(trt, tensor) for tensor in outputs)


def _is_half(trt: TensorRT, tensor: nv.ITensor) -> bool:
    return tensor.dtype == trt.DataType.HALF


def _target(trt: TensorRTRtx, config: RtxConfig, compute_capability: str) -> None:
    name = capability_name(compute_capability)
    known = sorted(member for member in trt.ComputeCapability.__members__ if member[:2] == "SM")
    if name not in known:
        raise ValueError(
            f"compute_capability must be one of {', '.join(known)} for {trt.__name__} "
            f"{trt.__version__}, got {compute_capability!r}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _use_timing_cache(
    trt: TensorRT, config: nv.IBuilderConfig, data: bytes
) -> nv.ITimingCache | None:
    """Set the cache where the library keeps one; RTX only warns about it."""
    if is_rtx(trt) or not hasattr(config, "create_timing_cache"):
        return None
    cache = config.create_timing_cache(data)
    # a cache of another library or GPU is refused: start an empty one
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
