"""Which requests reach the engine, and in which form: the paths and fields of its record, within their bounds.

An engine takes more than OpenAI's API: fields that choose a slot, keep a cache or read files. What is not on the
record's list is refused by name, never dropped: a caller must not believe that something took effect.
"""

from __future__ import annotations

import json
import math
from typing import Any

from privml.engines.requests import Requests, UnsupportedError, check

_MAX_DIGITS = 400
"""A longer integer is beyond every bound, and Python reads it in a time that grows with the square of its length."""


def engine_body(allowed: Requests, method: str, path: str, query: str, body: bytes) -> bytes:
    """The body to send to the engine for a caller's request; ``UnsupportedError`` when it is not to be sent."""
    if path not in allowed.readable and path not in allowed.fields:
        known = ", ".join(sorted((*allowed.fields, *allowed.readable)))
        raise UnsupportedError(404, f"there is no {path[:80]} here: only {known}")
    expected = "GET" if path in allowed.readable else "POST"
    if method != expected:
        raise UnsupportedError(405, f"{path} takes {expected}")
    if query:
        raise UnsupportedError(400, f"{path} takes no query")
    if path in allowed.readable:
        if body:
            raise UnsupportedError(400, f"{path} takes no body")
        return b""
    if len(body) > allowed.body:
        raise UnsupportedError(413, f"the body: {len(body)} bytes, expected at most {allowed.body}")
    value = _decoded(body)
    check(value, allowed.fields[path], path)
    return json.dumps({**value, **allowed.always}, ensure_ascii=True, allow_nan=False).encode("ascii")


def _decoded(body: bytes) -> dict[str, Any]:
    """The object in ``body``. Numbers that are none, or too large, stay: the check of their field refuses them."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise UnsupportedError(400, "the body gives a key twice")
        return result

    def integer(text: str) -> int | float:
        return int(text) if len(text) <= _MAX_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        # Never the parser's own words: they may quote the prompt.
        raise UnsupportedError(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise UnsupportedError(400, "the body is not a JSON object")
    return value
