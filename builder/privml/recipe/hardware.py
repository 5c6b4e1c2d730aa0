"""Fields of a recipe: the size of a machine and the number of its devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from privml.base.sizes import MAX_VCPUS, size_of
from privml.recipe.platform import MOST
from privml.recipe.section import MACHINE, MEMORY_PATTERN, MEMORY_UNITS, PROCESSORS, Section, about

MIB = 1 << 20
MIN_MEMORY = 512 * MIB


def memory_size(value: object) -> int:
    """``2GiB`` in bytes."""
    try:
        size = size_of(value if isinstance(value, str) else "", MEMORY_UNITS)
    except ValueError as error:
        raise ValueError(f"got `{value}`, expected a size such as 2GiB or 1536MiB") from error
    if size < MIN_MEMORY:
        raise ValueError(f"got {value}, expected at least {MIN_MEMORY // MIB}MiB")
    return size


def kind_and_count(value: object) -> object:
    """``{virtio-blk: 2}`` as the fields of a `Device`."""
    if isinstance(value, dict) and len(value) == 1:
        kind, count = next(iter(value.items()))
        return {"kind": kind, "count": count}
    raise ValueError(f"got `{value}`, expected one `KIND: COUNT`, such as `virtio-blk: 2`")


class Device(Section):
    """The number of devices of one kind in the guest."""

    kind: Literal["virtio-blk", "virtio-net"]
    count: Annotated[int, Field(ge=1)]

    @field_validator("count")
    @classmethod
    def _bounded(cls, value: int, info: ValidationInfo) -> int:
        most = MOST.get(info.data.get("kind", ""), value)
        if value > most:
            raise ValueError(f"got `{value}`, expected 1 to {most}")
        return value


DEVICE_SCHEMA = {
    "type": "object",
    "properties": {kind: {"type": "integer", "minimum": 1, "maximum": most} for kind, most in MOST.items()},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}


class Shape(Section):
    """A machine size for which measurements are predicted."""

    vcpus: Annotated[int, about("Number of virtual CPUs.", 2, PROCESSORS, ge=1, le=MAX_VCPUS)]
    # In bytes.
    memory: Annotated[
        int,
        BeforeValidator(memory_size),
        about("Memory of the machine, in MiB, GiB or TiB; at least 512MiB.", "2GiB", MACHINE),
        WithJsonSchema({"type": "string", "pattern": MEMORY_PATTERN}),
    ]
