"""Read dstack's quote reports: a hexadecimal quote and its event log as JSON.

Source: Dstack-TEE/dstack cc-eventlog/src (``imr`` counts RTMRs from 0; run-time events have type 0x08000001, and the
digest SHA-384 of type, name and payload joined by colons). It is used only to explain differences; extra fields are
ignored.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from typing import Any

from privml.base import strictjson
from privml.base.errors import EvidenceError
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import DSTACK_RUNTIME_EVENT

_MAX_EVENTS = 100_000


def is_report(value: object) -> bool:
    """True for a JSON object with a quote and an event log."""
    return isinstance(value, dict) and isinstance(value.get("quote"), str) and "event_log" in value


def parse(value: dict[str, Any]) -> tuple[bytes, list[LogEntry]]:
    """The quote's bytes and the log's entries (``index`` is an MrIndex); ``EvidenceError`` when malformed."""
    log = value["event_log"]
    if isinstance(log, str):
        log = strictjson.loads(log.encode("utf-8", "replace"), what="event_log")
    if not isinstance(log, list) or len(log) > _MAX_EVENTS:
        raise EvidenceError(f"event_log: expected a list of at most {_MAX_EVENTS} events")
    return _hex(value["quote"], "quote"), [_entry(item, f"event_log[{at}]") for at, item in enumerate(log)]


def _entry(item: object, path: str) -> LogEntry:
    if not isinstance(item, dict):
        raise EvidenceError(f"{path}: expected an object")
    imr, kind, name = item.get("imr"), item.get("event_type"), item.get("event", "")
    if type(imr) is not int or not 0 <= imr <= 3 or type(kind) is not int or not 0 <= kind <= 0xFFFFFFFF:
        raise EvidenceError(f"{path}: expected an imr of 0 to 3 and an event_type")
    digest = _hex(item.get("digest"), f"{path}.digest")
    if len(digest) != 48 or not isinstance(name, str):
        raise EvidenceError(f"{path}: expected a digest of 48 bytes, and text as its event")
    data = _hex(item.get("event_payload", ""), f"{path}.event_payload")
    if kind == DSTACK_RUNTIME_EVENT:
        data = runtime_data(name, data)
        if hashlib.sha384(data).digest() != digest:
            raise EvidenceError(f"{path}: the digest of `{name[:40]}` does not match its name and payload")
    return LogEntry(imr + 1, kind, {ALG_SHA384: digest}, data)


def runtime_data(name: str, payload: bytes) -> bytes:
    """The hashed bytes of a run-time event."""
    return DSTACK_RUNTIME_EVENT.to_bytes(4, "little") + b":" + name.encode("utf-8", "replace") + b":" + payload


def _hex(value: object, path: str) -> bytes:
    if not isinstance(value, str):
        raise EvidenceError(f"{path}: expected hexadecimal text, got {json.dumps(value, default=str)[:40]}")
    try:
        return binascii.unhexlify(value.removeprefix("0x"))
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"{path}: not hexadecimal") from error
