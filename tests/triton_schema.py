"""The part of Triton's model_config.proto that we write, for a strict parse without a server.

Text that names another field, another enum value, or repeats a single one is refused.
Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

# a name with `*` is repeated; a type is a scalar, an enum or a message
MESSAGES = {
    "ModelConfig": {
        "name": "string",
        "platform": "string",
        "max_batch_size": "int32",
        "*input": "ModelInput",
        "*output": "ModelOutput",
        "sequence_batching": "SequenceBatching",
        "*instance_group": "InstanceGroup",
    },
    "ModelInput": {"name": "string", "data_type": "DataType", "*dims": "int64"},
    "ModelOutput": {
        "name": "string",
        "data_type": "DataType",
        "*dims": "int64",
        "label_filename": "string",
    },
    "SequenceBatching": {
        "max_sequence_idle_microseconds": "uint64",
        "oldest": "Oldest",
        "*control_input": "ControlInput",
        "*state": "State",
    },
    "Oldest": {"max_candidate_sequences": "int32"},
    "ControlInput": {"name": "string", "*control": "Control"},
    "Control": {"kind": "Kind", "*fp32_false_true": "float"},
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "DataType",
        "*dims": "int64",
        "*initial_state": "InitialState",
    },
    "InitialState": {
        "name": "string",
        "data_type": "DataType",
        "*dims": "int64",
        "zero_data": "bool",
    },
    "InstanceGroup": {"count": "int32", "kind": "InstanceKind"},
}
ENUMS = {
    "DataType": ("TYPE_INVALID", "TYPE_UINT8", "TYPE_INT8", "TYPE_FP16", "TYPE_FP32"),
    "Kind": ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END"),
    "InstanceKind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU"),
}


def parse_config(text: str) -> Any:
    """A `config.pbtxt` as a message.

    Raises:
        ParseError: Not what the schema allows.
    """
    return text_format.Parse(text, _model_config()())


def _model_config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    field_type = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), start=1):
            field = message.field.add(name=key.lstrip("*"), number=number)
            is_repeated = key.startswith("*")
            field.label = field_type.LABEL_REPEATED if is_repeated else field_type.LABEL_OPTIONAL
            if kind in MESSAGES or kind in ENUMS:
                field.type_name = f".{kind}"
                field.type = field_type.TYPE_MESSAGE if kind in MESSAGES else field_type.TYPE_ENUM
            else:
                field.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))
