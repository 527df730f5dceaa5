"""From a model to checked ONNX files: opset 17, IR 8, static shapes, no local paths."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxsim
import torch
from torch import Tensor, nn

from export.step_graph import ClipGraph, StepGraph
from runtime.bundle import CLIP_INPUT, FRAME_INPUT, LOGITS_OUTPUT, RESET_INPUT, StateSpec
from runtime.errors import ExportError
from runtime.files import whole_file
from runtime.preprocess import PictureRule
from train.model.tdrl import Tdrl

OPSET = 17  # the newest that TensorRT 8.6 reads
IR_VERSION = 8


def step_onnx_from_model(
    model: Tdrl, picture: PictureRule, path: Path, *, rows: int = 1
) -> tuple[StateSpec, ...]:
    """Export the step graph.

    Args:
        model: A causal model in evaluation mode, on the CPU.
        picture: The size of its input.
        path: The ONNX file; whole or not at all.
        rows: Streams N.

    Returns:
        The graph's states in order.

    Raises:
        ExportError: The model cannot stream, or the exporter gave something else than asked for.
    """
    graph = StepGraph(model)
    states = model.zero_state(rows, picture.height_px, picture.width_px)
    specs = tuple(
        StateSpec(f"state_in_{i:02d}", f"state_out_{i:02d}", tuple(state.shape), "float32")
        for i, state in enumerate(states)
    )
    frame = torch.zeros(rows, picture.height_px, picture.width_px, 3, dtype=torch.uint8)
    _export(
        graph,
        (frame, torch.ones(rows, 1), *states),
        [FRAME_INPUT, RESET_INPUT, *(spec.name_in for spec in specs)],
        [LOGITS_OUTPUT, *(spec.name_out for spec in specs)],
        path,
    )
    return specs


def clip_onnx_from_model(
    model: Tdrl, picture: PictureRule, num_segments: int, path: Path, *, rows: int = 1
) -> None:
    """Export the clip graph.

    Args:
        model: A model in evaluation mode, on the CPU.
        picture: The size of its input.
        num_segments: Frames T of a clip.
        path: The ONNX file; whole or not at all.
        rows: Clips N.

    Raises:
        ExportError: The exporter gave something else than asked for.
    """
    shape = (rows, num_segments, picture.height_px, picture.width_px, 3)
    clip = torch.zeros(shape, dtype=torch.uint8)
    _export(ClipGraph(model), (clip,), [CLIP_INPUT], [LOGITS_OUTPUT], path)


def _export(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    path: Path,
) -> None:
    with whole_file(path) as part:
        with warnings.catch_warnings():
            # the tracing exporter is the only one that gives opset 17 (docs/decisions.md)
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(),
                inputs,
                str(part),
                dynamo=False,
                opset_version=OPSET,
                input_names=input_names,
                output_names=output_names,
            )
        proto = finished(onnx.load(str(part)))
        if RESET_INPUT in input_names:
            _declare_reset(proto, rows=inputs[0].shape[0])
        _require_names(proto, input_names, output_names)
        onnx.save(proto, str(part))


def finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Simplify, strip what could name this machine, and check a graph.

    Raises:
        ExportError: The simplifier cannot vouch for its result, or the graph is not valid.
    """
    simple, is_same = onnxsim.simplify(proto)
    if not is_same:
        raise ExportError("onnxsim changed the graph's results; report the model's architecture")
    simple.ir_version = IR_VERSION
    strip_metadata(simple)
    try:
        onnx.checker.check_model(simple, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(f"the exported graph is not valid ONNX: {err}") from err
    opset = max(entry.version for entry in simple.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > OPSET:
        raise ExportError(f"the exporter wrote opset {opset}, TensorRT 8.6 reads up to {OPSET}")
    return simple


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove documentation strings and metadata: exporters put source paths there."""
    proto.doc_string = ""
    proto.graph.doc_string = ""
    proto.graph.name = "tdrl"
    proto.producer_name, proto.producer_version = "tdrl-edge", ""
    del proto.metadata_props[:]
    graph = proto.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for item in (*graph.node, *graph.initializer, *values):
        item.doc_string = ""
        del item.metadata_props[:]


def _declare_reset(proto: onnx.ModelProto, rows: int) -> None:
    """Keep `reset` an input of a model without states, where no node reads it."""
    if any(value.name == RESET_INPUT for value in proto.graph.input):
        return
    reset = onnx.helper.make_tensor_value_info(RESET_INPUT, onnx.TensorProto.FLOAT, [rows, 1])
    proto.graph.input.insert(1, reset)


def _require_names(proto: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    found = ([value.name for value in proto.graph.input], [v.name for v in proto.graph.output])
    if found != (list(inputs), list(outputs)):
        raise ExportError(
            f"the exporter changed inputs or outputs: wanted {inputs} and {outputs}, got {found}"
        )
