"""The parts of the GPU check in order: proofs first, then what was asked for most.

Each imports its libraries itself, in its own process: what is not installed skips one part only.
"""

from __future__ import annotations

from collections.abc import Iterator

from export.gpu.effort import Effort
from export.gpu.row import Row
from export.gpu.runner import Part


def _learning(effort: Effort) -> Iterator[Row]:
    from export.gpu.learning import learning_rows

    return learning_rows(effort)


def _resume(effort: Effort) -> Iterator[Row]:
    from export.gpu.learning import resume_rows

    return resume_rows(effort)


def _law(effort: Effort) -> Iterator[Row]:
    from export.gpu.law import law_rows

    return law_rows(effort)


def _speed(effort: Effort) -> Iterator[Row]:
    from export.gpu.speed import speed_rows

    return speed_rows(effort)


def _steps(effort: Effort) -> Iterator[Row]:
    from export.gpu.steps import step_rows

    return step_rows(effort)


def _onnx(effort: Effort) -> Iterator[Row]:
    from export.gpu.onnx_step import onnx_rows

    return onnx_rows(effort)


def _engines(effort: Effort) -> Iterator[Row]:
    from export.gpu.engine_step import engine_rows

    return engine_rows(effort)


def _loader(effort: Effort) -> Iterator[Row]:
    from export.gpu.loader import loader_rows

    return loader_rows(effort)


def _profile(effort: Effort) -> Iterator[Row]:
    from export.gpu.profiled import profile_rows

    return profile_rows(effort)


PARTS = (
    Part("learning", "training steps in float32 and bfloat16", 45, True, _learning),
    Part("resume", "a resumed run against an uninterrupted one", 45, True, _resume),
    Part("law", "steps against the clip", 45, True, _law),
    Part("speed", "training speed, TDRL and its plain backbone", 100, False, _speed),
    Part("steps", "a live step in PyTorch", 60, False, _steps),
    Part("onnx", "a live step in ONNX Runtime", 35, False, _onnx),
    Part("engines", "a live step in TensorRT", 80, False, _engines),
    Part("loader", "the loader and the training step", 40, False, _loader),
    Part(
        "profile", "which operations a training and a live step spend time on", 30, False, _profile
    ),
)
TOTAL_S = 480.0
