"""What OpenVINO is told about a shift in an INT8 graph: round first, put together then.

Our graph rounds what the convolution reads at once, behind gate and shift:

    Q(Concat(past, present) * [1, gate])        =   Concat(Q(past), Q(present * gate))

Both sides are the same to the bit, because a rounding with one scale for all channels does not
care where a channel comes from. OpenVINO needs the right one twice over. It moves a quantiser in
front of a Concat by itself and loses its scale there (2025.4 and 2026.4: values come out rounded to
whole numbers; docs/measurements/sessions.md), and it moves bytes faster than floats.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

CHANNELS = 1
# how a quantiser's integers become the convolution's input again
DEQUANTISE = ("Convert", "Convert", "Subtract", "Multiply")


def quantise_before_concat(model: Any) -> None:
    """Put the quantiser behind each Concat in front of it.

    Where a graph is not built like ours, a maximum that changes nothing is put between the two, so
    that OpenVINO leaves them where they are.

    Args:
        model: An `openvino.Model`, changed in place.
    """
    opset = import_module("openvino.opset14")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        parts, end = _parts(opset, node.input_value(0)), _dequantised(node)
        if parts is None or end is None:
            _keep_apart(opset, node)
            continue
        low, high = node.input_value(1), node.input_value(2)
        levels = node.get_attributes()["levels"]
        rounded = [opset.fake_quantize(part, low, high, low, high, levels) for part in parts]
        whole = opset.concat([part.output(0) for part in rounded], CHANNELS)
        for target in end.output(0).get_target_inputs():
            target.replace_source_output(whole.output(0))


def _parts(opset: Any, value: Any) -> list[Any] | None:
    """What a quantiser reads, part by part: of a Concat of channels, or a gated one; else None."""
    node = value.get_node()
    if node.get_type_name() == "Concat":
        return _channels_of(node)
    if node.get_type_name() != "Multiply":
        return None
    shift, gate = (node.input_value(place).get_node() for place in (0, 1))
    if (shift.get_type_name(), gate.get_type_name()) != ("Concat", "Pad"):
        return None
    parts = _channels_of(shift)
    if parts is None or len(parts) != 2:
        return None
    past, present = parts
    if not _is_padded_with_ones(gate, past):
        return None
    return [past, opset.multiply(present, gate.input_value(0)).output(0)]


def _channels_of(concat: Any) -> list[Any] | None:
    if concat.get_attributes()["axis"] != CHANNELS:
        return None
    return [concat.input_value(place) for place in range(concat.get_input_size())]


def _is_padded_with_ones(gate: Any, past: Any) -> bool:
    """Whether a gate leaves the past channels as they are."""
    begin, end, value = (_constant(gate.input_value(place)) for place in (1, 2, 3))
    if begin is None or end is None or value is None:
        return False
    channels = past.get_partial_shape()[CHANNELS].get_length()
    return (
        gate.get_attributes()["pad_mode"] == "constant"
        and begin.tolist() == [0, channels, 0, 0]
        and not end.any()
        and float(value) == 1.0
    )


def _dequantised(quantise: Any) -> Any | None:
    """The multiplication that makes a quantiser's integers its input's numbers again, or None."""
    node = quantise
    for kind in DEQUANTISE:
        readers = list(node.output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_node().get_type_name() != kind:
            return None
        node = readers[0].get_node()
    high, integer, scale = (
        _constant(value)
        for value in (quantise.input_value(2), quantise.input_value(4), node.input_value(1))
    )
    if high is None or integer is None or scale is None:
        return None
    # the same numbers, up to float's rounding: no zero point, one scale
    same = scale.size == 1 and np.allclose(integer * scale, high, rtol=1e-5, atol=0)
    return node if same else None


def _keep_apart(opset: Any, quantise: Any) -> None:
    if quantise.input_value(0).get_node().get_type_name() != "Concat":
        return
    lowest = opset.constant(np.finfo(np.float32).min, np.float32)
    same = opset.maximum(quantise.input_value(0), lowest)
    quantise.input(0).replace_source_output(same.output(0))


def _constant(value: Any) -> Any | None:
    """A constant's numbers as an array; None for anything that is computed."""
    node = value.get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None
