"""Building blocks of the recipe and platform models: sections, and metadata of their fields."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=64)]


ALL = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
# A change of the root changes its hash, which is in the UKI's command line; a change of the measured configuration
# changes the agent's events too.
ROOT = ("RTMR1", "RTMR2")
CONFIG = (*ROOT, "RTMR3")
FIRMWARE = ("MRTD", "RTMR0")


def about(
    meaning: str,
    example: object = None,
    moves: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    **limits: Any,
) -> Any:
    """A field's meaning, an example and the registers that it moves, for `init`, `lint --explain` and editors.

    ``keys`` are the names that the fields of a mapping may have.
    """
    extra: dict[str, Any] = {"x-moves": list(moves)}
    if keys:
        extra["propertyNames"] = {"enum": list(keys)}
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
