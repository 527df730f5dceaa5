"""What NVIDIA's builder made of a graph, read from its own log.

With detailed verbosity the log ends with a table of the engine's layers, one line each:

    Name: /l/Conv_myl0_7, LayerType: correlation, Inputs: [ { Name: .., Datatype: Int8, .. }],
    Constants: [..], Outputs: [..], TacticName: .., StreamId: 0, Metadata: [ONNX Layer: /l/Conv]..

It is the only proof that a convolution runs on INT8: wrong axes and half-quantised convolutions
build without a word, and the plan's size does not tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ExportError
from runtime.nvidia import LogMessage, find_tensorrt
from runtime.nvidia_types import TensorRT
from runtime.plan import build_plan

# RTX calls convolutions `correlation`; TensorRT `CaskConvolution` and the like.
CONV_KINDS = re.compile(r"correlation|conv", re.IGNORECASE)
NO_KERNEL_KINDS = frozenset({"noop", "constant", "signal", "wait"})
DATATYPE = re.compile(r"Datatype: ([^,}\]]+)")
DATATYPE_NAMES = (
    ("uint8", "UInt8"),
    ("int8", "Int8"),
    ("int32", "Int32"),
    ("int64", "Int64"),
    ("bool", "Bool"),
    ("half", "Half"),
    ("fp16", "Half"),
    ("float", "Float"),
    ("fp32", "Float"),
)
SECTION = re.compile(r"\b(Inputs|Constants|Outputs|ParameterType|TacticName): ")
ONNX_LAYER = "[ONNX Layer: "
SEPARATORS = " \x1e\x1f"

# Accepted by the parser, and wrong: values above 127 clip.
UINT8_AS_INT8 = re.compile(r"UINT8 zero_point.*Defaulting to INT8", re.DOTALL)
ALLOWED_WARNINGS = (
    re.compile(r"CUDA lazy loading is not enabled"),  # about this machine, not about the graph
    re.compile(r"Unable to determine GPU memory usage"),  # no GPU here
    re.compile(r"(Unused Input:|Input Tensor) reset\b"),  # a model without states
)


@dataclass(frozen=True)
class EngineLayer:
    """One line of the engine's layer table.

    Attributes:
        name: The engine's name for it, often the main ONNX node's with a suffix.
        kind: `correlation` (a convolution), `gemm`, `kgen` (generated pointwise code) ...
        inputs: Data types of its inputs, `Int8`, `Float` ...
        constants: Data types of its weights and other constants.
        outputs: Data types of its outputs.
        onnx_nodes: Names of the ONNX nodes that it computes at least a part of.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution, and not the pointwise code around one."""
        return CONV_KINDS.search(self.kind) is not None

    @property
    def is_kernel(self) -> bool:
        """Whether the GPU is launched for it."""
        return self.kind.lower() not in NO_KERNEL_KINDS

    @property
    def runs_int8(self) -> bool:
        """Whether its data, and its weights where they are listed, are INT8."""
        weights_are = not self.constants or "Int8" in self.constants
        return self.inputs[:1] == ("Int8",) and weights_are

    def conv_names(self, conv_nodes: Collection[str] | None = None) -> tuple[str, ...]:
        """Which ONNX convolutions it is, of `conv_nodes` or guessed from its name."""
        if not self.is_conv:
            return ()
        named = tuple(node for node in self.onnx_nodes if self.name.startswith(f"{node}_myl"))
        if conv_nodes is None:
            return named or self.onnx_nodes[:1]
        return tuple(n for n in named if n in conv_nodes) or tuple(
            n for n in self.onnx_nodes if n in conv_nodes
        )


@dataclass(frozen=True, kw_only=True)
class BuildCheck:
    """What the builder made of a graph.

    Attributes:
        kernels: Kernels that one step launches.
        int8_convs: ONNX convolutions that run on INT8.
        float_convs: ONNX convolutions that do not, those without a line of their own included.
        warnings: Allowed warnings.
        build_s: Seconds the build took.
        plan_bytes: Size of the plan.
        layers: The whole table.
    """

    kernels: int
    int8_convs: tuple[str, ...]
    float_convs: tuple[str, ...]
    warnings: tuple[str, ...]
    build_s: float
    plan_bytes: int
    layers: tuple[EngineLayer, ...]

    def __str__(self) -> str:
        """One line for people."""
        convs = len(self.int8_convs) + len(self.float_convs)
        return (
            f"{self.kernels} kernels, {len(self.int8_convs)} of {convs} convolutions on INT8, "
            f"{self.plan_bytes / 1e6:.1f} MB, built in {self.build_s:.1f} s"
        )


def parse_layers(messages: Iterable[LogMessage]) -> tuple[EngineLayer, ...]:
    """The layer table in a build's log; empty where the log has none."""
    # not splitlines(): TensorRT separates names with \x1e, which that takes for an end of line
    lines = (line for message in messages for line in message.text.split("\n"))
    return tuple(
        _parse_line(line) for line in lines if line.startswith("Name: ") and ", LayerType: " in line
    )


def count_kernels(layers: Iterable[EngineLayer]) -> int:
    """Kernels that one step launches: the CPU-side proxy of speed on a small GPU."""
    return sum(layer.is_kernel for layer in layers)


def convs_by_precision(
    layers: Sequence[EngineLayer], conv_nodes: Collection[str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sort convolutions into those that run on INT8 and the others.

    Args:
        layers: The layer table.
        conv_nodes: Names of the graph's Conv nodes; None takes them from the table.

    Returns:
        Names on INT8, and the others: any of `conv_nodes` that has no convolution line is there.
    """
    runs_int8 = {name: layer.runs_int8 for layer in layers for name in layer.conv_names(conv_nodes)}
    names = runs_int8 if conv_nodes is None else conv_nodes
    int8 = tuple(name for name in names if runs_int8.get(name, False))
    return int8, tuple(name for name in names if not runs_int8.get(name, False))


def check_messages(messages: Iterable[LogMessage]) -> tuple[str, ...]:
    """The allowed warnings of a build.

    Raises:
        ExportError: A warning that is not known to be harmless.
    """
    warnings = [m.text.strip() for m in messages if m.severity == "WARNING" or m.is_error]
    for text in warnings:
        if UINT8_AS_INT8.search(text):
            raise ExportError(
                "the graph quantises to UINT8, TensorRT would read it as INT8 and clip; quantise "
                "activations to INT8 with zero point 0"
            )
        if not any(pattern.search(text) for pattern in ALLOWED_WARNINGS):
            raise ExportError(f"NVIDIA's builder warns: {text}; fix the graph, or allow it by name")
    return tuple(dict.fromkeys(warnings))


def conv_node_names(onnx_path: Path) -> tuple[str, ...]:
    """Names of a graph's Conv nodes as NVIDIA's parser gives them."""
    import onnx

    nodes = onnx.load(onnx_path, load_external_data=False).graph.node
    # the parser calls a nameless node after its output
    return tuple(n.name or f"node_of_{n.output[0]}" for n in nodes if n.op_type == "Conv")


def nvidia_build_check(
    onnx_path: Path,
    *,
    compute_capability: str = "SM86",
    expected_int8: Collection[str] | int | None = None,
    trt: TensorRT | None = None,
) -> BuildCheck:
    """Build a graph with NVIDIA's real builder, without a GPU, and read what became of it.

    Args:
        onnx_path: The graph, without external data.
        compute_capability: The GPU to build for; SM86 is what TensorRT itself loads for Orin.
        expected_int8: Conv nodes that must run on INT8, or how many; None does not ask.
        trt: The builder; `tensorrt_rtx` by default.

    Raises:
        ExportError: A warning that is not allowed, or a convolution that is not on INT8.
        EngineError: The builder refused the graph.
        FileNotFoundError: No such file.
    """
    trt = trt or find_tensorrt(("tensorrt_rtx",))
    if trt is None:
        raise ExportError("tensorrt_rtx is not installed; pip install 'tdrl-edge[rtx]' (x86-64)")
    conv_nodes = conv_node_names(onnx_path)
    _require_unique(conv_nodes, onnx_path)
    built = build_plan(trt, onnx_path.read_bytes(), compute_capability=compute_capability)
    layers = parse_layers(built.messages)
    if not layers:
        raise ExportError(f"the build log of {onnx_path} has no layer table; nothing is proven")
    int8_convs, float_convs = convs_by_precision(layers, conv_nodes)
    _require_int8(onnx_path, expected_int8, int8_convs, float_convs)
    return BuildCheck(
        kernels=count_kernels(layers),
        int8_convs=int8_convs,
        float_convs=float_convs,
        warnings=check_messages(built.messages),
        build_s=built.build_s,
        plan_bytes=len(built.plan),
        layers=layers,
    )


def _parse_line(line: str) -> EngineLayer:
    head, _, metadata = line.partition(", Metadata: ")
    name, _, rest = head[len("Name: ") :].partition(", LayerType: ")
    kind, _, rest = rest.partition(", ")
    parts = SECTION.split(rest)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    onnx_nodes = [part.strip(SEPARATORS) for part in metadata.split(ONNX_LAYER)[1:]]
    return EngineLayer(
        name=name,
        kind=kind,
        inputs=_datatypes(sections.get("Inputs", "")),
        constants=_datatypes(sections.get("Constants", "")),
        outputs=_datatypes(sections.get("Outputs", "")),
        onnx_nodes=tuple(part.removesuffix("]") for part in onnx_nodes),
    )


def _datatypes(section: str) -> tuple[str, ...]:
    return tuple(_datatype(found) for found in DATATYPE.findall(section))


def _datatype(text: str) -> str:
    """`Int8` of RTX's `Int8` and of TensorRT's `Row major linear Int8 format`."""
    lower = text.lower()
    return next((name for word, name in DATATYPE_NAMES if word in lower), text.strip())


def _require_unique(conv_nodes: Sequence[str], onnx_path: Path) -> None:
    twice = [name for name, count in Counter(conv_nodes).items() if count > 1]
    if twice:
        raise ExportError(
            f"{onnx_path} has several Conv nodes named {', '.join(twice)}; the log cannot tell "
            "them apart, give every node its own name"
        )


def _require_int8(
    onnx_path: Path,
    expected: Collection[str] | int | None,
    int8_convs: Collection[str],
    float_convs: Collection[str],
) -> None:
    if expected is None:
        return
    if isinstance(expected, int):
        wrong = sorted(float_convs) if len(int8_convs) != expected else []
        fine = len(int8_convs) == expected
    else:
        wrong = sorted(set(expected) - set(int8_convs))
        fine = not wrong
    if not fine:
        wanted = expected if isinstance(expected, int) else len(expected)
        raise ExportError(
            f"{onnx_path}: {len(int8_convs)} convolutions run on INT8, expected {wanted}; in "
            f"float: {', '.join(wrong) or 'none'}; check the Q/DQ of their data and weight "
            "(python -m export.check names the fault)"
        )
