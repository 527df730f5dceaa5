"""What NVIDIA's library says when it fails, and what helps.

Its messages name internals. Each pattern here was reported by users or seen with the real builder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_QUOTED_ERRORS = 4
OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|Tactic Device request|insufficient memory|cudaMalloc failed",
    re.IGNORECASE,
)
HINTS = (
    (
        re.compile(r"Target GPU SM \d+ is not supported", re.IGNORECASE),
        "this TensorRT has no kernels for this GPU: use the one that came with JetPack",
    ),
    (
        OUT_OF_MEMORY,
        "the memory is not enough: close other programs, lower --workspace-mb or add swap",
    ),
    (
        re.compile(r"Could not infer output types.*dequant|weightsHalf", re.IGNORECASE),
        "FP16 scales do not build on Orin (TensorRT#4832): export with float32 scales",
    ),
    (
        re.compile(r"int8 is not configured|Int8 precision has been set", re.IGNORECASE),
        "weak typing needs the INT8 flag: use strong typing",
    ),
    (
        re.compile(r"no optimization profile", re.IGNORECASE),
        "the graph has dynamic shapes: export it with static ones",
    ),
    (
        re.compile(r"shiftIsAllZeros|non-zero zero point", re.IGNORECASE),
        "quantise symmetrically: every zero point must be 0 and INT8",
    ),
    (
        re.compile(r"scale coefficients must all be positive", re.IGNORECASE),
        "a Q/DQ scale is 0, negative or NaN",
    ),
    (
        re.compile(r"input has type Int32 but must have type FP8", re.IGNORECASE),
        "a bias is quantised: leave biases in float",
    ),
    (
        re.compile(r"Quantized constant .* is only allowed before DQ", re.IGNORECASE),
        "an INT8 constant feeds something other than DequantizeLinear: dequantise first",
    ),
    (
        re.compile(r"Plugin not found|UNSUPPORTED_NODE", re.IGNORECASE),
        "the graph has an operator that TensorRT does not know: export with opset 17 or lower",
    ),
    (
        re.compile(r"first input has type UInt8", re.IGNORECASE),
        "cast uint8 to float before anything else, Transpose included",
    ),
    (
        re.compile(
            r"CUDA initialization failure|no CUDA-capable device|driver version is insufficient",
            re.IGNORECASE,
        ),
        "CUDA does not start: check the driver and that this user may use the GPU",
    ),
    (
        re.compile(
            r"not compatible with this version of TensorRT|serializationVersion|Version tag does",
            re.IGNORECASE,
        ),
        "the engine is of another TensorRT: engines are built on the device that runs them",
    ),
    (
        re.compile(r"generated on an incompatible device|expecting compute \d", re.IGNORECASE),
        "the engine is of another GPU: engines are built on the device that runs them",
    ),
    (
        re.compile(r"invalid device context|invalid resource handle", re.IGNORECASE),
        "CUDA was used from another thread or context: one thread makes, steps and closes a "
        "session, and nothing else in the program imports pycuda.autoinit",
    ),
)


def hints_for(texts: Sequence[str]) -> list[str]:
    """What helps against errors that users report often.

    Example:
        >>> hints_for(["Tactic Device request: 900MB Available: 210MB. insufficient memory"])
        ['the memory is not enough: close other programs, lower --workspace-mb or add swap']
    """
    joined = "\n".join(texts)
    return [hint for pattern, hint in HINTS if pattern.search(joined)]


def is_out_of_memory(texts: Sequence[str]) -> bool:
    """Whether the library ran out of memory."""
    return OUT_OF_MEMORY.search("\n".join(texts)) is not None


def explained(what: str, errors: Sequence[str]) -> str:
    """One line of what failed, the library's first errors, each once, and what helps.

    Args:
        what: What was tried, `the build failed`.
        errors: What the library logged; may be empty.
    """
    said = [text.strip() for text in dict.fromkeys(errors)]
    quoted = "; ".join(said[:MAX_QUOTED_ERRORS]) or "nothing in its log"
    return "; ".join([f"{what}, TensorRT says: {quoted}", *hints_for(said)])
