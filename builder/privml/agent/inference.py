"""Which requests reach the engine, and in which form: an allow-list of paths and fields, from the engine's record.

An engine takes more than OpenAI's API: fields that choose a slot, keep a cache or read files. What is not on the list
is refused by name, never dropped: a caller must not believe that something took effect. Fields that the record forces
are sent in every request.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from privml.base.errors import EvidenceError
from privml.engines.engine import Engine

MAX_DEPTH = 64
_SCHEMAS = frozenset({"response_format", "tools"})
"""Fields out of which the engine makes a grammar."""
_COSTLY = ("pattern", "$ref")


class UnsupportedError(EvidenceError):
    """A request that the engine will not be shown; ``status`` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def engine_body(engine: Engine, method: str, path: str, query: str, body: bytes) -> bytes:
    """The body to send to ``engine`` for a caller's request; ``UnsupportedError`` when it is not to be sent."""
    fields = engine.requests.get(path)
    if fields is None and path not in engine.readable:
        known = ", ".join(sorted((*engine.requests, *engine.readable)))
        raise UnsupportedError(404, f"there is no {path[:80]} here: only {known}")
    expected = "GET" if fields is None else "POST"
    if method != expected:
        raise UnsupportedError(405, f"{path} takes {expected}")
    if query:
        raise UnsupportedError(400, f"{path} takes no query")
    if fields is None:
        if body:
            raise UnsupportedError(400, f"{path} takes no body")
        return b""
    value = _object(body)
    unknown = sorted(value.keys() - fields)
    if unknown:
        raise UnsupportedError(400, f"field `{unknown[0][:80]}` is not supported by {path}")
    _check_nested(value)
    return json.dumps({**value, **engine.forced}, ensure_ascii=True, allow_nan=False).encode("ascii")


def _check_nested(value: dict[str, Any]) -> None:
    """What is inside must not end the engine: it runs once a boot, and a machine without it is over.

    A schema nested 9000 deep makes one crash; ``pattern`` and ``$ref`` can make a grammar that keeps its one slot
    busy for minutes or for good, and leaving does not stop that.
    """
    level: list[tuple[Any, bool]] = [(child, key in _SCHEMAS) for key, child in value.items()]
    for _ in range(MAX_DEPTH):
        below: list[tuple[Any, bool]] = []
        for item, schema in level:
            if isinstance(item, dict):
                for word in _COSTLY if schema else ():
                    if isinstance(item.get(word), str):
                        raise UnsupportedError(400, f"a schema with `{word}` is not supported")
                below.extend((child, schema) for child in item.values())
            elif isinstance(item, list):
                below.extend((child, schema) for child in item)
        if not below:
            return
        level = below
    raise UnsupportedError(400, f"the body is nested deeper than {MAX_DEPTH} levels")


def _object(body: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise UnsupportedError(400, "the body gives a key twice")
        return result

    def constant(_: str) -> NoReturn:
        raise UnsupportedError(400, "the body holds a number that is not one")

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        # Never the parser's own words: they may quote the prompt.
        raise UnsupportedError(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise UnsupportedError(400, "the body is not a JSON object")
    return value
