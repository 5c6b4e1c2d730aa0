"""Fields of a recipe: programs of the image's author."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from privml.base.sizes import size_of
from privml.events import services as own
from privml.recipe.finding import RuleBroken
from privml.recipe.section import CONFIG, MEMORY_PATTERN, MEMORY_UNITS, Section, about


def _program(value: list[str]) -> list[str]:
    if not value or not value[0].startswith("/"):
        raise ValueError(f"got `{' '.join(value)}`, expected an absolute path first, such as /usr/bin/python3")
    for word in value:
        if not word or not word.isprintable():
            raise ValueError("got an empty or unprintable word, expected printable text")
    return value


def _service_memory(value: object) -> int:
    try:
        return size_of(value if isinstance(value, str) else "", MEMORY_UNITS)
    except ValueError as error:
        raise ValueError(f"got `{value}`, expected a size such as 64MiB") from error


def _variables(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not own.VARIABLE.match(name) or name in RESERVED_VARIABLES:
            raise ValueError(f"got `{name}`, expected capitals other than {', '.join(RESERVED_VARIABLES)}")
        if not text.isprintable():
            raise ValueError(f"{name}: expected printable text")
    return value


RESERVED_VARIABLES = (own.SOCKET_VARIABLE, "PATH", "LANG")


class Service(Section):
    """A program of the image's author, reached at /x/NAME/ through the agent under the attested keys."""

    run: Annotated[
        list[str],
        AfterValidator(_program),
        about(
            "The program and its arguments. It must listen on the unix socket that $SOCKET names.",
            "[/usr/bin/python3, /usr/lib/acme/metrics.py]",
            CONFIG,
            min_length=1,
            max_length=64,
        ),
    ]
    environment: Annotated[
        dict[str, str],
        AfterValidator(_variables),
        about("Further environment variables.", "{ACME_LEVEL: info}", CONFIG, max_length=32),
    ] = Field(default_factory=dict)
    memory: Annotated[
        int,
        BeforeValidator(_service_memory),
        about("The most memory that it may use.", "64MiB", CONFIG),
        WithJsonSchema({"type": "string", "pattern": MEMORY_PATTERN}),
    ]
    scratch: Annotated[
        int | None,
        BeforeValidator(_service_memory),
        about(
            "The size of its /tmp, which is its own, empty at each start, and a part of `memory`; 64MiB by default.",
            "32MiB",
            CONFIG,
        ),
        WithJsonSchema({"type": "string", "pattern": MEMORY_PATTERN}),
    ] = None
    required: Annotated[
        bool, about("Whether the machine fails, for good, when the service does not start or ends.", "true", CONFIG)
    ] = False

    @field_validator("scratch")
    @classmethod
    def _below_memory(cls, value: int | None, info: ValidationInfo) -> int | None:
        memory = info.data.get("memory")
        if value is not None and memory is not None and value >= memory:
            text = f"got {value // own.MIB}MiB, expected less than the {memory // own.MIB}MiB of `memory`"
            raise RuleBroken("service-scratch", f"{text}, of which it is a part")
        return value


ServiceName = Annotated[str, StringConstraints(pattern="^" + own.NAME.pattern[2:-2] + "$", max_length=own.MAX_NAME)]
