"""Restrictions on requests to an engine: the record of what it accepts, and the check that applies the record.

An engine is started a few times per boot, so requests that crash it or keep it busy forever disable the guest.
Engines accept undocumented fields, wrap large numbers and silently ignore values of a wrong type. Each field
therefore has its types and bounds (`engines.fields`), and other values are refused with the field's name. Nothing
here is specific to one engine: the bounds are part of its record.

Messages name the field, what was found and the bound. They never contain text that could be part of a prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, assert_never

from privml.base.errors import EvidenceError
from privml.engines.fields import Array, Boolean, Field, Integer, Kind, Number, Numbers, Object, Schema, Text

_SHOWN = 40


NOT_FOUND = "not-found"
METHOD = "method"
QUERY = "query"
TOO_LARGE = "too-large"
TOO_MANY = "too-many-values"
NOT_JSON = "not-json"
REPEATED_KEY = "repeated-key"
UNKNOWN_FIELD = "unknown-field"
MISSING_FIELD = "missing-field"
FIELD_TYPE = "field-type"
FIELD_VALUE = "field-value"
CODES = (
    NOT_FOUND,
    METHOD,
    QUERY,
    TOO_LARGE,
    TOO_MANY,
    NOT_JSON,
    REPEATED_KEY,
    UNKNOWN_FIELD,
    MISSING_FIELD,
    FIELD_TYPE,
    FIELD_VALUE,
)
"""Why a request is not passed to the engine, for programs."""


class UnsupportedError(EvidenceError):
    """A request that is not passed to the engine: the HTTP status of the refusal, and one of `CODES`.

    ``methods`` are those that are allowed, where the request's is not.
    """

    def __init__(self, status: int, code: str, message: str, *, methods: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.methods = methods


@dataclass(frozen=True)
class Requests:
    """The requests accepted for one engine."""

    body: int
    """Maximum bytes of a body."""
    fields: Mapping[str, tuple[Field, ...]]
    """Body fields by POST path."""
    readable: frozenset[str]
    """Paths for GET."""
    always: Mapping[str, Any]
    """Fields added to each body; callers cannot set them."""


def check(value: Mapping[str, Any], fields: tuple[Field, ...], path: str) -> None:
    """Raise `UnsupportedError` for the first of ``fields`` whose value does not match its record.

    ``value`` is the body of a request to ``path``, as `json` reads it.
    """
    _object(value, fields, "", f" by {path}")


def _object(value: Mapping[str, Any], fields: tuple[Field, ...], inside: str, by: str = "") -> None:
    unknown = sorted(value.keys() - {field.name for field in fields})
    if unknown:
        raise UnsupportedError(400, UNKNOWN_FIELD, f"field `{inside}{unknown[0][:80]}` is not supported{by}")
    for field in fields:
        if field.name not in value:
            if field.required:
                raise UnsupportedError(400, MISSING_FIELD, f"`{inside}{field.name}`: missing")
            continue
        item = value[field.name]
        if item is None and field.nullable:
            continue
        where = inside + field.name
        _totals(item, field, where)
        _kind(item, field.kinds, where)


def _totals(value: Any, field: Field, where: str) -> None:
    """Check the size of ``value``, which also bounds the work of the following checks."""
    if field.size is None and field.nodes is None:
        return
    nodes = size = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        nodes += 1
        if isinstance(item, dict):
            size += sum(_bytes(key, where) for key in item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str):
            size += _bytes(item, where)
    if field.size is not None and size > field.size:
        raise UnsupportedError(413, TOO_LARGE, f"`{where}`: {size} bytes of text, expected at most {field.size}")
    if field.nodes is not None and nodes > field.nodes:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: {nodes} values, expected at most {field.nodes}")


def _bytes(text: str, where: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: a string with a lone surrogate") from error


def _kind(value: Any, kinds: tuple[Kind, ...], where: str) -> None:
    """Check ``value`` with the kind for its JSON type."""
    named = _name(value)
    matching = [kind for kind in kinds if named in _TYPES[type(kind)]]
    if not matching:
        expected = list(dict.fromkeys(_TYPES[type(kind)][0] for kind in kinds))
        raise UnsupportedError(400, FIELD_TYPE, f"`{where}`: {named}, expected {' or '.join(expected) or 'null'}")
    kind = matching[0]
    if isinstance(kind, Array) and value:
        first = _name(value[0])
        kind = next((one for one in matching if isinstance(one, Array) and first in _TYPES[type(one.of)]), kind)
    match kind:
        case Boolean():
            pass
        case Text():
            _text(value, kind, where)
        case Integer() | Number():
            _number(value, kind, where)
        case Array():
            if not kind.least <= len(value) <= kind.limit:
                least = f"{kind.least} to " if kind.least else "at most "
                raise UnsupportedError(
                    400, FIELD_VALUE, f"`{where}`: {len(value)} items, expected {least}{kind.limit}"
                )
            for index, item in enumerate(value):
                _kind(item, (kind.of,), f"{where}[{index}]")
        case Object():
            _object(value, kind.fields, f"{where}.")
        case Numbers():
            _numbers(value, kind, where)
        case Schema():
            _schema(value, kind, where)
        case _:
            assert_never(kind)


def _text(value: str, kind: Text, where: str) -> None:
    if len(value) > kind.limit:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: {len(value)} characters, expected at most {kind.limit}")
    if kind.words and value not in kind.words:
        raise UnsupportedError(
            400, FIELD_VALUE, f"`{where}`: got `{value[:_SHOWN]}`, expected one of {', '.join(kind.words)}"
        )
    if kind.depth is not None and _nested(value) > kind.depth:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: JSON nested deeper than {kind.depth} levels")


def _nested(text: str) -> float:
    """Nesting depth of the JSON in ``text``; 0 if it is not JSON."""
    try:
        level = [json.loads(text)]
    except RecursionError:
        return math.inf
    except ValueError:
        return 0
    depth = 0
    while level := [child for item in level for child in _children(item)]:
        depth += 1
    return depth


def _number(value: float, kind: Integer | Number, where: str) -> None:
    expected = f"{kind.low:g} to {kind.high:g}" if isinstance(kind, Number) else f"{kind.low} to {kind.high}"
    if isinstance(kind, Integer) and not isinstance(value, int):
        raise UnsupportedError(
            400, FIELD_VALUE, f"`{where}`: got {_shown(value)}, expected an integer from {expected}"
        )
    if not kind.low <= value <= kind.high:
        private = isinstance(kind, Integer) and kind.private
        found = "an integer out of range" if private else f"got {_shown(value)}"
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: {found}, expected {expected}")


def _numbers(value: dict[str, Any], kind: Numbers, where: str) -> None:
    if len(value) > kind.limit:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: {len(value)} keys, expected at most {kind.limit}")
    for key, item in value.items():
        digits = key.isascii() and key.isdigit() and len(key) <= len(str(kind.high))
        if not digits or int(key) > kind.high:
            raise UnsupportedError(
                400, FIELD_VALUE, f"`{where}`: key `{key[:_SHOWN]}`, expected an integer from 0 to {kind.high}"
            )
        _kind(item, (kind.of,), f"{where}.{key}")


def _schema(value: Any, kind: Schema, where: str) -> None:
    alternatives = 0
    level = [value]
    for _ in range(kind.depth):
        for item in level:
            if isinstance(item, dict):
                alternatives += _schema_object(item, kind, where)
            elif isinstance(item, list):
                if len(item) > kind.items:
                    raise UnsupportedError(
                        400, FIELD_VALUE, f"`{where}`: an array of {len(item)} items, expected at most {kind.items}"
                    )
            elif isinstance(item, str):
                if len(item) > kind.text:
                    raise UnsupportedError(
                        400,
                        FIELD_VALUE,
                        f"`{where}`: a string of {len(item)} characters, expected at most {kind.text}",
                    )
            elif _is_number(item) and not -kind.number <= item <= kind.number:
                raise UnsupportedError(
                    400,
                    FIELD_VALUE,
                    f"`{where}`: got {_shown(item)}, expected {-kind.number:.0f} to {kind.number:.0f}",
                )
        level = [child for item in level for child in _children(item)]
        if not level:
            break
    else:
        raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: nested deeper than {kind.depth} levels")
    if alternatives > kind.alternatives:
        lists = ", ".join(f"`{choice}`" for choice in kind.choices)
        raise UnsupportedError(
            400,
            FIELD_VALUE,
            f"`{where}`: {alternatives} alternatives in {lists}, expected at most {kind.alternatives}",
        )


def _schema_object(item: dict[str, Any], kind: Schema, where: str) -> int:
    """Check one object of a schema without what is in it; the number of alternatives that it lists."""
    if len(item) > kind.keys:
        raise UnsupportedError(
            400, FIELD_VALUE, f"`{where}`: an object of {len(item)} keys, expected at most {kind.keys}"
        )
    longest = max(map(len, item), default=0)
    if longest > kind.name:
        raise UnsupportedError(
            400, FIELD_VALUE, f"`{where}`: a key of {longest} characters, expected at most {kind.name}"
        )
    for word in kind.refused:
        if isinstance(item.get(word), str):
            raise UnsupportedError(400, FIELD_VALUE, f"`{where}`: a schema with `{word}` is not supported")
    for word, low, high in kind.ranges:
        number = item.get(word)
        if _is_number(number) and not low <= number <= high:
            raise UnsupportedError(
                400, FIELD_VALUE, f"`{where}`: `{word}` {_shown(number)}, expected {low:.0f} to {high:.0f}"
            )
    for least, most in kind.ordered:
        first, second = item.get(least), item.get(most)
        if _is_number(first) and _is_number(second) and first > second:
            raise UnsupportedError(
                400,
                FIELD_VALUE,
                f"`{where}`: `{least}` {_shown(first)} and `{most}` {_shown(second)}, expected `{least}` <= `{most}`",
            )
    return sum(len(found) for choice in kind.choices if isinstance(found := item.get(choice), list))


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


_TYPES: Mapping[type, tuple[str, ...]] = {
    Text: ("a string",),
    Number: ("a number",),
    Integer: ("a number",),
    Boolean: ("a boolean",),
    Array: ("an array",),
    Object: ("an object",),
    Numbers: ("an object",),
    Schema: ("an object", "a boolean"),
}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(value: object) -> str:
    """The JSON type of ``value``, with its article."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")


def _shown(value: float) -> str:
    """A number in a message; `json` reads 1e999 as infinity."""
    if value in (math.inf, -math.inf):
        return "a number beyond the range of a 64-bit float"
    text = str(value)
    return text if len(text) <= _SHOWN else f"an integer of {len(text)} digits"
