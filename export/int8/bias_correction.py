"""Biases that take back what rounding adds to a channel on average.

Rounding errors do not cancel out: a channel that lies below half a step becomes zero everywhere,
a weight's error falls on inputs that are never negative. What is left on average is a shift of
the convolution's output, and its bias can take it back (Nagel et al., arXiv:1906.04721, section
4.2, measured on frames instead of derived from batch norms).

One after another, in the graph's order: a shift that an earlier convolution has lost must not be
taken back again. So the graph runs in pieces, each up to the next convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.int8.conv_stats import ConvStats
from export.int8.probe import with_rows
from export.reference import reference_of


def with_corrected_biases(
    graph: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], stats: Mapping[str, ConvStats]
) -> onnx.ModelProto:
    """An INT8 step graph whose convolutions give the float graph's means.

    Args:
        graph: An INT8 step graph, N = 1.
        feeds: Its inputs, S rows each; states in the dtype the graph stores them in.
        stats: Statistics of the float graph's convolutions on the same rows, by node name.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    biases = {each.name: each for each in copy.graph.initializer}
    for conv, output in _outputs_in_order(with_rows(graph, len(feeds["frame"])), feeds):
        if len(conv.input) < 3 or conv.name not in stats:
            continue
        shift = stats[conv.name].mean_out - output.mean((0, 2, 3), dtype=np.float64)
        name = conv.input[2]
        bias = numpy_helper.to_array(biases[name]) + shift
        biases[name].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), name))
        # the pieces behind see the corrected output
        output += shift.astype(np.float32)[:, None, None]
    return copy


def _outputs_in_order(
    graph: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[onnx.NodeProto, NDArray[np.float32]]]:
    """Each convolution and its output; what the caller changes in it is what the rest reads."""
    constants = {each.name: each for each in graph.graph.initializer}
    computed = [node for node in graph.graph.node if node.op_type != "Constant"]
    for node in graph.graph.node:
        if node.op_type == "Constant":
            value = numpy_helper.to_array(node.attribute[0].t)
            constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    last_use = {name: at for at, node in enumerate(computed) for name in node.input}
    live = dict(feeds)
    start = 0
    for end, node in enumerate(computed, start=1):
        if node.op_type != "Conv":
            continue
        piece = computed[start:end]
        made = [name for each in piece for name in each.output]
        kept = [name for name in made if last_use.get(name, -1) >= end]
        conv_output = node.output[0]
        if conv_output not in kept:
            kept.append(conv_output)
        live |= _run_piece(piece, kept, live, constants, graph)
        yield node, live[conv_output]
        live = {name: value for name, value in live.items() if last_use.get(name, -1) >= end}
        start = end


def _run_piece(
    piece: list[onnx.NodeProto],
    kept: list[str],
    live: Mapping[str, NDArray[Any]],
    constants: Mapping[str, onnx.TensorProto],
    graph: onnx.ModelProto,
) -> dict[str, NDArray[Any]]:
    read = dict.fromkeys(name for node in piece for name in node.input if name)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(live[name].dtype), live[name].shape
        )
        for name in read
        if name in live
    ]
    model = helper.make_model(
        helper.make_graph(
            piece,
            "piece",
            inputs,
            [onnx.ValueInfoProto(name=name) for name in kept],
            [constants[name] for name in read if name in constants],
        ),
        opset_imports=graph.opset_import,
        ir_version=graph.ir_version,
    )
    found = reference_of(model.SerializeToString()).run(
        kept, {each.name: live[each.name] for each in inputs}
    )
    return dict(zip(kept, found, strict=True))
