"""ONNX Runtime as the reference: every operation as it is written, nothing rewritten."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import onnxruntime as ort

Rewriting: TypeAlias = Literal["none", "exact", "free"]

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "exact": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "free": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def reference_of(
    model: bytes | str, *, rewriting: Rewriting = "none", threads: int | None = None
) -> Any:
    """An inference session without optimisation.

    Args:
        model: A serialised ONNX model, or its file.
        rewriting: For long runs, what ONNX Runtime may change after all: `exact` fuses operations
            and leaves every quantiser where it is, `free` also changes the order of sums.
        threads: Threads of one run; ONNX Runtime's choice where it is None.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[rewriting]
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # several take turns: threads that wait in a loop would keep the others' cores busy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if rewriting == "exact":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
