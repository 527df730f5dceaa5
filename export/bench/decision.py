"""A decision by one step, by the clip graph, and as webcam demos make it: 8 frames in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import onnxruntime as ort
import torch

from export.bench.effort import Case, Effort
from export.bench.models import (
    SEGMENTS,
    Models,
    StepCall,
    choice_of,
    fast_choice,
    name_of,
    noise,
    one_thread_session,
    torch_model,
)
from export.bench.values import Table
from export.step_ratios import cpu_times
from runtime.bundle import CLIP_INPUT

TEXT = (
    f"One thread, CPU time of the process, calls taking turns. *Eager*: the {SEGMENTS} frames of "
    "the window through the same model in PyTorch for every decision. *Clip*: the same as an ONNX "
    "graph in ONNX Runtime. *Step*: one frame and the states, ONNX Runtime in float32 and the "
    "runtime's own choice. Ratios are taken round by round."
)
HEADER = (
    "backbone",
    "eager, ms",
    "clip, ms",
    "step float32, ms",
    "step chosen, ms",
    "clip ÷ step, float32",
    "eager ÷ step, float32",
    "eager ÷ chosen step",
)


def measure(models: Models, effort: Effort) -> Table:
    """The table `decision`."""
    table = Table("decision", "One decision: step, clip, eager recomputation", TEXT, HEADER)
    for case in effort.cases:
        _add(table, models, case, effort)
    return table


def _add(table: Table, models: Models, case: Case, effort: Effort) -> None:
    bundle, name = models.bundle(case), name_of(case)
    with ExitStack() as opened:
        plain = opened.enter_context(one_thread_session(bundle, choice_of("ort", "float32")))
        chosen = opened.enter_context(one_thread_session(bundle, fast_choice()))
        opened.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        calls: dict[str, Callable[[], object]] = {
            "eager": eager_call(case, SEGMENTS),
            "clip": clip_call(models, case, SEGMENTS),
            "step": StepCall(plain, case[1]),
            "chosen": StepCall(chosen, case[1]),
        }
        ms = cpu_times(calls, effort.few_rounds, name, warm_up=2, least_ms=effort.least_ms)
    cells = [str(table.add(f"{name}/{call}", times, "ms")) for call, times in ms.items()]
    ratios = {
        "clip/step": ms["clip"] / ms["step"],
        "eager/step": ms["eager"] / ms["step"],
        "eager/chosen": ms["eager"] / ms["chosen"],
    }
    cells += [str(table.add(f"{name}/{key}", each, "x")) for key, each in ratios.items()]
    table.rows.append((name, *cells))


def eager_call(case: Case, segments: int) -> Callable[[], object]:
    """A clip through the model in PyTorch, as it is after training."""
    model = torch_model(case)
    clip = torch.from_numpy(noise((1, segments, 3, case[1], case[1])))

    def run() -> object:
        with torch.inference_mode():
            return model(clip).mean(dim=1)

    return run


def clip_call(models: Models, case: Case, segments: int) -> Callable[[], object]:
    """A clip through its graph in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path = str(models.clip(case, segments))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    clip = noise((1, segments, case[1], case[1], 3))
    return lambda: session.run(None, {CLIP_INPUT: clip})
