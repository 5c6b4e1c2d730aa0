"""The usage that an engine reports in an answer: tokens of prompt and completion, as OpenAI's API names them.

It is read beside the answer, which is neither changed nor held back for it. Memory is bounded: of an answer as events
only its end is kept, and a longer one as JSON than `MAX_JSON` is not read. Anything else than two counts gives none.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from privml.base.errors import EvidenceError
from privml.base.strictjson import check_structure, first_repeated

MAX_JSON = 256 * 1024
"""Bytes of an answer as JSON that are kept and read."""
MAX_END = 16 * 1024
"""Bytes of an answer as events that are read; twice as many are kept at most."""
MAX_TOKENS = 2**40
_EVENTS = 4
"""How many events at the end of an answer are looked at: usage is in the last one, or before `[DONE]`."""
_JSON, _EVENT_STREAM = "application/json", "text/event-stream"
_DATA = b"data:"


class UsageReader:
    """Reads the usage in an answer of ``content_type`` whose bytes it is given one after the other."""

    def __init__(self, content_type: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self._events = kind == _EVENT_STREAM
        self._reading = self._events or kind == _JSON
        self._kept = bytearray()
        self._found: tuple[int, int] | None = None
        self._looked = False

    def add(self, piece: bytes) -> None:
        """Take the next bytes."""
        if not self._reading:
            return
        self._looked = False
        self._kept += piece
        if self._events and len(self._kept) > 2 * MAX_END:
            del self._kept[:-MAX_END]
        elif not self._events and len(self._kept) > MAX_JSON:
            self._reading = False
            self._kept.clear()

    def usage(self) -> tuple[int, int] | None:
        """Tokens of prompt and completion, as the bytes so far report them; None if they report none."""
        if not self._reading:
            return None
        if not self._looked:
            texts = _last_events(bytes(self._kept)) if self._events else [bytes(self._kept)]
            self._found = next((found for text in texts if (found := _usage(text)) is not None), None)
            self._looked = True
        return self._found


def _last_events(data: bytes) -> list[bytes]:
    """The data of the last events, from the end. An event of several data lines is not one of OpenAI's API."""
    lines = data[-MAX_END:].replace(b"\r\n", b"\n").split(b"\n")
    found = [line[len(_DATA) :].strip() for line in reversed(lines) if line.startswith(_DATA)]
    return found[:_EVENTS]


def _usage(text: bytes) -> tuple[int, int] | None:
    try:
        decoded = text.decode("utf-8")
        check_structure(decoded, what="answer")
        value = json.loads(decoded, object_pairs_hook=_object)
    except (EvidenceError, ValueError):
        return None
    usage = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (prompt, completion) if _is_count(prompt) and _is_count(completion) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if first_repeated(name for name, _ in pairs) is not None:
        raise ValueError
    return dict(pairs)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS
