"""Building blocks of the recipe and platform models: sections, and metadata of their fields."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from privml.events.registers import LAUNCH, MRTD, RTMR0, RTMR1, RTMR2, RTMR3, TDX_REGISTERS, shown
from privml.recipe.finding import RuleBroken

MEMORY_UNITS = ("MiB", "GiB", "TiB")
MEMORY_PATTERN = f"^[1-9][0-9]{{0,6}}({'|'.join(MEMORY_UNITS)})$"
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=64)]


# Which registers a change moves; `lock` and `diff` read this too.
ALL = shown(*TDX_REGISTERS, LAUNCH)
# What is in the root moves its hash, which is in the UKI's command line. The UKI is measured whole into RTMR1 and by
# section into RTMR2; an SNP guest's launch digest has its hash.
ROOT = shown(RTMR1, RTMR2, LAUNCH)
# What the measured configuration holds, such as a model's verity parameters, moves the agent's events too.
CONFIG = shown(RTMR1, RTMR2, RTMR3, LAUNCH)
FIRMWARE = shown(MRTD, RTMR0, LAUNCH)
MACHINE = shown(RTMR0)
# The number and kind of the processors, with which an SNP guest's save areas are made.
PROCESSORS = shown(RTMR0, LAUNCH)
# How the UKI is found: firmware measures its boot options, and the partition table of the disk that it starts from.
BOOT = shown(RTMR0, RTMR1)
# Only in manifest and prediction, where verifiers read it.
RECORDED: tuple[str, ...] = ()


def about(
    meaning: str,
    example: object = None,
    moves: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    key: str = "",
    **limits: Any,
) -> Any:
    """A field's meaning, an example and the registers that it moves, for `init`, `lint --explain` and editors.

    ``keys`` are the names that the fields of a mapping may have; ``key`` stands for any name where they are free.
    """
    extra: dict[str, Any] = {"x-moves": list(moves)}
    if keys:
        extra["propertyNames"] = {"enum": list(keys)}
    if key:
        extra["x-key"] = key
    examples = None if example is None else [example]
    return Field(description=meaning, examples=examples, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """Base of all sections: frozen, strict types, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def given(expected: str) -> BeforeValidator:
    """Refuse null for an optional field, which must be left out instead."""

    def check(value: object) -> object:
        if value is None:
            raise ValueError(f"got nothing, expected {expected}")
        return value

    return BeforeValidator(check)


def one_of(value: str, known: Sequence[str]) -> str:
    """Return ``value`` if it is known; otherwise ``ValueError`` with the known values and a suggestion."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    guess = f"; did you mean `{near[0]}`?" if near else ""
    raise ValueError(f"got `{value}`, expected {' or '.join(known)}{guess}")


def distinct(what: str, keys: Sequence[object]) -> None:
    """Raise if a key is there twice; ``what`` is what the keys name."""
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise RuleBroken("given-twice", f"the same {what} is listed twice")
