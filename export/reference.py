"""ONNX Runtime as the reference: every operation as it is written, nothing rewritten."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort


def reference_of(model: bytes | str) -> Any:
    """An inference session without optimisation.

    Args:
        model: A serialised ONNX model, or its file.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # several take turns: threads that wait in a loop would keep the others' cores busy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
