"""Protobuf's own classes of BuildKit's messages, to hold ours against."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from components.metrics.program import messages


def _classes() -> dict[str, Any]:
    """A class for each message."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="buildkit.proto",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )
    for message, fields in messages.FIELDS.items():
        entry = file.message_type.add(name=message)
        for number, name, kind in messages.fields_of(fields):
            field = entry.field.add(name=name, number=number)
            many, kind = kind.startswith("*"), kind.removeprefix("*")
            field.label = field_type.LABEL_REPEATED if many else field_type.LABEL_OPTIONAL
            if kind == messages.TIME or kind[0].isupper():
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in messages.FIELDS
    }


MESSAGES = _classes()
