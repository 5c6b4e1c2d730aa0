"""The fields of requests to an engine, as records: the kinds of value that a field takes, with their bounds.

`engines.requests` checks values against them, and each engine's OpenAPI document is made from them, so a bound has
one place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A string of at most ``limit`` characters, one of ``words`` if there are any.

    ``depth`` bounds the nesting of a text that is JSON, where an engine parses it.
    """

    limit: int
    words: tuple[str, ...] = ()
    depth: int | None = None


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class Integer:
    """An integer from ``low`` to ``high``. A ``private`` one is part of a prompt: no message quotes it."""

    low: int
    high: int
    private: bool = False


@dataclass(frozen=True)
class Boolean:
    """true or false."""


@dataclass(frozen=True)
class Array:
    """From ``least`` to ``limit`` items, all of one kind."""

    of: Text | Integer | Array | Object
    limit: int
    least: int = 0


@dataclass(frozen=True)
class Object:
    """An object with only these fields."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Numbers:
    """An object from integers 0 to ``high``, in decimal, to numbers: at most ``limit`` of them."""

    high: int
    of: Number
    limit: int


@dataclass(frozen=True)
class Schema:
    """A JSON Schema, which an engine compiles to a grammar: any JSON object or boolean within these bounds."""

    depth: int
    keys: int
    """Keys of one object."""
    items: int
    """Items of one array, such as an ``enum``."""
    name: int
    """Characters of a key."""
    text: int
    """Characters of a string."""
    alternatives: int
    """Items of all lists under the keys ``choices`` together."""
    choices: tuple[str, ...]
    refused: tuple[str, ...]
    """Keys whose value must not be a string."""
    number: float
    """Maximum absolute value of numbers."""
    ranges: tuple[tuple[str, float, float], ...]
    """(key, low, high): a narrower range for the number under a key."""
    ordered: tuple[tuple[str, str], ...]
    """(least, most): when both keys hold numbers, the first is not larger than the second."""


Kind = Text | Number | Integer | Boolean | Array | Object | Numbers | Schema


@dataclass(frozen=True)
class Field:
    """One field of an object: its name, the accepted kinds of value, and bounds for its whole content."""

    name: str
    kinds: tuple[Kind, ...] = ()
    """At most one kind per JSON type, except arrays, which are distinguished by their first item."""
    required: bool = False
    nullable: bool = False
    size: int | None = None
    """Maximum bytes of all strings and keys in the value, as UTF-8; status 413 above it."""
    nodes: int | None = None
    """Maximum number of nested values, including the value itself."""
