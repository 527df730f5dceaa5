"""Another number of batch rows in an ONNX file, without the package onnx: a device has none.

A step graph names its batch size only in the shapes of its inputs and outputs; no node holds it.
So stamping N rows is a change of a few bytes in the protobuf, whose wire format is simple: a
message is a row of fields, a field is a number with a wire type, and its value.
Sources: https://protobuf.dev/programming-guides/encoding and onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_GRAPH = 7
GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 11, 12, 13
VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE, SHAPE_DIM = 2, 1, 2, 1
DIM_VALUE, DIM_PARAM = 1, 2
OPEN_AXIS = b"N"


@dataclass(frozen=True)
class _Field:
    """One field: its value's bytes, and all its bytes."""

    number: int
    wire_type: int
    value: memoryview
    whole: memoryview


def with_rows(model: bytes, rows: int) -> bytes:
    """A step graph with N rows on every input and output.

    Shapes of tensors in between are left out: they hold the old N, and every engine infers them.

    Args:
        model: A serialised ONNX model.
        rows: The new first size, N >= 1.

    Returns:
        The serialised model with N rows.

    Raises:
        ValueError: `rows` < 1, or `model` is no protobuf or holds no graph.
    """
    if rows < 1:
        raise ValueError(f"rows must be >= 1, got {rows}")
    return _stamped(model, _varint(DIM_VALUE << 3 | VARINT) + _varint(rows))


def with_open_rows(model: bytes) -> bytes:
    """A step graph whose number of rows is open: every call may bring another one.

    Args:
        model: A serialised ONNX model.

    Returns:
        The serialised model, the first size of its inputs and outputs named `N`.

    Raises:
        ValueError: `model` is no protobuf or holds no graph.
    """
    return _stamped(model, _varint(DIM_PARAM << 3 | BYTES) + _varint(len(OPEN_AXIS)) + OPEN_AXIS)


def _stamped(model: bytes, first_dim: bytes) -> bytes:
    fields = list(_fields(memoryview(model)))
    if not any(field.number == MODEL_GRAPH and field.wire_type == BYTES for field in fields):
        raise ValueError("no graph in these bytes; an ONNX model must be given")
    return _message(
        _changed(field, lambda graph: _stamped_graph(graph, first_dim))
        if field.number == MODEL_GRAPH
        else field.whole
        for field in fields
    )


def _stamped_graph(graph: memoryview, first_dim: bytes) -> bytes:
    def stamped_shape(shape: memoryview) -> bytes:
        dims = list(_fields(shape))
        # a scalar has no batch axis
        return _message(
            [_changed(dim, lambda _: first_dim) for dim in dims[:1]]
            + [dim.whole for dim in dims[1:]]
        )

    change: Callable[[memoryview], bytes] = stamped_shape
    for number in (TENSOR_SHAPE, TYPE_TENSOR, VALUE_TYPE):
        change = _inside(number, change)
    return _message(
        _changed(field, change) if field.number in (GRAPH_INPUT, GRAPH_OUTPUT) else field.whole
        for field in _fields(graph)
        if field.number != GRAPH_VALUE_INFO
    )


def _inside(number: int, change: Callable[[memoryview], bytes]) -> Callable[[memoryview], bytes]:
    """A change of the one field of this number in a message."""

    def changed(message: memoryview) -> bytes:
        return _message(
            _changed(field, change) if field.number == number else field.whole
            for field in _fields(message)
        )

    return changed


def _changed(field: _Field, change: Callable[[memoryview], bytes]) -> bytes:
    value = change(field.value)
    return _varint(field.number << 3 | BYTES) + _varint(len(value)) + value


def _message(parts: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def _fields(message: memoryview) -> Iterator[_Field]:
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        wire_type = key & 7
        if wire_type == VARINT:
            value_start, (_, position) = position, _read_varint(message, position)
        elif wire_type == BYTES:
            length, value_start = _read_varint(message, position)
            position = value_start + length
        elif wire_type in (FIXED64, FIXED32):
            value_start, position = position, position + (8 if wire_type == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}: no ONNX model")
        if position > len(message):
            raise ValueError(f"a field at byte {start} is cut off: no ONNX model")
        yield _Field(key >> 3, wire_type, message[value_start:position], message[start:position])


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError(f"a number at byte {position} does not end: no ONNX model")


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
