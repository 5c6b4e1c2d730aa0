"""Messages of other tools' protobuf files, from tables of their fields, to read back what is written for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPE = descriptor_pb2.FieldDescriptorProto
BOOL, BYTES, STRING = _TYPE.TYPE_BOOL, _TYPE.TYPE_BYTES, _TYPE.TYPE_STRING
UINT32, UINT64 = _TYPE.TYPE_UINT32, _TYPE.TYPE_UINT64

Messages = Mapping[str, Sequence[tuple[str, int, Any, bool]]]
"""Message -> its fields: name, number, a type from above or a message of the table, whether there may be several."""


def empty(package: str, name: str, messages: Messages) -> Any:
    """An empty message ``name`` of ``package``."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for each, fields in messages.items():
        message = file.message_type.add(name=each)
        for field, number, kind, many in fields:
            row = message.field.add(name=field, number=number, label=3 if many else 1)
            if isinstance(kind, str):
                row.type, row.type_name = _TYPE.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                row.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))()
