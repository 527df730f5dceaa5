"""Every static check of a graph, by the name that its findings carry.

`python -m export.check --list` prints this list, `docs/preflight.md` holds it as a table. What
NVIDIA's builder does was tried with TensorRT-RTX 1.7.1 for SM86 unless a line says otherwise; tests
try it again with the builder that is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

SILENT_FLOAT = "builds without a word and runs the convolution in float"
SILENT = "builds without a word"


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    Attributes:
        name: What its findings are called, stable.
        severity: `error`: the graph does not build, or runs with other numbers or in another
            precision than it claims. `warning`: slower, or fragile. `info`: good to know.
        finds: What it finds.
        why: Why that matters.
        builder: What NVIDIA's builder does with such a graph.
        fix: What to do.
    """

    name: str
    severity: Severity
    finds: str
    why: str
    builder: str
    fix: str


# ruff: noqa: E501  a table: one text a line
CHECKS: tuple[Check, ...] = (
    # ---- any graph
    Check("onnx-valid", "error", "what ONNX's own checker refuses", "nothing else can be trusted", "refuses or misreads it", "export it again"),
    Check("shape-inference", "error", "types or shapes that contradict each other", "nothing else can be trusted", "refuses it", "export it again; the message names the node"),
    Check("opset", "error", "an operator set that the target does not read", "it builds here and fails on the device", f"RTX is newer and {SILENT}; TensorRT 8.6 reads up to 17, every 10 up to 20, 11 up to 24", "pass opset_version=17 and dynamo=False to torch.onnx.export"),
    Check("ir-version", "error", "an ONNX file version newer than the target's ONNX", "older parsers refuse it", f"RTX is newer and {SILENT}", "set ir_version when saving: 8 for TensorRT 8.6, 10 for 10"),
    Check("custom-domain", "error", "operators of other domains than ONNX's", "TensorRT knows standard operators only", f"an unused domain: {SILENT}; an operator of one: refuses, `Plugin not found`", "export with standard operators"),
    Check("control-flow", "warning", "If, Loop, Scan or local functions", "they forbid CUDA graphs and fusion, and what is inside them is not checked here", SILENT + " (an If)", "unroll them before the export"),
    Check("static-shape", "error", "a tensor with an unknown or empty axis", "engines are built for fixed shapes", "refuses: `no optimization profile has been defined`", "export without dynamic_axes"),
    Check("io-names", "error", "a tensor that is input and output", "TensorRT renames the input", "builds without a word, and renames the input", "put an Identity between, with a name of its own"),
    Check("node-names", "warning", "nodes of one name, or a Conv without a name", "the build log cannot tell them apart", "one name twice: warns, `already exists`; without a name: builds under a made-up one", "give every node its own name"),
    Check("uint8-cast", "error", "uint8 that is read by anything but Cast", "TensorRT has uint8 for inputs and outputs only", "refuses: `first input has type UInt8`", "put the Cast before Transpose and everything else"),
    Check("mixed-float", "error", "an operator that reads float16 and float32", "some converters write such graphs", "refuses: `must be of same type`", "put a Cast on the odd input"),
    Check("local-path", "warning", "a path of some computer in documentation or metadata", "the file tells who made it and where", SILENT, "strip doc_string and metadata_props"),
    Check("external-data", "warning", "weights in another file", "a copied graph is then incomplete; --external-data allows it", "given as bytes: refuses, `Failed to import initializer`", "save with external_data=False"),
    Check("external-missing", "error", "weights in another file that is missing, too short or outside the folder", "the graph is incomplete", "given as bytes: refuses, `Failed to import initializer`", "copy the file beside the graph, or export again"),
    Check("unexpected-qdq", "error", "Q/DQ in a graph that must be float", "it is the wrong file", SILENT, "give the float graph"),
    Check("unexpected-half", "error", "float16 in a graph that must be float32", "it is the wrong file", SILENT, "give the float32 graph"),
    # ---- step graphs
    Check("not-a-step-graph", "info", "a graph without `frame` and states", "what is said about states cannot be checked", SILENT, "nothing to do if it is none of ours"),
    Check("step-io", "error", "`frame`, `reset` or `logits` that is missing or of another type than uint8 (N,H,W,3), float32 (N,1), float32 (N,K)", "the runtime binds them by name and type", SILENT, "export it again"),
    Check("state-pairs", "error", "a state input without an output, or the reverse", "the state is lost after every step", SILENT, "every state needs an input and an output of one number"),
    Check("state-types", "error", "a state whose two ends, or whose bundle, differ in type or shape; a float16 state", "the runtime swaps the buffers of both ends", SILENT, "give both ends one type and shape, float32 or int8"),
    Check("state-reset", "error", "a state that is read by anything but Where(reset > 0.5, 0, state)", "a stream that starts again would go on with the last one's memory", SILENT, "put the Where right behind the state input"),
    Check("state-order", "error", "state names that do not sort in their order", "a Triton server mixes such states up (server#8586)", SILENT, "pad numbers with zeros"),
    Check("batch-size", "error", "a node that holds the batch size", "a device stamps its number of streams onto the inputs", f"{SILENT} at the graph's own size", "write 0 or -1 for the rows in Reshape and Expand"),
    # ---- INT8
    Check("conv-data", "error", "a Conv whose data input has no Q/DQ (weight-only)", "it runs in float", SILENT_FLOAT, "quantise its input, or list it: --float-conv NODE=REASON"),
    Check("conv-weight", "error", "a Conv whose weight has no DQ (activation-only)", "it runs in float", SILENT_FLOAT, "quantise its weight, or list it: --float-conv NODE=REASON"),
    Check("kept-float", "error", "a name in the list of float convolutions that is no Conv here", "the list is of another graph, so what it excuses is not what was meant", "never sees the list", "correct the list"),
    Check("weight-axis", "error", "weights that are quantised along another axis than 0", "it runs in float", SILENT_FLOAT, "use axis=0, the output channels"),
    Check("weight-scale-count", "error", "weights without one scale for each output channel", "one scale for all costs accuracy; another count is refused", "one scale: builds without a word; another count: refuses, `number of scales is not equal`", "quantise per output channel"),
    Check("int32-bias", "error", "a DQ that reads INT32", "biases stay in float", "refuses: `input has type Int32 but must have type`", "leave biases in float (QuantizeBias=False in ONNX Runtime)"),
    Check("zero-point-type", "error", "a zero point that is missing, computed or UINT8", "UINT8 is read as INT8: values above 127 clip", "UINT8 0: warns `Defaulting to INT8` and builds; none: builds without a word", "quantise activations to INT8 with zero point 0"),
    Check("zero-point-value", "error", "a zero point that is not 0", "TensorRT quantises symmetrically", "refuses: `Non-zero zero point is not supported`", "quantise symmetrically (ActivationSymmetric=True in ONNX Runtime)"),
    Check("scale-constant", "error", "a scale that is computed", "TensorRT needs it when it builds", SILENT + " (a product of constants)", "fold it into a constant"),
    Check("scale-type", "error", "a scale that is not float32", "FP16 scales do not build on Orin (TensorRT#4832)", "float16 scales beside float32 data: refuses, `must be of same type`", "export with float32 scales"),
    Check("scale-value", "error", "a scale that is 0, negative or not finite", "it is no scale", "refuses: `Scale coefficients must all be positive`; infinite: builds without a word", "calibrate with frames that move this tensor"),
    Check("scale-count", "error", "an activation with more than one scale", "TensorRT quantises activations per tensor", SILENT_FLOAT, "use one scale for the whole tensor"),
    Check("pair-scales", "error", "a Q and a DQ behind it with different scales", "every value is multiplied by their ratio", SILENT, "use one scale for both"),
    Check("int8-constant", "error", "an INT8 constant that is read by anything but Q or DQ", "TensorRT has INT8 constants for DQ only", "refuses: `only allowed before DQ`", "dequantise first, then Where, Add, …"),
    Check("state-path", "error", "Q/DQ on a way from a float state to a float state", "rounding adds up along the stream: 6-25 dB instead of 52", SILENT, "keep state math in float"),
    Check("vector-qdq", "warning", "Q/DQ on a vector: a gate, pooled features, a classifier's input", "gates lose accuracy, and a product of one row wins no time", SILENT, "leave vectors in float"),
    Check("int8-state", "error", "an INT8 state that is read or written at another scale than the convolution's behind it", "the state is rounded twice, or scaled by the ratio", SILENT, "use the following convolution's input scale at both ends"),
    Check("residual-add", "warning", "a residual add with both branches quantised", "it blocks TensorRT's Conv+Add+ReLU fusion (TensorRT#3270)", f"{SILENT}; RTX does not show the fusion", "keep the shortcut's Q/DQ, remove the main path's"),
    Check("shortcut-float", "warning", "a residual add whose shortcut is in float", "a whole feature map is moved at four times the bytes", SILENT, "quantise the shortcut"),
    Check("relu-qdq", "warning", "Q/DQ between a Conv and its activation", "it blocks their fusion", SILENT, "quantise behind the activation only"),
    Check("quantised-twice", "warning", "a feature map that is quantised more than once", "each is a kernel more, and different scales round twice", SILENT, "quantise once and share the DQ"),
    Check("float-map", "warning", "a feature map that crosses a block's border in float", "four times the bytes, and the reader is not fused", SILENT, "let the reader use the DQ, or list the convolution: --float-conv NODE=REASON"),
    # ---- FP16
    Check("half-conv", "error", "a Conv of a float16 graph that computes in float32", "it runs in float: TensorRT 11 takes types from the graph alone", SILENT_FLOAT + "; between casts RTX runs it in half all the same", "cast its input and store its weight and bias in float16, or list it: --float-conv NODE=REASON"),
    Check("half-state-math", "error", "float16 arithmetic on state vectors or gates", "a running mean stalls: (1 - a) times the change is below half a unit", SILENT, "cast to float16 only where the gate meets the feature map"),
)  # fmt: skip

BY_NAME = {check.name: check for check in CHECKS}


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: Name of the check, one of `BY_NAME`.
        where: Node or tensor.
        message: What is wrong and what to do.
    """

    check: str
    where: str
    message: str

    def __post_init__(self) -> None:
        if self.check not in BY_NAME:
            raise ValueError(f"check must be a name in export/checks/named.py, got {self.check!r}")

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return BY_NAME[self.check].severity

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.check} [{self.where}]: {self.message}"


def found(check: str, where: str, what: str) -> Finding:
    """A finding whose message ends with the check's fix."""
    return Finding(check, where, f"{what}; {BY_NAME[check].fix}")


def explained(checks: Iterable[Check] = CHECKS) -> str:
    """The checks as text, one paragraph each."""
    return "\n\n".join(
        f"{check.name} ({check.severity})\n  finds    {check.finds}\n  why      {check.why}\n"
        f"  builder  {check.builder}\n  fix      {check.fix}"
        for check in checks
    )


def markdown(checks: Iterable[Check] = CHECKS) -> str:
    """The checks as a table."""
    lines = ["| check | | finds | why | NVIDIA's builder | fix |", "|---|---|---|---|---|---|"]
    for check in checks:
        cells = (check.finds, check.why, check.builder, check.fix)
        texts = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| `{check.name}` | {check.severity} | {texts} |")
    return "\n".join(lines)
