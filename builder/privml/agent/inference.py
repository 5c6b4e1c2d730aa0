"""Filter requests to the engine: only the paths and fields of the engine's record, within their bounds.

An engine accepts more than OpenAI's API: fields that choose a slot, keep a cache or read files. A field that is not
in the record is refused by name, not dropped, so that a caller never believes that it took effect.

Parsed JSON can take fifty times the memory of its bytes. Objects and arrays are therefore counted before a body is
parsed, and one body is parsed at a time.
"""

from __future__ import annotations

import json
import math
import re
import threading
from typing import Any

from privml.engines.requests import (
    METHOD,
    NOT_FOUND,
    NOT_JSON,
    QUERY,
    REPEATED_KEY,
    TOO_LARGE,
    TOO_MANY,
    Requests,
    UnsupportedError,
    check,
)

_MAX_DIGITS = 400
"""Maximum digits of an integer. Longer ones exceed every bound, and Python parses them in quadratic time."""
_MAX_CONTAINERS = 20_000
"""Maximum objects and arrays of a body. A conversation of 1,024 messages with tools and calls has a few thousand."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A JSON string, or the rest of the bytes if it has no end. It never steps back, so the time is linear."""
_one_at_a_time = threading.Lock()


def engine_body(allowed: Requests, method: str, path: str, query: str, body: bytes) -> bytes:
    """The body to send to the engine for a caller's request; ``UnsupportedError`` when the request is refused."""
    if path not in allowed.readable and path not in allowed.fields:
        known = ", ".join(sorted((*allowed.fields, *allowed.readable)))
        raise UnsupportedError(404, NOT_FOUND, f"unknown path {path[:80]}, expected one of {known}")
    expected = "GET" if path in allowed.readable else "POST"
    if method != expected:
        raise UnsupportedError(405, METHOD, f"{path} expects {expected}", methods=(expected,))
    if query:
        raise UnsupportedError(400, QUERY, f"{path} takes no query")
    if path in allowed.readable:
        if body:
            raise UnsupportedError(400, TOO_LARGE, f"{path} takes no body")
        return b""
    if len(body) > allowed.body:
        raise UnsupportedError(413, TOO_LARGE, f"body of {len(body)} bytes, expected at most {allowed.body}")
    with _one_at_a_time:
        try:
            return _checked(allowed, path, body)
        except UnsupportedError as error:
            # A new one: the traceback of this one holds what was parsed, until the refusal is sent.
            refused = UnsupportedError(error.status, error.code, error.message)
    raise refused


def _checked(allowed: Requests, path: str, body: bytes) -> bytes:
    """The body for the engine; what was parsed is gone when this returns."""
    _count(body)
    value = _decoded(body)
    check(value, allowed.fields[path], path)
    return _ENCODER.encode({**value, **allowed.always}).encode("ascii")


def _count(body: bytes) -> None:
    """Refuse more than `_MAX_CONTAINERS` objects and arrays, without parsing; brackets in strings do not count."""
    if body.count(b"{") + body.count(b"[") <= _MAX_CONTAINERS:
        return
    rest = _STRING.sub(b"", body)
    found = rest.count(b"{") + rest.count(b"[")
    if found > _MAX_CONTAINERS:
        text = f"the body has {found} objects and arrays, expected at most {_MAX_CONTAINERS}"
        raise UnsupportedError(400, TOO_MANY, text)


def _decoded(body: bytes) -> dict[str, Any]:
    """The object in ``body``. Numbers that are too large become infinities, which their field refuses."""
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        # Not the parser's message: it may quote the prompt.
        raise UnsupportedError(400, NOT_JSON, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise UnsupportedError(400, NOT_JSON, "the body is not a JSON object")
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise UnsupportedError(400, REPEATED_KEY, "the body repeats a key")
    return result


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer)
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False)
